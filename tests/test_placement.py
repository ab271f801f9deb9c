import contextlib
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import Net, images, labels, same, train

import amint
from amint.errors import StepError, UsageError
from amint.heads import head_weights

X, Y, EXTERNAL = images(32), labels(32), images(40, seed=3)


def sequential():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(96, 3),
    )


class Holder(nn.Module):
    """Containers of every kind, and a forward pass with a keyword."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"stem": nn.Conv2d(2, 6, 3), "rest": nn.ModuleList([nn.Conv2d(6, 6, 3)])})
        self.last = nn.Linear(6, 3)

    def forward(self, x, scale=1.0):
        x = torch.relu(self.parts["rest"][0](torch.relu(self.parts["stem"](x))))
        return self.last(x.mean((2, 3))) * scale


MODELS = {
    "net": (lambda: Net(norm=True, dropout=0.2), "b"),
    "sequential": (sequential, "1"),
    "entry of a sequential": (sequential, ["0"]),
    "holder": (Holder, "parts.stem"),
}
each = pytest.mark.parametrize("make, split", MODELS.values(), ids=MODELS)


def traces(model):
    """Everything on the model's modules that attaching might leave behind."""
    hooks = [name for name in vars(model) if "hook" in name]
    return {
        "names": [name for name, _ in model.named_modules()],
        "hooks": [[len(getattr(m, name) or ()) for name in hooks] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "modes": [m.training for m in model.modules()],
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
    }


@each
def test_detaching_restores_everything(make, split):
    model = make()
    plain = copy.deepcopy(model)
    before, keys, metadata = traces(model), list(model.state_dict()), model.state_dict()._metadata
    audit = amint.attach(model, external=EXTERNAL, split=split)
    assert traces(model) != before
    audit.loss(F.cross_entropy(model(X), Y)).backward()
    scores, outputs = audit.score(X), copy.deepcopy(model).eval()(X)
    assert audit.detach() is model
    assert torch.equal(scores, audit.score(X))
    assert set(audit.head.state_dict()) == set(head_weights(audit.head))
    assert torch.equal(outputs, copy.deepcopy(model).eval()(X))
    assert traces(model) == before
    assert list(model.state_dict()) == keys
    assert model.state_dict()._metadata == metadata
    plain.load_state_dict(model.state_dict())
    for training in (True, False):
        outputs = []
        for m in (model, plain):
            torch.manual_seed(1)
            outputs.append(m.train(training)(X))
        assert torch.equal(*outputs)
    assert len(audit.calibrate(images(5, seed=9)).scores) == 5
    audit.detach()
    with pytest.raises(StepError, match="no training forward pass"):
        audit.loss(F.cross_entropy(model(X), Y))
    again = amint.attach(model.train(), external=EXTERNAL, split=split)
    again.loss(F.cross_entropy(model(X), Y)).backward()


@each
def test_state_dicts_are_the_plain_ones_while_attached(make, split):
    plain = make()
    torch.manual_seed(7)
    model = make()
    keys, metadata = list(model.state_dict()), model.state_dict()._metadata
    audit = amint.attach(model, external=EXTERNAL, split=split)
    train(model, torch.optim.SGD(model.parameters(), 0.1), X, Y, 2, audit)
    state = model.state_dict()
    assert list(state) == keys
    assert state._metadata == metadata
    plain.load_state_dict(state, strict=True)
    plain.eval()
    assert torch.equal(plain(X), model.eval()(X))
    other = make().state_dict()
    head = head_weights(audit.head)
    assert str(model.load_state_dict(other, strict=True)) == "<All keys matched successfully>"
    assert same(model.state_dict(), other)
    assert same(head_weights(audit.head), head)


@each
def test_keys_that_really_are_missing_are_still_named(make, split):
    model = make()
    amint.attach(model, external=EXTERNAL, split=split)
    state = model.state_dict()
    gone, _ = state.popitem(last=False)
    with pytest.raises(RuntimeError, match=f'Missing key.*"{gone}"'):
        model.load_state_dict(state)
    found = model.load_state_dict({**state, "mint_head.join.0.bias2": torch.zeros(1)}, strict=False)
    assert found.missing_keys == [gone]
    assert found.unexpected_keys == ["mint_head.join.0.bias2"]


@each
def test_the_head_goes_where_optimizers_and_devices_find_it(make, split):
    model = make()
    before = {id(p) for p in model.parameters()}
    audit = amint.attach(model, external=EXTERNAL, split=split)
    head = {id(p) for p in audit.head.parameters()}
    assert {id(p) for p in model.parameters()} == before | head
    model.double()
    assert audit.head.join[0].weight.dtype == torch.float64


def test_a_sequential_with_its_head_still_counts_its_layers():
    model = sequential()
    amint.attach(model, external=EXTERNAL, split="1")
    assert len(model) == 4


@each
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_a_plain_model(make, split, how):
    model = make()
    audit = amint.attach(model, external=EXTERNAL, split=split)
    audit.loss(F.cross_entropy(model(X), Y)).backward()
    if how == "deepcopy":
        copied = copy.deepcopy(model)
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps(model))  # noqa: S301
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    assert same(copied.state_dict(), model.state_dict())
    steps, taken = audit.facts["steps"], audit.mixture.stream.state_dict()
    outputs = copied.train()(X)
    assert outputs.shape == (32, 3)
    assert (audit.facts["steps"], audit.mixture.stream.state_dict()) == (steps, taken)
    with pytest.raises(StepError, match="no training forward pass"):
        audit.loss(outputs.mean())
    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied.eval()(X), model.eval()(X))
    model.train()
    audit.loss(F.cross_entropy(model(X), Y)).backward()


def test_a_double_precision_model():
    model = Net(norm=True).double()
    x, external = X.double(), EXTERNAL
    audit = amint.attach(model, external=external)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, Y, 3, audit)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert audit.score(x).shape == (32,)
    assert torch.equal(model.eval()(x), audit.detach()(x))


def test_attaching_twice_is_refused():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL)
    message = r"already has a MINT head; call audit.detach\(\) before attaching again"
    with pytest.raises(UsageError, match=message):
        amint.attach(model, external=EXTERNAL)
    with pytest.raises(UsageError, match=message):
        amint.attach(nn.Sequential(model, nn.Softmax(1)), external=EXTERNAL)
    audit.detach()
    amint.attach(model, external=EXTERNAL)


def compiled_in_place():
    model = Net()
    model.compile(backend="eager")
    return model


def compiled_inside():
    model = Net()
    model.b = torch.compile(model.b, backend="eager")
    return model


@pytest.mark.parametrize(
    "make",
    [lambda: torch.compile(Net(), backend="eager"), compiled_in_place, compiled_inside],
    ids=["new", "self", "part"],
)
def test_attaching_after_compiling_is_refused(make):
    with pytest.raises(UsageError, match="compiled already and would run past the taps; attach first, then compile"):
        amint.attach(make(), external=EXTERNAL)


# torch itself raises this one inside a filter of its own, which cannot hide it where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_attaching_behind_the_back_of_a_compiled_model_is_right_or_noticed():
    found = []
    for compile_it in (False, True):
        torch.manual_seed(2)
        model = Net()
        run = torch.compile(model, backend="eager") if compile_it else model
        run(X)
        audit = amint.attach(model, external=EXTERNAL)
        # Whether torch compiles anew for the hooks depends on its version.
        with contextlib.suppress(StepError):
            audit.loss(F.cross_entropy(run(X), Y))
            found.append(audit.last.mint)
    assert all(torch.equal(mint, found[0]) for mint in found)


def test_a_wrapped_model_is_refused():
    with pytest.raises(UsageError, match=r"attach to the model inside DataParallel, before it is wrapped: model\.mod"):
        amint.attach(nn.DataParallel(Net()), external=EXTERNAL)
