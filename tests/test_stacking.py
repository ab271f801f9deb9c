import logging
import math
import re
import weakref
from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from fleet_toys import CLASSES, ON_CPU, K, Module, N, Pool, train
from lightning_toys import BENIGN
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset
from toys import Net, images, labels

from amint.errors import NonFiniteError, UsageError
from amint.fleet import Fleet, open_design
from amint.reference_training import Job, Speeds, measure_speeds
from amint.stacking import Stacked, obstacle

pytestmark = BENIGN


class Plain(Module):
    """No dropout, so that the same batches give the same weights."""

    def __init__(self, rate=0.05):
        super().__init__(rate)
        self.model = Net(norm=True)
        # A bias before a norm has a gradient of nothing but rounding, of which Adam makes steps of full size.
        self.model.a[0].bias = None


class Momentum(Plain):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.rate, momentum=0.9, nesterov=True, weight_decay=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Grouped(Plain):
    """Weight decay by the number of dimensions, and a schedule that needs the trainer."""

    def configure_optimizers(self):
        assert self.model.c.bias.ndim == 1, "made while weights have their own shapes"
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Logging(Plain):
    """Returns a dict, takes no index of the batch, and logs."""

    def training_step(self, batch):
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"rate": self.optimizers().param_groups[0]["lr"], "twice": 2 * loss})
        return {"loss": loss * (1 + self.current_epoch), "other": loss.detach()}


class Kept(Plain):
    """Buffers changed in place and assigned anew, tied weights, a frozen one, a norm that stays still."""

    def __init__(self):
        super().__init__()
        self.twin = nn.Linear(6, CLASSES)
        self.twin.weight = self.model.c.weight
        self.model.b[0].bias.requires_grad_(False)
        self.still = nn.BatchNorm2d(2)
        self.register_buffer("mean", torch.rand(()), persistent=True)
        self.register_buffer("steps", torch.zeros(2, dtype=torch.long))

    def train(self, mode=True):
        super().train(mode)
        self.still.eval()
        return self

    def training_step(self, batch, batch_idx):
        x = self.still(batch[0])
        loss = F.cross_entropy(self.model(x) + self.twin(self.model.b(self.model.a(x)).mean((2, 3))), batch[1])
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        self.steps += 1
        return loss + 0.01 * sum(p.square().sum() for p in self.parameters())


class Remembering(Plain):
    """Keeps a tensor that is no buffer from one step to the next."""

    last = 0.0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.last = 0.9 * self.last + 0.1 * loss.detach()
        return loss * self.last


def far(one, other):
    """The largest difference of two fleets' weights; NaN counts as infinite."""
    worst = 0.0
    for number in range(one.k):
        a, b = (load_file(fleet.weights_path(number)) for fleet in (one, other))
        assert list(a) == list(b)
        assert all(a[name].shape == b[name].shape and a[name].dtype == b[name].dtype for name in a)
        worst = max(
            [worst, *((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())]
        )
    return worst


@pytest.mark.parametrize("module", [Plain, Momentum, Grouped, Logging, Kept, Remembering])
def test_models_trained_at_once_are_those_trained_one_after_the_other(tmp_path, module):
    exact = {**ON_CPU, "precision": "64-true"}
    options = {"make_module": module, "backbone": "", "max_epochs": 3, "trainer_arguments": exact}
    one, other = (train(tmp_path / str(n), at_once=n, **options) for n in (1, K))
    assert far(one, other) < 1e-12
    assert len({other.weights_path(number).read_bytes() for number in range(K)}) == K
    begun = module().state_dict()
    for number in range(K):
        trained = other.model(number).state_dict()
        assert trained["model.a.1.num_batches_tracked"] == 3 * 2 * (2 if module is Kept else 1)
        assert (trained["model.c.weight"] - begun["model.c.weight"]).abs().max() > 0.01
    if "steps" in begun:
        assert (trained["steps"] == 6).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "bf16-mixed"},
        {"precision": "32-true"},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"limit_train_batches": 1, "callbacks": [], "logger": False, "devices": 1},
    ],
)
def test_arguments_of_the_trainer_work_alike(tmp_path, arguments):
    options = {"make_module": Momentum, "trainer_arguments": {**ON_CPU, **arguments}}
    one, other = (train(tmp_path / str(n), at_once=n, **options) for n in (1, 3))
    assert far(one, other) < (5e-3 if "bf16" in str(arguments) else 1e-5)


def stack(*modules, loaders=None, **arguments):
    """Train modules at once, on the same rows in the same order unless loaders are given."""
    loaders = loaders or [torch.utils.data.DataLoader(Pool(), 6) for _ in modules]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(**ON_CPU, **quiet, enable_model_summary=False, **{"max_epochs": 1, **arguments}).fit(
        Stacked(modules), loaders
    )
    return [module.state_dict() for module in modules]


def alike(kind, n=3):
    modules = [kind() for _ in range(n)]
    for module in modules:
        module.load_state_dict(modules[0].state_dict())
    return modules


def test_dropout_is_drawn_for_each_model():
    dropped, kept = stack(*alike(Module)), stack(*alike(Plain))
    assert all(torch.equal(kept[0][name], other[name]) for other in kept for name in kept[0])
    assert len({state["model.c.weight"].sum().item() for state in dropped}) == 3


def test_modules_have_their_own_shapes_afterwards():
    modules = alike(Plain)
    stack(*modules)
    for module in modules:
        assert module.model(images(5)).shape == (5, CLASSES)
        assert {name: p.shape for name, p in module.named_parameters()} == {
            name: p.shape for name, p in Plain().named_parameters()
        }


class Hooked(Plain):
    def on_train_epoch_start(self):
        pass


class ByHand(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class OwnBatches(Plain):
    def training_step(self, dataloader_iter):
        pass


class HookOnWeight(Plain):
    def __init__(self):
        super().__init__()
        self.model.c.weight.register_hook(lambda grad: grad / grad.norm())


class HookOnItself(Plain):
    def __init__(self):
        super().__init__()
        self.on_train_start = lambda: None


@pytest.mark.parametrize(
    "module, arguments, reason",
    [
        (Plain, {"callbacks": [L.Callback()]}, "the trainer's callbacks=.* is meant for one model"),
        (Plain, {"logger": True}, "logger=True"),
        (Plain, {"enable_checkpointing": True}, "enable_checkpointing=True"),
        (Plain, {"gradient_clip_val": 1.0}, "gradient_clip_val=1.0"),
        (Plain, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"}, "gradient_clip_val=1.0"),
        (Plain, {"precision": "16-mixed"}, "precision='16-mixed'"),
        (Plain, {"devices": 2}, "devices=2"),
        (Plain, {"max_time": "00:01:00:00"}, "max_time="),
        (Plain, {"plugins": []}, "plugins="),
        (Hooked, {}, r"Hooked has hooks of its own, .*\['on_train_epoch_start'\]"),
        (HookOnItself, {}, r"\['on_train_start'\]"),
        (ByHand, {}, "ByHand optimizes by hand"),
        (OwnBatches, {}, "OwnBatches reads its batches itself"),
        (HookOnWeight, {}, "hooks on its weights"),
    ],
)
def test_what_is_meant_for_one_model_is_refused_before_anything_is_trained(tmp_path, module, arguments, reason):
    arguments = {**ON_CPU, **arguments}
    with pytest.raises(UsageError, match=f"cannot be trained several at once: .*{reason}.* at_once=1"):
        train(tmp_path, make_module=module, trainer_arguments=arguments, at_once=2)
    assert not any(tmp_path.iterdir())


def test_ordinary_modules_and_arguments_are_not_refused():
    class Usual(Plain):
        example_input_array = torch.zeros(1)

        def validation_step(self, batch, batch_idx):
            pass

        def on_save_checkpoint(self, checkpoint):
            pass

    arguments = {"devices": [1], "gradient_clip_val": None, "precision": "bf16-mixed", "deterministic": True}
    assert obstacle(Usual(), arguments) is None
    assert obstacle(Plain(), {}) is None


class Plateau(Plain):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "monitor": "loss"},
        }


class OwnOptimizer(torch.optim.Adam):
    pass


class Optimized(Plain):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def configure_optimizers(self):
        return self.kind(self.parameters())


class ControlFlow(Plain):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if loss > 1 else 2 * loss


class Unmoved(Plain):
    def training_step(self, batch, batch_idx):
        return None


class Listed(Plain):
    """Reaches its weights past the module, and so would get those of all models."""

    def __init__(self):
        super().__init__()
        self.weights = list(self.parameters())

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + sum(weight.square().sum() for weight in self.weights)


LISTS = weakref.WeakKeyDictionary()


class ListedElsewhere(Plain):
    def __init__(self):
        super().__init__()
        LISTS[self] = list(self.parameters())

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + sum(weight.square().sum() for weight in LISTS[self])


class Drawn(Plain):
    """Has numbers of its own that are no buffer."""

    def __init__(self):
        super().__init__()
        self.factors = torch.rand(3)


@pytest.mark.parametrize(
    "module, reason",
    [
        (partial(Optimized, torch.optim.LBFGS), "LBFGS is not known to treat every weight for itself"),
        (partial(Optimized, OwnOptimizer), "OwnOptimizer is not known"),
        (partial(Optimized, torch.optim.Adagrad), "Adagrad is not known"),
        (Plateau, "ReduceLROnPlateau"),
        (ControlFlow, "one training_step for all gives RuntimeError: .*data-dependent control flow"),
        (Unmoved, "training_step returned NoneType, not a loss"),
        (Listed, "the 2 modules differ in more than their weights and buffers"),
        (ListedElsewhere, "training_step uses weights other than through the attributes"),
        (Drawn, "the 2 modules differ in more than their weights and buffers"),
    ],
)
def test_what_shows_only_in_training_is_refused_too(tmp_path, module, reason):
    with pytest.raises(UsageError, match=f"cannot be trained several at once: {reason}"):
        train(tmp_path, make_module=module, at_once=2)
    assert not list(tmp_path.glob("model_*"))


def test_batches_must_be_tensors_of_equal_shapes(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be trained several at once: .*equal size"):
        stack(*alike(Plain, 2), loaders=[torch.utils.data.DataLoader(Pool(n), 6) for n in (12, 11)])
    named = [(*Pool()[i], f"row {i}") for i in range(N)]
    with pytest.raises(UsageError, match="cannot be trained several at once: one training_step"):
        train(tmp_path, make_module=Plain, dataset=named, at_once=2)


@pytest.mark.parametrize("at_once", [2, 3, 100])
def test_models_with_unequally_many_rows_are_not_mixed(tmp_path, at_once):
    options = {"dataset": TensorDataset(images(25), labels(25)), "k": 6, "make_module": Momentum, "batch_size": 5}
    one = train(tmp_path / "one", at_once=1, **options)
    assert sorted(set(one.members.sum(0))) == [12, 13]
    assert far(one, train(tmp_path / "several", at_once=at_once, **options)) < 1e-5


def test_finished_models_stay_and_the_others_are_trained_at_once(tmp_path):
    whole = train(tmp_path / "whole", make_module=Momentum, at_once=1)
    train(tmp_path / "begun", make_module=Momentum, at_once=1)
    fleet = Fleet.load(tmp_path / "begun", Momentum)
    for number in (1, 2, 3):
        fleet.weights_path(number).unlink()
    kept = fleet.weights_path(0).stat().st_mtime_ns
    again = train(tmp_path / "begun", make_module=Momentum, at_once=2)
    assert far(whole, again) < 1e-5
    assert fleet.weights_path(0).stat().st_mtime_ns == kept


def test_a_group_that_was_not_finished_starts_again(tmp_path):
    class Failing(Pool):
        reads = 0

        def __getitem__(self, i):
            Failing.reads += 1
            if Failing.reads > broken_at:
                raise OSError("out of electricity")
            return super().__getitem__(i)

    # Each fingerprint and label is read first; one of two groups of two is trained, and half of the other one.
    broken_at = math.inf
    whole = train(tmp_path / "whole", make_module=Momentum, dataset=Failing(), at_once=2)
    broken_at = Failing.reads - N // 2
    Failing.reads = 0
    with pytest.raises(OSError, match="out of electricity"):
        train(tmp_path / "broken", make_module=Momentum, dataset=Failing(), at_once=2)
    assert len(open_design(tmp_path / "broken", Momentum).untrained()) == 2
    broken_at = math.inf
    assert far(whole, train(tmp_path / "broken", make_module=Momentum, dataset=Failing(), at_once=2)) == 0


def test_one_model_that_diverges_leaves_the_others_of_its_group_alone(tmp_path):
    class Poisoned(Momentum):
        def __init__(self):
            super().__init__()
            made.append(self)
            # The first is made to look at, the second to hash, the third is model 0.
            if len(made) == 5:
                nn.init.constant_(self.model.c.weight, math.nan)

    made = []
    train(tmp_path / "whole", make_module=Momentum, at_once=1)
    with pytest.raises(NonFiniteError, match=r"reference 2 diverged: .*lower the learning rate"):
        train(tmp_path / "poisoned", make_module=Poisoned, at_once=K)
    assert open_design(tmp_path / "poisoned", Momentum).untrained() == [2]
    for number in (0, 1, 3):
        a, b = (load_file(tmp_path / name / f"model_{number:03d}.safetensors") for name in ("whole", "poisoned"))
        assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@pytest.mark.parametrize("at_once", [0, -1])
def test_a_number_of_models_is_asked_for(tmp_path, at_once):
    with pytest.raises(UsageError, match="at_once must be at least 1, or None"):
        train(tmp_path, at_once=at_once)


def test_on_a_cpu_the_default_is_one_after_the_other_to_the_bit(tmp_path):
    default, one = train(tmp_path / "default"), train(tmp_path / "one", at_once=1)
    assert all(default.weights_path(i).read_bytes() == one.weights_path(i).read_bytes() for i in range(K))


@pytest.fixture(scope="module")
def design(tmp_path_factory):
    """A fleet, its models not wanted any more."""
    return train(tmp_path_factory.mktemp("design"), make_module=Plain, max_epochs=1)


def job(module=Plain, at_once=None, **trainer):
    return Job(module, Pool(), 30, 6, 3, "model", {**ON_CPU, **trainer}, {}, at_once)


def test_both_ways_are_timed_on_copies_that_nobody_keeps(design):
    before = {path: path.stat().st_mtime_ns for path in design.path.iterdir()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    speeds = measure_speeds(job(), design, range(K), {})
    assert torch.equal(torch.rand(3), expected)
    assert speeds.models == K
    assert 1e-5 < speeds.at_once < 1
    assert 1e-5 < speeds.alone < 1
    assert "ms one after the other and" in str(speeds)
    assert {path: path.stat().st_mtime_ns for path in design.path.iterdir()} == before


@pytest.mark.parametrize("arguments", [{"max_steps": 1}, {"max_steps": 3}, {"max_steps": -1}])
def test_short_trainings_can_be_timed(design, arguments):
    assert 0 < measure_speeds(job(**arguments), design, range(2), {}).alone < 10


@pytest.mark.parametrize("module, reason", [(Hooked, "has hooks of its own"), (ControlFlow, "control flow")])
def test_what_cannot_be_trained_at_once_is_not_faster(design, module, reason):
    speeds = measure_speeds(job(module), design, range(2), {})
    assert reason in str(speeds)
    assert speeds.at_once == math.inf
    assert speeds.fastest == 1


def test_the_faster_way_is_taken():
    assert Speeds(8, alone=2.0, at_once=0.5).fastest == 8
    assert Speeds(8, alone=0.5, at_once=2.0).fastest == 1
    assert Speeds(8, alone=1.0, at_once=1.0).fastest == 1


class Late(Momentum):
    """Cannot be trained at once, which shows in the second epoch only."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if self.current_epoch == 0 or loss > 0 else -loss


class OutOfMemory(Momentum):
    def training_step(self, batch, batch_idx):
        if torch._C._functorch.maybe_current_level() is not None:
            raise torch.OutOfMemoryError("no such GPU")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("module, said", [(Late, "cannot be trained several at once"), (OutOfMemory, "no such GPU")])
def test_what_was_measured_and_fails_later_is_trained_one_after_the_other(tmp_path, module, said, monkeypatch, caplog):
    one = train(tmp_path / "one", make_module=module, at_once=1)
    monkeypatch.setattr("amint.reference_training._fastest", lambda *_: 2)
    with caplog.at_level(logging.WARNING, "amint"):
        assert far(one, train(tmp_path / "default", make_module=module)) == 0
    assert f"references [0, 1] are trained one after the other: {said}" in caplog.text.replace("these models ", "")


def test_what_somebody_asks_for_is_not_replaced(tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match="no such GPU"):
        train(tmp_path, make_module=OutOfMemory, at_once=2)


@pytest.mark.parametrize("module", [Momentum, ControlFlow])
def test_the_default_on_a_gpu_measures_and_says_so(tmp_path, module, monkeypatch, caplog):
    monkeypatch.setattr("amint.reference_training._on_cuda", lambda *_: True)
    with caplog.at_level(logging.INFO, "amint"):
        default = train(tmp_path / "default", make_module=module)
    assert (
        "with 4 at once" if module is Momentum else "one after the other: NotStackableError: these models cannot"
    ) in caplog.text
    assert far(default, train(tmp_path / "one", make_module=module, at_once=1)) < (1e-5 if module is Momentum else 1e-9)


@pytest.mark.slow
def test_each_worker_trains_its_share_at_once(tmp_path):
    one = train(tmp_path / "one", make_module=Momentum, at_once=1)
    assert far(one, train(tmp_path / "two", make_module=Momentum, at_once=2, workers=2)) < 1e-5


@pytest.mark.gpu
def test_on_a_gpu_the_faster_way_is_measured_and_taken(tmp_path, caplog):
    # In double precision, as convolutions in single precision may be rounded to ten bits there.
    exact = {"accelerator": "cuda", "precision": "64-true"}
    options = {"make_module": Momentum, "trainer_arguments": exact, "k": 8, "max_epochs": 6, "workers": 1}
    with caplog.at_level(logging.INFO, "amint"):
        default = train(tmp_path / "default", **options)
    assert re.search(r"ms with \d at once", caplog.text)
    for at_once in (1, 8):
        assert far(default, train(tmp_path / str(at_once), at_once=at_once, **options)) < 1e-9


@pytest.mark.gpu
def test_on_a_gpu_both_ways_are_timed(design):
    speeds = measure_speeds(job(accelerator="cuda"), design, range(K), {})
    assert 0 < speeds.at_once < math.inf
    assert 0 < speeds.alone < 1
