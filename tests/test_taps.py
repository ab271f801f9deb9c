import contextlib
import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import amint
from amint.errors import StepError
from amint.taps import TrainingHooks, evaluating, observing, observing_calls, prefix, tapped


class Swallowing(nn.Module):
    """A network that catches what its layers raise and does something else instead."""

    def __init__(self, *layers):
        super().__init__()
        self.layers, self.instead = nn.Sequential(*layers), layers[1]

    def forward(self, x):
        try:
            return self.layers(x)
        except Exception:
            return self.instead(x)


class Counting(nn.Module):
    ran = 0

    def forward(self, x):
        self.ran += 1
        return x


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError("the network's own trouble")


def network(*more):
    """Batch statistics, dropout and in-place layers; taps "0", "2" and "5", all of them overwritten behind."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(inplace=True),
        *more,
        nn.Flatten(),
        nn.Linear(48, 3),
    )


def taps_of(model, names=("0", "2", "5")):
    return {name: model.get_submodule(name) for name in names}


def settings(model):
    return [m.training for m in model.modules()], [
        len(value) for m in model.modules() for key, value in vars(m).items() if "hooks" in key
    ]


@pytest.fixture
def x():
    return torch.randn(5, 2, 8, 8)


@pytest.fixture
def seen():
    return []


def hooked(model, seen, rows=None, names=("0", "2", "5")):
    more = (lambda _: None) if rows is None else (lambda _: rows)
    return TrainingHooks(model, taps_of(model, names), more, lambda maps, members: seen.append((maps, members)))


def test_prefix_gives_the_activations_of_the_whole_model(x):
    model = network().train()
    model[2].running_mean.normal_()
    reference = copy.deepcopy(model).eval()
    expected, state = {}, copy.deepcopy(model.state_dict())
    with observing(taps_of(reference), lambda name, _, output: expected.update({name: output.detach().clone()})):
        reference(x)
    for names in (("0",), ("0", "2"), ("2", "5"), ("0", "2", "5")):
        maps = prefix(model, taps_of(model, names), x)
        assert all(torch.equal(found, expected[name]) for found, name in zip(maps, names, strict=True))
        assert not any(found.requires_grad for found in maps)
    # Otherwise the in-place layers would have had nothing to overwrite.
    assert all(found.min() < 0 for found in expected.values())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("wrap", [nn.Sequential, Swallowing])
def test_prefix_runs_nothing_behind_the_deepest_tap(x, wrap):
    counter = Counting()
    model = wrap(nn.Conv2d(2, 4, 3), counter, nn.Conv2d(4, 4, 3), counter, Failing())
    layers = model if wrap is nn.Sequential else model.layers
    (_, found) = prefix(model, {"first": layers[0], "second": layers[2]}, x)
    assert counter.ran == 1
    assert torch.equal(found, layers[2](layers[0](x)))


@pytest.mark.parametrize("trouble", [False, True])
def test_prefix_leaves_modes_and_hooks_as_they_were(x, trouble):
    model = nn.Sequential(network(), Failing())
    model.train()
    model[0][2].eval()
    model[0].register_forward_hook(lambda *_: None)
    before = settings(model)
    if trouble:
        with pytest.raises(KeyError, match="own trouble"):
            prefix(model, {"1": model[1]}, x)
    else:
        prefix(model, {"0.2": model[0][2]}, x)
    assert settings(model) == before


def test_prefix_says_which_tap_did_not_run(x):
    model = network()
    with pytest.raises(StepError, match=r"\['elsewhere'\] did not run"):
        prefix(model, {"elsewhere": nn.Linear(2, 2), "5": model[5]}, x)
    with pytest.raises(StepError, match=r"\['elsewhere'\] did not run"):
        prefix(model, {"elsewhere": nn.Linear(2, 2)}, x)


def test_evaluating_restores_each_module(x):
    model = network().train()
    model[2].eval()
    before = settings(model)
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert settings(model) == before
    with pytest.raises(KeyError), evaluating(model):
        Failing()(x)
    assert settings(model) == before


def test_observing_may_replace_outputs_and_takes_its_hooks_off(x):
    model = network().eval()
    before = settings(model)
    with observing(taps_of(model), lambda name, _, output: torch.zeros_like(output) if name == "5" else None):
        assert torch.equal(model(x), model[6:](torch.zeros(5, 3, 4, 4)))
    with pytest.raises(KeyError), observing(taps_of(model), lambda *_: Failing()(x)):
        model(x)
    assert settings(model) == before


def test_observing_calls_sees_what_goes_in_and_what_comes_out(x):
    model, calls = network().eval(), {}
    before = settings(model)

    def keep(name, module, args, output):
        calls[name] = module, args, output.clone()

    layers = {"0": model[0], "8": model[8]}
    with observing_calls(layers, keep):
        output = model(x)
    assert settings(model) == before
    assert list(calls) == ["0", "8"]
    assert all(
        module is layers[name] and torch.equal(module(*args), out) for name, (module, args, out) in calls.items()
    )
    assert torch.equal(calls["0"][1][0], x)
    assert torch.equal(calls["8"][2], output)


def test_no_other_module_hooks_a_forward_pass():
    found = [p.name for p in Path(amint.__file__).parent.rglob("*.py") if "register_forward" in p.read_text("utf-8")]
    assert found == ["taps.py"]


def test_in_training_the_head_gets_all_rows_and_the_rest_of_the_network_the_members(x, seen):
    counter = Counting()
    model = network(counter).double().train()
    x, rows = x.double(), torch.randn(3, 2, 8, 8).double()
    reference = copy.deepcopy(model)
    hooks = hooked(model, seen, rows)
    torch.manual_seed(1)
    output = model(x)
    ((maps, members),) = seen
    assert members == len(output) == 5
    assert [len(m) for m in maps] == [8, 8, 8]
    # The obvious version: all rows as one batch, the maps copied as they pass, the others' rows thrown away at the end.
    torch.manual_seed(1)
    with observing(taps_of(reference), lambda name, _, out: seen.append(out.clone())):
        expected = reference(torch.cat([x, rows]))
    assert all(torch.equal(a, b) for a, b in zip(maps, seen[1:], strict=True))
    torch.testing.assert_close(output, expected[:5], rtol=1e-12, atol=1e-12)
    output.square().sum().backward()
    expected[:5].square().sum().backward()
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)
    hooks.remove()
    assert settings(model) == settings(reference)


def test_gradients_from_the_head_are_those_of_the_maps_before_anything_overwrote_them(x, seen):
    model, rows = network().double().train(), torch.randn(3, 2, 8, 8).double()
    model[4].p = 0.0
    reference = copy.deepcopy(model)
    hooked(model, seen, rows)
    model(x.double())
    sum(m.square().sum() for m in seen[0][0]).backward()
    shallow = reference[0](torch.cat([x.double(), rows]))
    middle = reference[2](shallow.relu())
    deep = reference[5](middle.relu())
    sum(m.square().sum() for m in (shallow, middle, deep)).backward()
    for p, q in zip(model[:6].parameters(), reference[:6].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["eval", "paused", "no rows", "removed"])
def test_otherwise_the_model_is_the_plain_one(x, seen, how):
    model = network().train(how != "eval")
    plain = copy.deepcopy(model)
    hooks = hooked(model, seen, None if how == "no rows" else x)
    if how == "removed":
        hooks.remove()
        assert settings(model) == settings(plain)
    torch.manual_seed(1)
    with hooks.paused() if how == "paused" else contextlib.nullcontext():
        output = model(x)
    torch.manual_seed(1)
    assert torch.equal(output, plain(x))
    assert seen == []


def test_pauses_nest_and_end(x, seen):
    model = network()
    hooks = hooked(model, seen, x)
    with hooks.paused():
        with pytest.raises(KeyError), hooks.paused():
            Failing()(x)
        model(x)
    assert seen == []
    model(x)
    assert len(seen) == 1


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, *, scale=1, inputs=None):
        return self.last(self.body(inputs * scale))


def test_the_input_may_be_a_keyword(seen):
    model = Keyword()
    hooked(model, seen, torch.randn(2, 4), names=("body",))
    assert model(scale=2, inputs=torch.randn(3, 4)).shape == (3, 2)
    assert [len(m) for m in seen[0][0]] == [5]
    with pytest.raises(StepError, match="without an input tensor"):
        model(scale=2)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_of_a_hooked_model_is_a_plain_model(x, seen, how):
    model = network()
    plain = copy.deepcopy(model)
    hooked(model, seen, x)
    twin = COPIES[how](model)
    for mode in (True, False):
        torch.manual_seed(1)
        found = twin.train(mode)(x)
        torch.manual_seed(1)
        assert torch.equal(found, plain.train(mode)(x))
    assert seen == []
    model(x)
    assert len(seen) == 1


class Wired(nn.Module):
    def __init__(self, wire):
        super().__init__()
        self.wire, self.a, self.b = wire, nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.wire(self, x)


@pytest.mark.parametrize(
    "wire, message",
    [
        (lambda m, x: m.b(m.a(m.a(x))), "the tap 'a' ran twice"),
        (lambda m, x: m.b(m.b(m.a(x))), "the tap 'b' ran twice"),
        (lambda m, x: m.b(x), r"the taps \['a'\] did not run before 'b'"),
        (lambda m, x: m.a(m.b(x)), r"the taps \['a'\] did not run before 'b'"),
        (lambda m, x: m.a(x), r"the taps \['b'\] were not seen .* before torch.compile"),
        (lambda m, x: x, r"the taps \['a', 'b'\] were not seen"),
        (lambda m, x: Failing()(x), None),
    ],
)
def test_taps_that_do_not_fire_once_in_order_are_errors_and_the_next_pass_is_clean(seen, wire, message):
    model = Wired(wire)
    hooked(model, seen, torch.randn(3, 2), names=("a", "b"))
    with pytest.raises(KeyError if message is None else StepError, match=message):
        model(torch.randn(4, 2))
    seen.clear()
    model.wire = lambda m, x: m.b(m.a(x))
    assert len(model(torch.randn(4, 2))) == 4
    assert [members for _, members in seen] == [4]
    assert model.eval()(torch.randn(4, 2)).shape == (4, 2)
    assert len(seen) == 1


def test_a_model_called_without_any_tensor(seen):
    model = network()
    hooked(model, seen, torch.randn(3, 2, 8, 8))
    for args in ((), ("no tensor",), ([torch.randn(2, 2)],)):
        with pytest.raises(StepError, match="without an input tensor as its first argument"):
            model(*args)


def test_a_whole_run_keeps_the_maps_of_the_prefix_and_gives_the_output():
    class Again(nn.Module):
        """Its taps run again behind the deepest one, and what follows them writes in place."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.act(self.b(self.act(self.a(x))))
            return self.act(self.b(self.act(self.a(x))))

    torch.manual_seed(0)
    model, x = Again(), torch.randn(5, 4)
    taps = {"a": model.a, "b": model.b}
    maps, output = tapped(model, taps, x)
    assert all(torch.equal(one, other) for one, other in zip(maps, prefix(model, taps, x), strict=True))
    assert all(bool((found < 0).any()) for found in maps)
    assert torch.equal(output, model(x))
    assert not any(module._forward_hooks for module in model.modules())
