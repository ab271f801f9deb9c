import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning_toys import BENIGN, EXTERNAL, Plain, Validated, active_mint, is_clean, loader, trainer
from toys import Net, same

import amint
from amint.errors import UsageError

pytestmark = BENIGN


def plain_loop(lit, epochs=1, accumulate=1, after_backward=lambda parameters: None):
    """The slow, obvious version of a fit: attach and a loop."""
    model = Net(norm=True)
    model.load_state_dict(lit.model.state_dict())
    audit = amint.attach(model, external=EXTERNAL, split=["a", "b"], monitor=60)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        for i, (x, y) in enumerate(loader()):
            (audit.loss(F.cross_entropy(model(x), y)) / accumulate).backward()
            if (i + 1) % accumulate == 0 or i == 2:
                after_backward(model.parameters())
                optimizer.step()
                optimizer.zero_grad()
    audit.detach()
    return model.state_dict(), audit.state_dict()["head"]


@pytest.mark.parametrize(
    "options, loop",
    [
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
        (
            {"gradient_clip_val": 0.1},
            {"after_backward": lambda p: torch.nn.utils.clip_grad_norm_(p, 0.1)},
        ),
        (
            {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"},
            {"after_backward": lambda p: torch.nn.utils.clip_grad_value_(p, 0.001)},
        ),
        ({"max_epochs": 2, "num_sanity_val_steps": 2}, {"epochs": 2}),
    ],
    ids=["accumulate", "clip_norm", "clip_value", "sanity_steps"],
)
def test_trainer_options_do_what_they_do_in_a_plain_loop(options, loop):
    lit, callback = Validated(dropout=0), active_mint()
    model, head = plain_loop(lit, **loop)
    trainer(callback, **options).fit(lit, loader(), loader(seed=7))
    assert same(lit.model.state_dict(), model)
    assert same(callback.audit.state_dict()["head"], head)


def test_bf16_autocast_trains_head_and_trunk_and_scores_in_float32(tmp_path):
    lit, callback = Validated(), active_mint(bundle=tmp_path / "b.amint")
    fit = trainer(callback, precision="bf16-mixed", max_epochs=2)
    before = {k: v.clone() for k, v in lit.model.state_dict().items()}
    fit.fit(lit, loader(), loader(seed=7))
    assert not torch.equal(lit.model.state_dict()["a.0.weight"], before["a.0.weight"])
    assert callback.audit.score(EXTERNAL).dtype == torch.float32
    assert {p.dtype for p in callback.audit.head.parameters()} == {torch.float32}
    assert 0 <= float(fit.callback_metrics["mint/auroc"]) <= 1
    loaded = amint.load(tmp_path / "b.amint", model=Net(norm=True))
    assert torch.equal(loaded.score(EXTERNAL), callback.audit.score(EXTERNAL))


class Groups(Plain):
    """Two parameter groups by the usual rule, and a schedule."""

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "lr": 0.02}]
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]


def test_parameter_groups_and_a_schedule_hold_for_the_head_too():
    lit, callback = Groups(), active_mint()
    fit = trainer(callback, max_epochs=2)
    fit.fit(lit, loader())
    in_groups = [{id(p) for p in group["params"]} for group in fit.optimizers[0].param_groups]
    for parameter in callback.audit.head.parameters():
        assert id(parameter) in in_groups[0 if parameter.ndim > 1 else 1]
    assert [group["lr"] for group in fit.optimizers[0].param_groups] == pytest.approx([0.0005, 0.0002])


@pytest.mark.parametrize(
    "options, steps",
    [
        ({"limit_train_batches": 2}, 2),
        ({"max_steps": 2, "max_epochs": -1}, 2),
        ({"overfit_batches": 1, "max_epochs": 2}, 2),
    ],
)
def test_short_fits_write_a_bundle_of_what_was_trained(tmp_path, options, steps):
    callback = active_mint(bundle=tmp_path / "b.amint")
    trainer(callback, **options).fit(Validated(), loader(), loader(seed=7))
    assert amint.load(tmp_path / "b.amint", model=Net(norm=True)).facts["steps"] == steps


@pytest.mark.parametrize("options", [{"fast_dev_run": 2}, {"limit_train_batches": 0}])
def test_no_bundle_of_a_trial_run_or_of_nothing(tmp_path, options):
    lit, callback = Validated(), active_mint(bundle=tmp_path / "b.amint")
    names = [n for n, _ in lit.named_modules()]
    trainer(callback, **options).fit(lit, loader(), loader(seed=7))
    assert is_clean(lit, names)
    assert not list(tmp_path.iterdir())
    assert (callback.audit.calibration is None) == (callback.audit.facts["steps"] == 0)


def test_a_trial_run_minds_nothing_that_would_be_in_the_way_of_a_bundle(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    callback = active_mint(bundle=tmp_path)
    trainer(callback, fast_dev_run=True).fit(Validated(), loader(), loader(seed=7))
    with pytest.raises(UsageError, match="something else than a bundle"):
        trainer(active_mint(bundle=tmp_path)).fit(Validated(), loader(), loader(seed=7))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_second_fit_continues_the_audit(tmp_path, same_trainer):
    lit, callback = Plain(), active_mint(bundle=tmp_path / "b.amint")
    first = trainer(callback)
    first.fit(lit, loader())
    head, stream = callback.audit.state_dict()["head"], callback.audit.mixture.stream.state_dict()

    class AtStart(L.Callback):
        def on_train_start(self, *_):
            assert same(callback.audit.state_dict()["head"], head)
            assert callback.audit.mixture.stream.state_dict() == stream

    if same_trainer:
        first.fit_loop.max_epochs = 2
        first.callbacks.append(AtStart())
        first.fit(lit, loader())
    else:
        trainer(callback, AtStart()).fit(lit, loader())

    assert callback.audit.facts["steps"] == 6
    assert not same(callback.audit.state_dict()["head"], head)
    loaded = amint.load(tmp_path / "b.amint", model=Net(norm=True))
    assert torch.equal(loaded.score(EXTERNAL), callback.audit.score(EXTERNAL))


class Stream(torch.utils.data.IterableDataset):
    """External rows without an index."""

    def __iter__(self):
        return iter(EXTERNAL)


def test_external_data_without_an_index_trains_and_says_once_what_is_missing(tmp_path):
    callback = active_mint(external=torch.utils.data.DataLoader(Stream(), batch_size=8), bundle=tmp_path / "b.amint")
    fit = trainer(callback, max_epochs=2)
    with pytest.warns(UserWarning, match=r"mint/auroc and .* will not be logged.*a dataset with a length") as caught:
        fit.fit(Plain(), loader())
    assert sum("mint/auroc" in str(warning.message) for warning in caught) == 1
    assert "mint/loss" in fit.callback_metrics
    assert "mint/auroc" not in fit.callback_metrics
    assert amint.load(tmp_path / "b.amint", model=Net(norm=True)).facts["steps"] == 6


def test_monitor_zero_asks_for_no_curves_and_is_quiet():
    fit = trainer(active_mint(monitor=0))
    fit.fit(Plain(), loader())
    assert "mint/loss" in fit.callback_metrics
    assert "mint/auroc" not in fit.callback_metrics


class Forward(Plain):
    def forward(self, batch):
        return self.model(batch[0])


def test_validate_test_and_predict_without_fit_do_nothing():
    lit, callback = Validated(), active_mint()
    names = [n for n, _ in lit.named_modules()]
    run = trainer(callback)
    run.validate(lit, loader(), verbose=False)
    run.test(lit, loader(), verbose=False)
    run.predict(Forward(), loader())
    assert callback.audit is None
    assert is_clean(lit, names)


def test_after_fit_validate_test_and_predict_leave_module_and_audit_alone(tmp_path):
    lit, callback = Validated(), active_mint()
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_top_k=-1)
    names = [n for n, _ in lit.named_modules()]
    fit = trainer(callback, best, max_epochs=3)
    fit.fit(lit, loader(), loader(seed=7))
    scores = callback.audit.score(EXTERNAL)
    fit.validate(lit, loader(), verbose=False)
    assert torch.equal(callback.audit.score(EXTERNAL), scores)
    assert callback.audit.calibration is not None

    fit.test(ckpt_path=str(tmp_path / "epoch=0.ckpt"), dataloaders=loader(), verbose=False)

    assert is_clean(lit, names)
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert same(callback.audit.state_dict()["head"], saved["callbacks"]["ActiveMint"]["audit"]["head"])
    assert callback.audit.calibration is None, "it was made with other weights"
    assert fit.test(ckpt_path="best", dataloaders=loader(), verbose=False)[0].keys() == {"test_loss"}


def test_weight_averaging_behind_it_ends_up_in_the_bundle(tmp_path):
    lit, callback = Plain(), active_mint(bundle=tmp_path / "b.amint")
    trainer(callback, StochasticWeightAveraging(0.01, swa_epoch_start=1), max_epochs=3).fit(lit, loader())
    loaded = amint.load(tmp_path / "b.amint", model=Net(norm=True))
    assert same(loaded.backbone.state_dict(), lit.model.state_dict())
    assert torch.equal(loaded.score(EXTERNAL), callback.audit.score(EXTERNAL))
