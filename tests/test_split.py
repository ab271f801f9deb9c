import contextlib
import re

import pytest
import torch
from torch import nn

from amint.errors import SplitError
from amint.split import resolve_split, tap_points

SETUPS = ("entry", "middle", "output")


def traces(model):
    """Everything a dry run could leave behind."""
    hooks = [value for m in model.modules() for key, value in vars(m).items() if "hooks" in key]
    return (
        [m.training for m in model.modules()],
        [len(found) for found in hooks],
        [(p.grad is None, p.requires_grad) for p in model.parameters()],
        [(k, v.clone()) for k, v in model.state_dict().items()],
        torch.get_rng_state(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def conv(channels, out):
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


class Parts(nn.Module):
    """A network of named parts; ``wire(parts, x)`` is its forward pass."""

    def __init__(self, wire, **parts):
        super().__init__()
        self.wire = wire
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.wire(self, x)


def block(channels):
    wire = lambda m, x: m.relu(m.body(x) + x)  # noqa: E731
    return Parts(wire, body=nn.Sequential(conv(channels, channels), nn.Conv2d(channels, channels, 1)), relu=nn.ReLU())


def linear():
    return nn.Linear(8, 8)


def gate(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


REFUSED = ("tuple", "remembers the batch", "batch second", "hidden skip", "hidden mean")
IMAGE, VECTOR, SEQUENCE = (1, 8, 8), (8,), (2, 8)
ODD = {
    "residual": (IMAGE, lambda: nn.Sequential(conv(1, 4), block(4), block(4), head(4))),
    "dense": (
        IMAGE,
        lambda: Parts(lambda m, x: m.d(torch.cat([y := m.a(x), m.b(y)], 1)), a=conv(1, 4), b=conv(4, 4), d=head(8)),
    ),
    "long skip": (
        IMAGE,
        lambda: Parts(lambda m, x: m.d(torch.cat([x, m.b(m.a(x))], 1)), a=conv(1, 4), b=conv(4, 4), d=head(5)),
    ),
    "gate": (IMAGE, lambda: Parts(lambda m, x: m.d((y := m.a(x)) * m.g(y)), a=conv(1, 4), g=gate(4), d=head(4))),
    "twice": (VECTOR, lambda: Parts(lambda m, x: m.c(m.b(m.a(m.a(x)))), a=linear(), b=linear(), c=linear())),
    "tuple": (SEQUENCE, lambda: Parts(lambda m, x: m.c(m.a(x)[0][:, -1]), a=nn.GRU(8, 8), c=linear())),
    "unused": (VECTOR, lambda: Parts(lambda m, x: m.c(m.a(x)), a=linear(), b=linear(), c=linear())),
    "transformer": (SEQUENCE, lambda: nn.Sequential(transformer(), nn.Flatten(), nn.Linear(16, 3))),
    # Where every setup is refused, for rows or their number get past the taps unseen by autograd.
    "remembers the batch": (
        IMAGE,
        lambda: Parts(
            lambda m, x: m.c(m.b(m.a(x)).reshape(len(x), -1)), a=conv(1, 4), b=conv(4, 1), c=nn.Linear(64, 3)
        ),
    ),
    "batch second": (
        SEQUENCE,
        lambda: Parts(lambda m, x: m.b(m.a(x.transpose(0, 1)).transpose(0, 1)).mean(1), a=linear(), b=linear()),
    ),
    "hidden skip": (
        VECTOR,
        lambda: Parts(lambda m, x: m.c(m.a(x) + m.b(x.detach())), a=linear(), b=linear(), c=linear()),
    ),
    "hidden mean": (VECTOR, lambda: Parts(lambda m, x: m.c(m.a(x) + x.detach().mean(0)), a=linear(), c=linear())),
}


def can_be_cut(model, name, x):
    """The slow, obvious answer: drop the other rows there and see whether the members' outputs stay."""
    ran = []

    def drop(_module, _args, output):
        ran.append(name)
        return output[: len(x)].clone()

    plain = model(x)
    handle = model.get_submodule(name).register_forward_hook(drop)
    try:
        output = model(torch.cat([x, torch.randn(3, *x.shape[1:], dtype=x.dtype)]))
        return len(ran) == 1 and output.shape == plain.shape and torch.allclose(output, plain, rtol=1e-9)
    except (RuntimeError, TypeError, AttributeError):
        return False
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ODD)
def test_modules_resolve_exactly_where_a_trial_cut_changes_nothing(kind):
    shape, make = ODD[kind]
    model, x = make().double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    names = [name for name, _ in model.named_modules() if name]
    with torch.no_grad():
        cuttable = [name for name in names if can_be_cut(model, name, x)]
        ends = [name for name in cuttable if torch.equal(output_of(model, name, x), model(x))]
    for name in names:
        if name in cuttable and name not in ends:
            assert [p.name for p in resolve_split(model, name, x)] == [name]
            continue
        with pytest.raises(SplitError) as refusal:
            resolve_split(model, [name], x)
        for nearest in re.findall("nearest module that works is '(.*)'", str(refusal.value)):
            assert nearest in cuttable
            assert nearest not in ends


def output_of(model, name, x):
    outputs = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _a, output: outputs.append(output))
    model(x)
    handle.remove()
    return outputs[-1]


@pytest.mark.parametrize("split", SETUPS)
@pytest.mark.parametrize("kind", ODD)
def test_setups_find_a_right_cut_or_are_refused(kind, split):
    shape, make = ODD[kind]
    model, x = make().double().eval(), torch.randn(2, *shape, dtype=torch.float64)
    if kind in REFUSED:
        with pytest.raises(SplitError, match=r"Choose another split|no module of this network can be tapped"):
            resolve_split(model, split, x)
        return
    names = [p.name for p in resolve_split(model, split, x)]
    with torch.no_grad():
        assert can_be_cut(model, names[-1], x)


PLAIN = {
    "one conv": (IMAGE, lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(144, 3))),
    "blocks": (IMAGE, lambda: nn.Sequential(conv(1, 4), nn.MaxPool2d(2), conv(4, 8), nn.Flatten(), nn.Linear(128, 3))),
    "flat": ((3, 16, 24), lambda: nn.Sequential(*conv(3, 4), nn.MaxPool2d(2), *conv(4, 8), nn.MaxPool2d(2), *head(8))),
    "mlp": (VECTOR, lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))),
    "deep mlp": (
        VECTOR,
        lambda: nn.Sequential(*(nn.Sequential(linear(), nn.ReLU(True)) for _ in range(5)), nn.Linear(8, 3)),
    ),
}


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_networks_have_two_taps_a_setup(kind, rows):
    shape, make = PLAIN[kind]
    model, x = make(), torch.randn(rows, *shape)
    names = [p.name for p in tap_points(model, x)]
    pairs = [[p.name for p in resolve_split(model, split, x)] for split in SETUPS]
    first = [names.index(shallow) for shallow, _ in pairs]
    assert pairs == [names[i : i + 2] for i in first]
    assert first == sorted(first)
    assert first[0] == 0
    assert first[-1] == len(names) - 2


def test_layers_listed_in_one_container_are_stages_of_their_own():
    features = nn.Sequential(*(layer for c in (1, 4, 8, 8) for layer in (*conv(c, {1: 4}.get(c, 8)), nn.MaxPool2d(2))))
    model = nn.Sequential()
    model.add_module("features", features)
    model.add_module("pre_logits", nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    model.add_module("head", head(8))
    entry = resolve_split(model, "entry", torch.randn(2, 1, 16, 16))
    assert all(p.name.startswith("features.") for p in entry)
    assert entry[-1].cost < 0.5


def test_blocks_inside_one_module_that_does_all_the_work_are_stages():
    shape, make = ODD["transformer"]
    points = tap_points(make(), torch.randn(2, *shape))
    assert [p.name for p in points] == ["0.layers.0", "0.layers.1", "0.layers.2"]
    assert {p.layout for p in points} == {"tokens"}


def test_names_come_back_from_shallow_to_deep():
    shape, make = ODD["residual"]
    x = torch.randn(2, *shape)
    assert [p.name for p in resolve_split(make(), ["2", "0.0", "1"], x)] == ["0.0", "1", "2"]
    assert [p.name for p in resolve_split(make(), "1", x)] == ["1"]


@pytest.mark.parametrize(
    "split, message",
    [
        ("bodi", "no module 'bodi'; near names: .*'1.body'"),
        (["1", "nothing"], "no module 'nothing'"),
        ("", "no module ''"),
        (["1", "1"], r"different module names, got \['1', '1'\]"),
        ([], "one or more"),
        ("1.body.0.0", "inside a residual block.*nearest module that works is '0'"),
        ("3.2", "at the very end.*nearest module that works is '3.1'"),
    ],
)
def test_names_that_cannot_be_used_are_explained(split, message):
    shape, make = ODD["residual"]
    with pytest.raises(SplitError, match=message):
        resolve_split(make(), split, torch.randn(2, *shape))


@pytest.mark.parametrize("kind, name", [("twice", "a"), ("tuple", "a"), ("unused", "b")])
def test_modules_that_give_no_single_tensor_once_are_explained(kind, name):
    shape, make = ODD[kind]
    with pytest.raises(SplitError, match=f"'{name}' does not run exactly once a forward pass, or does not return one"):
        resolve_split(make(), name, torch.randn(2, *shape))


@pytest.mark.parametrize(
    "model, x, message",
    [
        (nn.Linear(8, 3), torch.zeros(2, 8), "no module of this network can be tapped"),
        (nn.Sequential(nn.Linear(8, 3)), torch.zeros(2, 8), "no module of this network can be tapped"),
        (PLAIN["mlp"][1](), torch.zeros(2, 9), r"does not run on inputs of shape \(2, 9\)"),
        (PLAIN["mlp"][1](), torch.zeros(2, 8).double(), "type torch.float64"),
        (nn.Embedding(5, 3), torch.zeros(2, 8).long(), "floating-point inputs .* got torch.int64"),
        (Parts(lambda m, x: m.a(x).detach(), a=linear()), torch.zeros(2, 8), "does not depend on its input"),
    ],
)
@pytest.mark.parametrize("split", ["entry", "output"])
def test_networks_and_inputs_that_cannot_be_used_are_explained(model, x, message, split):
    with pytest.raises(SplitError, match=message):
        resolve_split(model, split, x)


def test_rows_that_are_not_finite_are_no_reason_to_refuse_a_split():
    shape, make = PLAIN["mlp"]
    model, x = make(), torch.randn(3, *shape)
    x[0, 0], x[1, 0] = torch.nan, torch.inf
    assert resolve_split(model, "entry", x) == resolve_split(model, "entry", torch.randn(3, *shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    shape, make = ODD["residual"]
    points = resolve_split(make().to(dtype), "output", torch.randn(2, *shape, dtype=dtype))
    assert [p.name for p in points] == ["1", "2"]


def raising(_parts, _x):
    raise KeyError("the network's own trouble")


@pytest.mark.parametrize("split", [*SETUPS, "1", "1.body", "nothing", "raises"])
@pytest.mark.parametrize("kind", ["residual", "remembers the batch", "long skip"])
def test_the_model_is_left_exactly_as_it_was(kind, split):
    shape, make = ODD[kind]
    model = nn.Sequential(make(), nn.Dropout(0.5))
    if split == "raises":
        model.append(Parts(raising))
        split = "entry"
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].eval()
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    before = traces(model)
    with contextlib.suppress(SplitError):
        resolve_split(model, split, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert same(traces(model), before)
