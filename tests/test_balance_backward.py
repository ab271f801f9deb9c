"""audit.backward: who gets which gradient, in a network with two taps."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_toys import BENIGN, EXTERNAL, Plain, active_mint, loader, trainer
from torch import nn
from torchjd import aggregation
from toys import Net, images, labels, same

import amint
from amint.balance import ConflictAverse, GradNorm, NormalisedByFirst, UncertaintyWeighting, Weighted
from amint.errors import NonFiniteError, StepError, UsageError

pytestmark = BENIGN

X, Y = images(16, seed=6, dtype=torch.float64), labels(16, seed=5)
OUTSIDE = images(40, seed=3, dtype=torch.float64)
AGGREGATORS = {
    "aligned_mtl": aggregation.AlignedMTL,
    "imtl_g": aggregation.IMTLG,
    "mgda": aggregation.MGDA,
    "pcgrad": aggregation.PCGrad,
}
SCALAR = [Weighted, NormalisedByFirst, UncertaintyWeighting]


class Split:
    """Keeps the two losses of a step, with their graphs."""

    def combine(self, task, mint):
        self.losses = task, mint
        return task + mint


def attached(balance, split=("a", "b"), norm=True, external=OUTSIDE, **options):
    torch.manual_seed(0)
    model = Net(norm=norm).to(external.dtype)
    return model, amint.attach(model, external=external, split=split, balance=balance, **options)


def two_gradients(**options):
    """Name -> gradient of the task's loss alone, and of the MINT loss alone."""
    split = Split()
    model, audit = attached(split, **options)
    audit.loss(F.cross_entropy(model(X), Y))
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = (torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in split.losses)
    return tuple({n: g for n, g in zip(names, gradients, strict=True) if g is not None} for gradients in found)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, **tolerance):
    assert sorted(found) == sorted(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **tolerance)


@pytest.mark.parametrize("method", AGGREGATORS)
@pytest.mark.parametrize("trunk_gradient", [1, 0.3])
def test_the_shared_layers_get_the_aggregate_and_the_others_their_own(method, trunk_gradient):
    model, audit = attached(ConflictAverse(method), trunk_gradient=trunk_gradient)
    task, mint = two_gradients(trunk_gradient=trunk_gradient)
    audit.backward(F.cross_entropy(model(X), Y))
    found = gradients(model)
    shared = sorted(task.keys() & mint.keys())
    assert {name.partition(".")[0] for name in shared} == {"a", "b"}
    assert {name.partition(".")[0] for name in task.keys() - mint.keys()} == {"c"}
    assert {name.partition(".")[0] for name in mint.keys() - task.keys()} == {"mint_head"}

    matrix = torch.stack([torch.cat([gradient[name].flatten() for name in shared]) for gradient in (task, mint)])
    expected = AGGREGATORS[method]()(matrix)
    assert matrix[0] @ matrix[1] < 0
    difference = torch.cat([found[name].flatten() for name in shared]) - expected
    assert difference.norm() <= 1e-9 * expected.norm()
    own = {**task, **mint}
    assert_same({n: g for n, g in found.items() if n not in shared}, {n: own[n] for n in own if n not in shared})


@pytest.mark.parametrize("make", SCALAR)
@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_for_a_balance_of_losses_it_is_the_backward_of_the_loss(make, trunk_gradient):
    model, audit = attached(make(), trunk_gradient=trunk_gradient)
    model_2, audit_2 = attached(make(), trunk_gradient=trunk_gradient)
    for _ in range(2):
        audit.backward(F.cross_entropy(model(X), Y))
        audit_2.loss(F.cross_entropy(model_2(X), Y)).backward()
        assert audit.last.total == audit_2.last.total
    assert_same(gradients(model), gradients(model_2), rtol=0, atol=0)


@pytest.mark.parametrize("make", [lambda: ConflictAverse("pcgrad"), GradNorm])
def test_two_backward_passes_add_up(make):
    model, audit = attached(make(), norm=False)
    once = []
    for _ in range(2):
        audit.backward(F.cross_entropy(model(X), Y))
        once.append(gradients(model))
        model.zero_grad()
    model_2, audit_2 = attached(make(), norm=False)
    for _ in range(2):
        audit_2.backward(F.cross_entropy(model_2(X), Y))
    assert_same(gradients(model_2), {name: once[0][name] + once[1][name] for name in once[0]})


def test_a_step_is_booked_as_with_loss():
    model, audit = attached(ConflictAverse("upgrad", of=Weighted(mint=10)))
    plain, other = attached(Weighted())
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, plain)]
    audit.backward(F.cross_entropy(model(X), Y))
    other.backward(F.cross_entropy(plain(X), Y))
    assert (audit.last.task, audit.last.mint) == (other.last.task, other.last.mint)
    torch.testing.assert_close(audit.last.total, audit.last.task + 10 * audit.last.mint)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for m, a in ((model, audit), (plain, other)):
        a.backward(F.cross_entropy(m(X), Y))
        a.calibrate(images(30, seed=9, dtype=torch.float64))
    counts = ("steps", "accounted_updates", "unaccounted_updates")
    assert [audit.facts[c] for c in counts] == [other.facts[c] for c in counts] == [2, 1, 0]
    assert audit.facts["balance"] == "ConflictAverse('upgrad', of=Weighted(task=1, mint=10))"


def test_a_head_that_no_optimizer_moves_is_found():
    model, audit = attached(ConflictAverse("upgrad"))
    head = {id(p) for p in audit.head.parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if id(p) not in head], 0.1)
    audit.backward(F.cross_entropy(model(X), Y))
    optimizer.step()
    with pytest.raises(UsageError, match="the optimizer moved the model but not"):
        audit.backward(F.cross_entropy(model(X), Y))


def test_parameters_outside_the_audited_model_get_their_gradient():
    model, audit = attached(ConflictAverse("upgrad"))
    scale = nn.Parameter(torch.ones(3, dtype=torch.float64))
    audit.backward(F.cross_entropy(model(X) * scale, Y))
    assert scale.grad is not None
    assert scale.grad.any()


@pytest.mark.parametrize("make", [lambda: ConflictAverse("upgrad", of=NormalisedByFirst()), GradNorm])
def test_a_resumed_run_goes_on_as_without_the_stop(make, tmp_path):
    def go_on(model, audit, steps):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(steps):
            audit.backward(F.cross_entropy(model(X), Y))
            optimizer.step()
            optimizer.zero_grad()

    whole, audit = attached(make())
    go_on(whole, audit, 5)
    first, audit = attached(make())
    go_on(first, audit, 3)
    torch.save((first.state_dict(), audit.state_dict()), tmp_path / "state.pt")
    second, audit = attached(make())
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(weights)
    audit.load_state_dict(state)
    go_on(second, audit, 2)
    assert same(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("method", ["upgrad", "pcgrad"])
def test_training_lowers_both_losses(method):
    model, audit = attached(ConflictAverse(method))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    # So long that the head has the time to learn again in its last basis, which it takes after 128 steps.
    for _ in range(200):
        audit.backward(F.cross_entropy(model(X), Y))
        optimizer.step()
        optimizer.zero_grad()
        losses.append((audit.last.task.item(), audit.last.mint.item()))
    assert losses[-1][0] < 0.8 * losses[0][0]
    assert losses[-1][1] < 0.8 * losses[0][1]


def test_bf16_autocast():
    model, audit = attached(ConflictAverse("upgrad"), external=OUTSIDE.float())
    with torch.autocast("cpu", torch.bfloat16):
        task = F.cross_entropy(model(X.float()), Y)
    audit.backward(task)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_float16_autocast_is_refused():
    model, audit = attached(ConflictAverse("upgrad"), external=OUTSIDE.float())
    match = r"float16 autocast: .*GradScaler.*torch\.autocast\('cpu', torch\.bfloat16\), which needs none"
    with torch.autocast("cpu", torch.float16), pytest.raises(UsageError, match=match):
        model(X.float())
    audit.backward(F.cross_entropy(model(X.float()), Y))


@pytest.mark.parametrize("balance", [ConflictAverse("mgda"), GradNorm()])
def test_loss_is_refused_and_names_backward(balance):
    model, audit = attached(balance)
    task = F.cross_entropy(model(X), Y)
    with pytest.raises(UsageError, match=r"balances two gradients.*call audit\.backward\(task_loss\) in place of"):
        audit.loss(task)
    audit.backward(task)
    with pytest.raises(StepError, match="found no training forward pass"):
        audit.backward(task)


def test_a_broken_task_loss_adds_nothing_and_can_be_skipped():
    model, audit = attached(ConflictAverse("upgrad"))
    with pytest.raises(NonFiniteError, match="the task loss is nan"):
        audit.backward(F.cross_entropy(model(X), Y) * float("nan"))
    assert gradients(model) == {}
    assert audit.facts["steps"] == 0
    audit.backward(F.cross_entropy(model(X), Y))


def test_nothing_shared_is_refused():
    with pytest.raises(UsageError, match=r"with trunk_gradient=0 the MINT loss has none.*or Weighted\(\)"):
        attached(GradNorm(), trunk_gradient=0)
    model, audit = attached(ConflictAverse("upgrad"))
    model.a.requires_grad_(False)
    model.b.requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter is reached by both"):
        audit.backward(F.cross_entropy(model(X), Y))


def test_several_processes_are_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"cannot run in 2 processes: .*DistributedDataParallel.* would drift apart"):
        attached(ConflictAverse("upgrad"), world=2)
    model, audit = attached(ConflictAverse("upgrad"))
    with monkeypatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_world_size", lambda: 4)
        with pytest.raises(UsageError, match="cannot run in 4 processes"):
            model(X)
    audit.backward(F.cross_entropy(model(X), Y))


@pytest.mark.parametrize("bad", [ConflictAverse, GradNorm, "upgrad"])
def test_what_is_no_balance_is_refused(bad):
    with pytest.raises(UsageError, match=r"combine\(task, mint\), got .*has backward\(task, mint\) in its place"):
        attached(bad)


class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.audit = amint.attach(self.model, external=EXTERNAL, split="a", balance=ConflictAverse("upgrad"))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.optimizers().zero_grad()
        self.audit.backward(F.cross_entropy(self.model(x), y))
        self.optimizers().step()


def test_lightnings_automatic_optimization_is_refused_and_the_way_out_works():
    match = r"automatic optimization calls backward\(\) on one loss.*automatic_optimization = False.*audit\.backward"
    with pytest.raises(UsageError, match=match):
        active_mint(balance=ConflictAverse("upgrad"))
    lit = Manual()
    before = copy.deepcopy(lit.model.state_dict())
    trainer().fit(lit, loader())
    assert lit.audit.facts["accounted_updates"] == 3
    assert not same(before, lit.model.state_dict())
