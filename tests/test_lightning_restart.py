import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_toys import BENIGN, CALIBRATION, EXTERNAL, Plain, Rows, Validated, active_mint, is_clean, loader, trainer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from toys import same

import amint
from amint.errors import UsageError
from amint.randomness import Randomness

pytestmark = [
    *BENIGN,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


class Scheduled(Validated):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


def own_generator(**options):
    return loader(noise=True, shuffle=True, generator=torch.Generator().manual_seed(5), **options)


def own_batch_sampler():
    sampler = RandomSampler(range(48), generator=torch.Generator().manual_seed(5))
    return DataLoader(Rows(noise=True), batch_sampler=BatchSampler(sampler, 16, drop_last=False))


class Endless(torch.utils.data.IterableDataset):
    """Rows without a length, drawn at random: Lightning fetches one batch ahead."""

    def __iter__(self):
        rows = Rows(noise=True)
        return (rows[int(i)] for i in torch.randint(48, (48,)))


class NoisyExternal(torch.utils.data.Dataset):
    """External rows whose transform draws from the global generators."""

    def __len__(self):
        return len(EXTERNAL)

    def __getitem__(self, i):
        return EXTERNAL[i] + 0.01 * (random.random() + torch.rand(()).item() + np.random.rand())  # noqa: NPY002


class Pairs(Plain):
    """Trains on two loaders at a time."""

    def training_step(self, batch, batch_idx):
        (a, b), (c, d) = batch
        return super().training_step((torch.cat([a, c]), torch.cat([b, d])), batch_idx)


class Unindexed(torch.utils.data.IterableDataset):
    """External rows without an index, with noise."""

    def __iter__(self):
        return (row + 0.01 * torch.rand(()) for row in EXTERNAL)


FAST = {
    "shuffled": {},
    "validated": {"lit": Validated, "validation": True},
    "saved_in_validation": {"lit": Validated, "validation": True, "save": {"save_on_train_epoch_end": False}},
    "own_generator": {"data": own_generator},
}
SLOW = {
    "saved_after_validation": {"lit": Validated, "validation": True, "save": {"save_on_train_epoch_end": True}},
    "validated_each_step": {"lit": Validated, "validation": True, "options": {"val_check_interval": 1}},
    "validated_every_other_epoch": {
        "lit": Validated,
        "validation": True,
        "options": {"check_val_every_n_epoch": 2},
        "save": {"save_on_train_epoch_end": True},
    },
    "scheduled": {"lit": Scheduled, "validation": True},
    "own_batch_sampler": {"data": own_batch_sampler},
    "two_loaders": {"data": lambda: [own_generator(), loader(noise=True, shuffle=True)], "lit": Pairs},
    "workers": {"data": lambda: loader(noise=True, shuffle=True, num_workers=1)},
    "without_length": {"data": lambda: DataLoader(Endless(), batch_size=16)},
    "normalised_by_first": {"mint": {"balance": amint.NormalisedByFirst}},
    "normalised_by_running_mean": {"mint": {"balance": amint.NormalisedByRunningMean}},
    "noisy_external": {"mint": {"external": NoisyExternal}},
    "external_without_index": {"mint": {"external": lambda: DataLoader(Unindexed(), 8), "monitor": lambda: 0}},
    "negatives": {"mint": {"negatives": lambda: amint.HardNegatives(amint.one_pixel_shift, members=True)}},
    "accumulated": {"options": {"accumulate_grad_batches": 2}},
    "no_trunk_gradient": {"mint": {"trunk_gradient": lambda: 0}},
}
CASES = [pytest.param(case, id=name) for name, case in FAST.items()]
CASES += [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]


def fit(folder, epochs, resume=None, *, lit=Plain, data=None, validation=False, mint=None, options=None, save=None):
    """One process's life: seed, fresh objects, fit; returns everything that training changes."""
    L.seed_everything(11, verbose=False)
    module = lit()
    callback = active_mint(**{name: make() for name, make in (mint or {}).items()})
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, enable_version_counter=False, **(save or {}))
    run = trainer(callback, keep, max_epochs=epochs, **(options or {}))
    train = data() if data else loader(noise=True, shuffle=True)
    run.fit(module, train, loader(seed=7, noise=True) if validation else None, ckpt_path=resume)
    run.save_checkpoint(folder / f"after_{epochs}.ckpt")
    return {
        "model": module.state_dict(),
        "head": callback.audit.state_dict()["head"],
        "optimizer": flat(run.optimizers[0].state_dict()),
        "schedule": [group["lr"] for group in run.optimizers[0].param_groups],
        "audit": {k: callback.audit.state_dict()[k] for k in ("stream", "balance", "counts", "history")},
        "members": sorted(callback.audit.ledger.state_dict()["members"].tolist()),
        "metrics": {name: float(v) for name, v in run.callback_metrics.items()},
    }


def flat(state):
    return {f"{i}.{name}": torch.as_tensor(v) for i, s in state["state"].items() for name, v in s.items()}


def assert_identical(a, b):
    for name in ("model", "head", "optimizer"):
        assert same(a[name], b[name]), name
    for name in ("schedule", "audit", "members"):
        assert a[name] == b[name], name
    # Metrics of epochs before the stop are not logged again.
    assert a["metrics"].items() <= b["metrics"].items()


@pytest.mark.parametrize("case", CASES)
def test_stopping_after_any_epoch_and_resuming_changes_not_one_bit(tmp_path, case):
    whole = fit(tmp_path / "whole", 3, **case)
    for epochs in (1, 2, 3):
        folder = tmp_path / f"stopped{epochs}"
        stopped = fit(folder, epochs, **case)
        assert same(stopped["model"], whole["model"]) == (epochs == 3)
        resumed = fit(folder, 3, folder / f"epoch={epochs - 1}.ckpt", **case)
        assert ("mint/loss" in resumed["metrics"]) == (epochs < 3)
        assert_identical(resumed, whole)


def test_a_checkpoint_saved_when_fit_is_over_will_do_too(tmp_path):
    calibration = {"calibration": lambda: DataLoader(CALIBRATION, 16, shuffle=True)}
    whole = fit(tmp_path, 2, mint=calibration)
    fit(tmp_path, 1, mint=calibration)
    assert_identical(fit(tmp_path, 2, tmp_path / "after_1.ckpt", mint=calibration), whole)


def test_checkpoints_are_plain_files_that_the_plain_module_loads(tmp_path):
    whole = fit(tmp_path, 1, lit=Scheduled, validation=True)
    path = tmp_path / "epoch=0.ckpt"
    saved = torch.load(path, weights_only=True)
    assert list(saved["state_dict"]) == list(Scheduled().state_dict())
    assert same(saved["callbacks"]["ActiveMint"]["audit"]["head"], whole["head"])
    lit = Scheduled.load_from_checkpoint(path, strict=True)
    assert same(lit.state_dict(), whole["model"])


def test_a_checkpoint_made_without_it_is_refused_and_the_way_out_works(tmp_path):
    plain = Validated()
    run = trainer()
    run.fit(plain, loader(), loader(seed=7))
    run.save_checkpoint(tmp_path / "plain.ckpt")
    names = [name for name, _ in plain.named_modules()]
    fresh, callback = Validated(), active_mint()
    with pytest.raises(
        UsageError, match=r"made without ActiveMint.*Validated\.load_from_checkpoint.*without ckpt_path"
    ):
        trainer(callback, max_epochs=2).fit(fresh, loader(), loader(seed=7), ckpt_path=tmp_path / "plain.ckpt")
    assert is_clean(fresh, names)

    lit = Validated.load_from_checkpoint(tmp_path / "plain.ckpt")
    assert same(lit.state_dict(), plain.state_dict())
    callback = active_mint()
    trainer(callback).fit(lit, loader(), loader(seed=7))
    assert callback.audit.facts["steps"] == 3


class Numbers(L.Callback):
    """The state of torch's generator when epochs start."""

    def __init__(self):
        self.at_epoch = {}

    def on_train_epoch_start(self, trainer, pl_module):
        self.at_epoch[trainer.current_epoch] = torch.get_rng_state()


def test_random_numbers_are_set_back_at_the_start_of_an_epoch_only(tmp_path):
    for name, keep in [
        ("end", ModelCheckpoint(tmp_path, "end")),
        ("middle", ModelCheckpoint(tmp_path, "middle", every_n_train_steps=2)),
    ]:
        trainer(active_mint(), keep).fit(Plain(), loader(shuffle=True))
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        numbers, callback = Numbers(), active_mint()
        run = trainer(callback, keep, numbers, max_epochs=3)
        if name == "middle":
            with pytest.warns(UserWarning, match="ended before the epoch ended"):
                run.fit(Plain(), loader(shuffle=True), ckpt_path=tmp_path / "middle.ckpt")
        else:
            run.fit(Plain(), loader(shuffle=True), ckpt_path=tmp_path / "end.ckpt")
        assert max(numbers.at_epoch) == 2
        set_back = {e for e, state in numbers.at_epoch.items() if torch.equal(state, saved["amint_randomness"]["cpu"])}
        assert set_back == ({1} if name == "end" else set())


def draws(loaders):
    return [
        torch.rand(2).tolist(),
        np.random.rand(2).tolist(),  # noqa: NPY002
        np.random.randn(),  # noqa: NPY002
        random.random(),
        [[x.sum().item() for x, _ in each] for each in loaders],
    ]


def test_randomness_comes_back_through_a_file_of_plain_values(tmp_path):
    loaders = [own_generator(), own_batch_sampler(), loader(shuffle=True)]
    draws(loaders)
    np.random.randn()  # noqa: NPY002  (leaves half of a pair behind)
    torch.save(Randomness.now(loaders).to_state(), tmp_path / "state.pt")
    first = draws(loaders)
    assert draws(loaders) != first

    again = [own_generator(), own_batch_sampler(), loader(shuffle=True)]
    Randomness.from_state(torch.load(tmp_path / "state.pt", weights_only=True)).restore(again)
    assert draws(again) == first
