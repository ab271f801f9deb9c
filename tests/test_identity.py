import abc
import copy
import functools
import logging
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torchmetrics
from audit_toys import audit_of, images
from hypothesis import given
from hypothesis import strategies as st
from lightning_toys import BENIGN
from target_toys import Wrapped, labels, trained_a_little
from torch import nn

from amint.identity import content_digest, model_digest
from amint.queries import Queries
from amint.taps import TrainingHooks, observing
from amint.targets import AuditedModel, ClassifierTarget

CHANGES = {
    "weight": lambda model: model.classifier.weight.data[0, 0].add_(1e-3),
    "buffer": lambda model: model.entry[1].running_mean.add_(1e-3),
    "activation": lambda model: setattr(model.middle, "1", nn.GELU()),
    "attribute": lambda model: setattr(model.entry[1], "eps", 1e-3),
    "precision": lambda model: model.double(),
    "order": lambda model: setattr(model, "last", nn.Sequential(*reversed(model.last))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_identity_changes_with_the_model(change):
    model = trained_a_little()
    target, before = ClassifierTarget(model), ClassifierTarget(copy.deepcopy(model)).identity()
    assert target.identity() == before
    CHANGES[change](model)
    assert target.identity() != before


def test_identity_changes_with_the_probes_and_the_code():
    model, audit = trained_a_little(), audit_of()
    once = Wrapped(lambda z: z)
    twice = Wrapped(lambda z: z * 2)
    twice.body = once.body
    variants = [
        ClassifierTarget(model),
        ClassifierTarget(model, taps="middle"),
        ClassifierTarget(model, taps="last"),
        ClassifierTarget(model, classes=4),
        ClassifierTarget(model, queries=Queries(count=3)),
        ClassifierTarget(model, queries=Queries(seed=1)),
        ClassifierTarget(audit.backbone, audit=audit),
        AuditedModel(audit),
        ClassifierTarget(once),
        ClassifierTarget(twice),
    ]
    assert len({target.identity() for target in variants}) == len(variants)


def test_identity_ignores_what_does_not_change_the_signals():
    model = trained_a_little()
    target = ClassifierTarget(model)
    before = target.identity()
    model.train(not model.training)
    model.requires_grad_(False)
    target.measure((images(2), labels(2)), {"logprob"})
    assert target.identity() == before


def test_identity_ignores_the_hooks_of_an_audit():
    model = trained_a_little()
    before = model_digest(model)
    hooks = TrainingHooks(model, {"middle": model.middle}, lambda x: None, lambda maps, n: None)
    assert model_digest(model) == model_digest(copy.deepcopy(model)) == before
    with observing({"middle": model.middle}, lambda *_: None):
        assert model_digest(model) == before
    hooks.remove()
    assert model_digest(model) == before


def doubled(_module, _arguments, output):
    return output * 2


@pytest.mark.parametrize(
    "add",
    [
        lambda layer: layer.register_forward_hook(doubled),
        lambda layer: layer.register_forward_hook(functools.partial(doubled)),
        lambda layer: layer.register_forward_pre_hook(lambda _, arguments: (arguments[0] * 2,)),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda _: nn.modules.module.register_module_forward_hook(doubled),
    ],
)
def test_identity_changes_with_a_hook_and_comes_back_without(add):
    model = trained_a_little()
    before = model_digest(model)
    handle = add(model.classifier)
    try:
        hooked = model_digest(model)
        assert hooked == model_digest(model)
    finally:
        handle.remove()
    assert hooked != before
    assert model_digest(model) == before


@dataclass
class Config:
    scale: float = 1.0
    more: list = field(default_factory=list)


class Slotted:
    __slots__ = ("scale", "unset")

    def __init__(self, scale):
        self.scale = scale


class Forgetful:
    """It leaves out of a pickle what it computes with."""

    def __init__(self, scale):
        self.scale = scale

    def __getstate__(self):
        return {}


class Kind(Enum):
    ONE, TWO = 1, 2


class Named(dict):
    pass


def named(scale):
    found = Named(a=1)
    found.scale = scale
    return found


def captured(scale):
    return lambda x: x * scale


def defaults(scale):
    def scaled(x, *, by=scale):
        return x * by

    return scaled


def cyclic(scale):
    found = [scale]
    found.append(found)
    return found


class Holder:
    scale = 1

    def __init__(self, scale):
        self.scale = scale

    def forward(self, x):
        return x * self.scale


def class_with(scale):
    class Made(abc.ABC):  # noqa: B024
        by = scale

        @functools.cached_property
        def later(self):
            return self.by

        @property
        def now(self):
            return super().__hash__()

        @staticmethod
        def alone():
            return 1

        @functools.lru_cache  # noqa: B019
        def kept(self):
            return 2

    return Made


def referred(scale):
    holder.append(Holder(scale))
    return weakref.ref(holder[-1])


holder = []
VALUES = {
    "array": lambda v: np.full(3, v),
    "array of objects": lambda v: np.array([v, "text"], dtype=object),
    "masked array": lambda v: np.ma.masked_equal([1, 2, 3], v),
    "structured array": lambda v: np.array([(v, 2)], dtype=[("a", "i4"), ("b", "f4")]),
    "shape": lambda v: np.zeros((v, 2 // v)),
    "numpy type": lambda v: np.zeros(2, f"int{8 * v}"),
    "numpy scalar": np.float32,
    "numpy generator": np.random.default_rng,
    "ufunc": lambda v: (np.add, np.subtract)[v - 1],
    "tensor": lambda v: torch.full((2,), v),
    "torch generator": lambda v: torch.Generator().manual_seed(v),
    "parameters in a list": lambda v: [nn.Parameter(torch.full((2,), float(v)))],
    "module in a list": lambda v: [nn.Sequential(nn.Dropout(v / 4))],
    "dataclass": Config,
    "dataclass, deep": lambda v: Config(more=[{"a": Config(v)}]),
    "slots": Slotted,
    "left out of a pickle": Forgetful,
    "set": lambda v: {"a", "b", v},
    "set of tuples": lambda v: {("a", "b"), ("c", v)},
    "frozen set in a dict": lambda v: {"a": frozenset({v})},
    "order of a dict": lambda v: dict.fromkeys((1, 2)[:: 2 * v - 3]),
    "dict of one's own": named,
    "partial": lambda v: functools.partial(captured, v),
    "partial, by name": lambda v: functools.partial(captured, scale=v),
    "partial, function": lambda v: functools.partial((captured, defaults)[v - 1], 1),
    "closure": captured,
    "closure, deep": lambda v: captured(captured(np.full(2, v))),
    "default": defaults,
    "method": lambda v: Holder(v).forward,
    "code": lambda v: (lambda x: x + 1) if v == 1 else (lambda x: x + 2),
    "code, names": lambda v: (lambda x: x.real) if v == 1 else (lambda x: x.imag),
    "code, nested": lambda v: (lambda x: [a + 1 for a in x]) if v == 1 else (lambda x: [a + 2 for a in x]),
    "library function": lambda v: (torch.relu, torch.sigmoid)[v - 1],
    "library function, in Python": lambda v: (nn.functional.gelu, nn.functional.max_pool2d)[v - 1],
    "class": class_with,
    "object of a class": lambda v: class_with(v)(),
    "cycle": cyclic,
    "reference": referred,
    "enum": Kind,
    "path": lambda v: Path("a") / str(v),
    "fraction": Fraction,
    "logger": lambda v: logging.getLogger(f"amint.tests.{v}"),
    "named and plain": lambda v: (1, "1")[v - 1],
    "signed zero": lambda v: (0.0, -0.0)[v - 1],
    "yes and one": lambda v: (True, 1)[v - 1],
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_an_attribute_counts_by_its_content(make):
    model = trained_a_little()
    model.attribute = make(1)
    before = model_digest(model)
    assert model_digest(model) == before
    model.attribute = make(1)
    assert model_digest(model) == before
    model.attribute = make(2)
    assert model_digest(model) != before


def test_an_attribute_changed_in_place_counts():
    model = trained_a_little()
    model.config, model.array, model.scale = Config(more=[1]), np.zeros(2), captured(np.zeros(2))
    before = model_digest(model)
    for change in (
        lambda: model.config.more.append(2),
        lambda: model.array.__setitem__(0, 1),
        lambda: model.scale.__closure__[0].cell_contents.__setitem__(0, 1),
    ):
        change()
        assert model_digest(model) != before
        before = model_digest(model)


def test_an_attribute_of_the_class_counts(monkeypatch):
    model = Wrapped(torch.relu)
    before = model_digest(model)
    monkeypatch.setattr(Wrapped, "forward", lambda self, x: self.body(x))
    assert model_digest(model) != before
    monkeypatch.undo()
    assert model_digest(model) == before
    monkeypatch.setattr(Wrapped, "scale", 2, raising=False)
    assert model_digest(model) != before


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        lambda: (row for row in []),
        lambda: captured(threading.Lock()),
        lambda: Config(more=[threading.Lock()]),
        lambda: np.frompyfunc(abs, 1, 1),
        lambda: torch.jit.script(nn.Linear(2, 2)),
        lambda: torch.eye(2).to_sparse(),
        lambda: functools.reduce(lambda inner, _: [inner], range(500), 1),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_what_cannot_be_told_has_no_digest_that_comes_again(make):
    model = trained_a_little()
    model.held = [make()]
    assert model_digest(model) != model_digest(model)
    assert model_digest(model, lenient=True) == model_digest(model, lenient=True)
    with torch.no_grad():
        before = model_digest(model, lenient=True)
        model.classifier.bias += 1
    assert model_digest(model, lenient=True) != before


def test_a_hook_that_cannot_be_told_has_no_digest_that_comes_again():
    model, lock = trained_a_little(), threading.Lock()
    model.classifier.register_forward_hook(lambda *_: lock and None)
    assert model_digest(model) != model_digest(model)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner))


@given(NESTED)
def test_copies_of_data_have_equal_digests_and_wrapped_data_others(value):
    assert content_digest(value) == content_digest(copy.deepcopy(value))
    assert len({content_digest(value), content_digest([value]), content_digest((value,))}) == 3


@pytest.mark.filterwarnings(*(mark.args[0] for mark in BENIGN))
def test_a_lightning_module_is_the_same_before_and_after_it_was_fitted():
    class Fitted(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"rate": 0.1})
            self.model, self.accuracy = nn.Linear(2, 2), torchmetrics.MetricCollection([torchmetrics.MeanMetric()])

        def training_step(self, batch, batch_idx):
            return self.model(batch).sum() * 0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.zeros(4, 2), 2)

    module = Fitted()
    before = model_digest(module)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **options).fit(module)
    assert module._trainer is not None
    assert model_digest(module) == before
    module.hparams.rate = 0.2
    assert model_digest(module) != before


STABLE = """
import sys
sys.path.insert(0, {tests!r})
import timm, torch, torchmetrics, torchvision
from torch import nn
from target_toys import trained_a_little
from amint.identity import model_digest
from amint.targets import ClassifierTarget
made = [
    lambda: timm.create_model("resnet10t", pretrained=False),
    lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False),
    lambda: torchvision.models.resnet18(weights=None),
    lambda: torchvision.models.mobilenet_v3_small(weights=None),
    lambda: nn.LSTM(2, 3),
    lambda: nn.TransformerEncoderLayer(8, 2),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    lambda: torch.compile(nn.Linear(2, 2)),
    lambda: nn.Sequential(nn.Linear(2, 2), torchmetrics.Accuracy("multiclass", num_classes=3)),
]
for make in made:
    torch.manual_seed(0)
    model = make()
    model.names = {{"a", "b", "c", ("d", "e")}}
    print(model_digest(model))
print(ClassifierTarget(trained_a_little()).identity())
"""


def test_equal_models_have_equal_digests_in_other_processes():
    script = STABLE.format(tests=str(Path(__file__).parent))
    told = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        found = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        told.append(found.stdout.split())
    assert told[0] == told[1]
    assert len(set(told[0])) == 10
