import csv
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning_toys import BENIGN, CALIBRATION, EXTERNAL, Plain, Rows, Validated, active_mint, is_clean, loader, trainer
from toys import Net, images, same

import amint
from amint.heads import head_weights

pytestmark = BENIGN

METRICS = {"mint/loss", "mint/auroc", "mint/tpr_at_fpr_0.01"}


@pytest.mark.parametrize("kind", [Plain, Validated])
def test_one_callback_logs_trains_and_leaves_the_module_as_it_was(kind, tmp_path):
    lit, callback = kind(), active_mint()
    names, keys = [n for n, _ in lit.named_modules()], list(lit.state_dict())
    fit = trainer(callback, max_epochs=2, logger=CSVLogger(tmp_path))

    fit.fit(lit, loader(shuffle=True), loader(seed=7) if kind is Validated else None)

    assert is_clean(lit, names)
    assert list(lit.state_dict()) == keys
    assert fit.callback_metrics.keys() >= METRICS
    with (Path(fit.logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in METRICS:
        values = [float(row[name]) for row in rows if row.get(name)]
        assert len(values) == 2, f"{name} once an epoch"
        assert values[-1] == pytest.approx(float(fit.callback_metrics[name]), rel=1e-6)
    assert callback.audit.facts["steps"] == 6
    assert callback.audit.ledger.count("members") == 48


def test_the_module_trains_as_with_attach_in_a_plain_loop():
    lit, model = Plain(dropout=0), Net(norm=True)
    model.load_state_dict(lit.model.state_dict())
    callback = active_mint(balance=amint.Weighted(mint=3))
    trainer(callback, max_epochs=2).fit(lit, loader())

    audit = amint.attach(model, external=EXTERNAL, split=["a", "b"], balance=amint.Weighted(mint=3), monitor=60)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(2):
        for x, y in loader():
            audit.loss(F.cross_entropy(model(x), y)).backward()
            optimizer.step()
            optimizer.zero_grad()
    audit.detach()

    assert same(lit.model.state_dict(), model.state_dict())
    assert same(callback.audit.state_dict()["head"], audit.state_dict()["head"])


def test_without_trunk_gradient_the_module_trains_as_without_amint():
    weights = []
    for callbacks in [[], [active_mint(trunk_gradient=0)]]:
        L.seed_everything(3, verbose=False)
        lit = Validated()
        trainer(*callbacks, max_epochs=2).fit(lit, loader(noise=True, shuffle=True), loader(seed=7))
        weights.append(lit.state_dict())
    assert same(*weights)


@pytest.mark.parametrize("name", ["model.amint", "model.zip"])
def test_the_bundle_is_written_at_the_end_and_scores_as_the_audit_does(tmp_path, name):
    lit, callback = Plain(), active_mint(bundle=tmp_path / name)
    trainer(callback, max_epochs=2).fit(lit, loader(shuffle=True))

    audit = amint.load(tmp_path / name, model=Net(norm=True))

    x = images(20, seed=8)
    assert torch.equal(audit.score(x), callback.audit.score(x))
    assert np.array_equal(audit.calibration.scores, callback.audit.calibration.scores)
    assert same(audit.backbone.state_dict(), lit.model.state_dict())
    assert audit.facts["steps"] == 6
    assert audit.facts["members_seen"] == 48
    assert len(audit.calibration.scores) == len(CALIBRATION)


def test_the_head_can_be_trained_on_alone_after_the_fit_and_saved_again(tmp_path):
    callback, lit = active_mint(bundle=tmp_path / "model.amint"), Plain()
    trainer(callback, max_epochs=2).fit(lit, loader())
    network, first = lit.model.state_dict(), amint.load(tmp_path / "model.amint", model=Net(norm=True))
    callback.audit.train_head(Rows().x, epochs=5)
    callback.audit.calibrate(CALIBRATION)
    callback.audit.save(tmp_path / "again.amint")
    again = amint.load(tmp_path / "again.amint", model=Net(norm=True))
    assert same(network, lit.model.state_dict())
    assert again.facts["head_epochs"] == 5
    assert again.facts["steps"] == first.facts["steps"]
    assert again.facts["unaccounted_updates"] == again.facts["replaced_weights"] == 0
    assert not same(head_weights(first.head), head_weights(again.head))


def test_logged_auroc_points_the_right_way_on_an_overfitted_toy():
    lit, callback = Plain(norm=False, dropout=0), active_mint(balance=amint.Weighted(mint=5))
    fit = trainer(callback, max_epochs=20)
    fit.fit(lit, loader(32))
    assert float(fit.callback_metrics["mint/auroc"]) > 0.9
    unseen = callback.audit.scores(images(200, seed=9))
    assert np.median(callback.audit.scores(Rows(32).x)) > np.quantile(unseen, 0.75)


@pytest.mark.parametrize("kind, validation", [(Plain, None), (Validated, loader(seed=7))])
def test_early_stopping_and_model_checkpoint_can_watch_mint_auroc(tmp_path, kind, validation):
    stop = EarlyStopping("mint/auroc", mode="max", patience=1, min_delta=1.0)
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="mint/auroc", mode="max", save_top_k=2)
    fit = trainer(active_mint(), stop, best, max_epochs=9)
    fit.fit(kind(), loader(), validation)
    assert fit.current_epoch == 2, "nothing improves by 1.0 on the first epoch"
    saved = {Path(path).name: float(value) for path, value in best.best_k_models.items()}
    assert saved.keys() == {"epoch=0.ckpt", "epoch=1.ckpt"}
    assert saved["epoch=0.ckpt"] == pytest.approx(float(stop.best_score))
    assert saved["epoch=1.ckpt"] == pytest.approx(float(fit.callback_metrics["mint/auroc"]))


def test_mint_loss_is_the_mean_over_the_steps_and_auroc_is_of_this_epochs_members():
    class Watch(L.Callback):
        def __init__(self, mint):
            self.mint, self.losses, self.recent = mint, [], []

        def on_train_batch_end(self, *_):
            self.losses.append(self.mint.audit.last.mint)

        def on_train_epoch_end(self, *_):
            self.recent.append(sum(map(len, self.mint.audit.recent)))

    callback = active_mint(monitor=60)
    watch = Watch(callback)
    fit = trainer(callback, watch, max_epochs=2)
    fit.fit(Plain(), loader())
    assert watch.recent == [48, 48]
    expected = callback.audit.monitor()["auroc"].value
    assert float(fit.callback_metrics["mint/loss"]) == pytest.approx(float(torch.stack(watch.losses[3:]).mean()))
    assert float(fit.callback_metrics["mint/auroc"]) == pytest.approx(expected)


class Answers(Plain):
    """training_step may answer with a loss, a dict, or nothing."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.outputs, self.weights = answer, [], []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.answer == "none" and batch_idx == 1:
            return None
        return {"loss": loss, "extra": batch_idx} if self.answer == "dict" else loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.outputs.append(outputs)
        self.weights.append(self.model.c.weight.detach().clone())


def test_training_step_may_return_a_dict():
    lit, callback = Answers("dict"), active_mint(balance=amint.Weighted(mint=2))
    trainer(callback).fit(lit, loader())
    assert [out["extra"] for out in lit.outputs] == [0, 1, 2]
    assert lit.outputs[-1]["loss"] == pytest.approx(float(callback.audit.last.total))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_training_step_may_skip_a_batch():
    lit, callback = Answers("none"), active_mint()
    trainer(callback).fit(lit, loader())
    assert callback.audit.facts["steps"] == 2
    assert torch.equal(lit.weights[1], lit.weights[0])
    assert not torch.equal(lit.weights[2], lit.weights[1])


class Itself(Net, L.LightningModule):
    """The LightningModule is the network."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_the_module_itself_may_be_the_network(tmp_path, trunk_gradient):
    lit = Itself(norm=True)
    names, keys = [n for n, _ in lit.named_modules()], list(lit.state_dict())
    callback = active_mint(backbone="", bundle=tmp_path / "b.amint", trunk_gradient=trunk_gradient)
    trainer(callback).fit(lit, loader())
    assert is_clean(lit, names)
    assert list(lit.state_dict()) == keys
    loaded = amint.load(tmp_path / "b.amint", model=Itself(norm=True))
    assert torch.equal(loaded.score(EXTERNAL), callback.audit.score(EXTERNAL))
