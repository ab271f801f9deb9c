"""What a training step may not look like, and what the error says."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from toys import Net, images, labels, same, train

import amint
from amint.errors import NonFiniteError, RoleOverlapError, SplitError, StepError, UsageError
from amint.metrics import auroc

X, Y, EXTERNAL = images(32), labels(32), images(40, seed=3)
each = pytest.mark.parametrize("trunk_gradient", [1, 0])


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(EXTERNAL)


class Raw(Dataset):
    """Rows that only the loader's own collate_fn can read."""

    def __len__(self):
        return len(EXTERNAL)

    def __getitem__(self, i):
        return object, i


def decoded(items):
    return EXTERNAL[[i for _, i in items]] + 0 * torch.rand(())


def attached(trunk_gradient=1, model=None, external=EXTERNAL, **options):
    model = model or Net(norm=True)
    return model, amint.attach(model, external=external, trunk_gradient=trunk_gradient, **options)


def step(model, audit):
    audit.loss(F.cross_entropy(model(X), Y)).backward()


@each
def test_a_model_called_twice(trunk_gradient):
    model, audit = attached(trunk_gradient)
    model(X)
    with pytest.raises(StepError, match=r"called twice in training mode before audit.loss\(\).*with audit.paused\(\):"):
        model(X)
    step(model, audit)


@each
def test_whoever_goes_on_after_a_step_that_failed_is_told_once_and_trains(trunk_gradient):
    model, audit = attached(trunk_gradient)
    with pytest.raises(RuntimeError):
        audit.loss(F.cross_entropy(model(X), Y.float()))
    with pytest.raises(StepError, match=r"If an earlier step failed on its way to audit.loss\(\), just go on"):
        model(X)
    for _ in range(2):
        step(model, audit)
    assert audit.facts["steps"] == 2


@each
def test_a_model_not_called(trunk_gradient):
    model, audit = attached(trunk_gradient)
    task = F.cross_entropy(model(X), Y)
    audit.loss(task)
    for _ in range(2):
        with pytest.raises(StepError, match=r"no training forward pass .*call model\(x\) in training mode, with grad"):
            audit.loss(task)
    model.eval()
    with pytest.raises(StepError, match="no training forward pass"):
        audit.loss(F.cross_entropy(model(X), Y))
    model.train()
    step(model, audit)


@each
def test_a_training_pass_without_gradients(trunk_gradient):
    model, audit = attached(trunk_gradient)
    for off in (torch.no_grad, torch.inference_mode):
        with off(), pytest.raises(StepError, match=r"training mode without gradients; call model.eval\(\) first"):
            model(X)
    step(model, audit)


def test_what_is_no_state_is_refused():
    _, audit = attached(1.0)
    before = audit.state_dict()
    with pytest.raises(UsageError, match=r"lacks accounting, balance, .*stream; pass audit.state_dict\(\)"):
        audit.load_state_dict({"commitment": None, "head": {}})
    assert audit.state_dict()["counts"] == before["counts"] == {"steps": 0}


def test_a_state_of_a_head_that_was_told_other_truth_is_refused():
    """Its weights would fit, and its scores be wrong."""
    _, audit = attached(1.0)
    state = audit.state_dict()
    state["head_config"] = state["head_config"] | {"smoothing": 0.0}
    with pytest.raises(UsageError, match=r"of another MINT head, which differs in smoothing; attach one with the same"):
        audit.load_state_dict(state)


@each
def test_paused_passes_are_plain(trunk_gradient):
    model, audit = attached(trunk_gradient)
    plain = Net(norm=True)
    plain.load_state_dict(model.state_dict())
    with audit.paused():
        for _ in range(2):
            assert torch.equal(model(X), plain(X))
        with audit.paused(), torch.no_grad():
            assert torch.equal(model(X), plain(X))
        assert torch.equal(model(X), plain(X))
    assert same(model.state_dict(), plain.state_dict())
    assert audit.mixture.stream.state_dict() == {"taken": 0}
    with pytest.raises(StepError, match="no training forward pass"):
        audit.loss(torch.ones(()))
    step(model, audit)


def test_a_loss_that_is_no_scalar():
    model, audit = attached()
    with pytest.raises(UsageError, match=r"audit.loss\(\) needs one scalar loss, got shape \(32,\); average it first"):
        audit.loss(F.cross_entropy(model(X), Y, reduction="none"))


@each
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_rows_are_refused_before_they_spoil_the_model(trunk_gradient, bad):
    model, audit = attached(trunk_gradient)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = X.clone()
    x[5, 0, 3, 3] = bad
    with pytest.raises(NonFiniteError, match=r"1 of 32 member rows of this batch hold NaN or infinity \(rows \[5\]\)"):
        model(x)
    external = EXTERNAL.clone()
    external[:, 1, 0, 0] = bad
    model_2, _ = attached(trunk_gradient, external=external)
    with pytest.raises(NonFiniteError, match=r"32 of 32 external rows of this batch hold NaN or infinity"):
        model_2(X)
    assert same(before, model.state_dict())
    step(model, audit)


@each
@pytest.mark.parametrize("balance", [amint.Weighted, amint.NormalisedByFirst, amint.NormalisedByRunningMean])
def test_a_broken_task_loss_is_named_and_can_be_skipped(trunk_gradient, balance):
    model, audit = attached(trunk_gradient, balance=balance())
    task = F.cross_entropy(model(X), Y)
    with pytest.raises(NonFiniteError, match=r"the task loss is nan; look for NaN .* or lower the learning rate"):
        audit.loss(task * float("nan"))
    step(model, audit)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@each
def test_a_broken_head_is_named(trunk_gradient):
    model, audit = attached(trunk_gradient)
    with torch.no_grad():
        audit.head.join[2].bias.fill_(float("inf"))
    with pytest.raises(
        NonFiniteError, match=r"the MINT loss is inf .*\(first cause: member row 0, member row 1, .*row 2\)"
    ):
        step(model, audit)


def test_a_balance_that_breaks_is_named():
    class Overflowing:
        def combine(self, task, mint):
            return task * 1e30 * 1e30 + mint

    model, audit = attached(balance=Overflowing())
    with pytest.raises(NonFiniteError, match=r"not finite \(first cause: the balance of the two losses"):
        step(model, audit)


@pytest.mark.parametrize(
    "external, message",
    [
        (
            images(20, channels=3),
            r"not run on inputs of shape \(2, 3, 8, 8\) .*Examples and external rows must look like",
        ),
        (torch.randn(20, 5), r"does not run on inputs of shape \(2, 5\) and type torch.float32"),
        ((images(20) * 99).to(torch.uint8), "only floating-point inputs can be traced to the taps, got torch.uint8"),
        (torch.empty(0, 2, 8, 8), "the external data is empty"),
        (DataLoader(TensorDataset(EXTERNAL), batch_size=64, drop_last=True, sampler=range(40)), "yielded nothing"),
        ((batch for batch in [EXTERNAL]), "generator, which gives its rows only once"),
        (7, "expected a DataLoader, a dataset with a length, a tensor of rows or an iterable of batches, got int"),
    ],
)
def test_unusable_external_data_is_refused_when_attaching(external, message):
    model = Net()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UsageError, match=message):
        amint.attach(model, external=external)
    assert [name for name, _ in model.named_modules()] == names
    attached(model=model)


@each
@pytest.mark.parametrize("members", [images(20, side=12), X.long()])
def test_external_rows_unlike_the_members(trunk_gradient, members):
    model, _ = attached(trunk_gradient)
    with pytest.raises(StepError, match=r"external rows are torch.float32 \(2, 8, 8\), members .*; give both the same"):
        model(members)


@each
def test_a_member_that_is_also_external(trunk_gradient):
    model, audit = attached(trunk_gradient, external=torch.cat([EXTERNAL, X[3:4]]))
    with pytest.raises(RoleOverlapError, match=r"1 of 32 rows given as external were already seen as members"):
        train(model, torch.optim.SGD(model.parameters(), 0.1), X, Y, 2, audit, batch=32)


@pytest.mark.parametrize("seen, role", [(X, "members"), (EXTERNAL, "external")])
def test_calibration_rows_that_were_seen(seen, role):
    model, audit = attached()
    train(model, torch.optim.SGD(model.parameters(), 0.1), X, Y, 4, audit)
    rows = torch.cat([images(6, seed=8), seen[:4]])
    with pytest.raises(RoleOverlapError, match=rf"4 of 10 rows given as calibration were already seen as {role}"):
        audit.calibrate(rows)
    assert audit.calibration is None
    assert len(audit.calibrate(images(6, seed=8)).scores) == 6


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_trunk_gradients_out_of_range(value):
    with pytest.raises(UsageError, match=f"trunk_gradient must lie between 0 and 1, got {value}"):
        attached(value)


def test_an_unknown_tap_is_no_fault_of_the_external_data():
    with pytest.raises(SplitError, match="no module 'd'"):
        attached(split="d")


@pytest.mark.parametrize("external, monitor, steps", [(EXTERNAL, 0, 1), (EXTERNAL, 10, 0), (Streamed(), 10, 1)])
def test_monitoring_needs_rows_for_it(external, monitor, steps):
    model, audit = attached(external=external, monitor=monitor)
    for _ in range(steps):
        step(model, audit)
    with pytest.raises(UsageError, match=r"there is nothing to monitor: attach\(monitor=1000\)"):
        audit.monitor()


def test_what_is_monitored():
    model, audit = attached(external=DataLoader(Raw(), collate_fn=decoded), monitor=12)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer, X, Y, 3, audit, batch=8)
    before = torch.get_rng_state()
    measured = audit.monitor()
    assert torch.equal(before, torch.get_rng_state())
    assert {(m.n_members, m.n_nonmembers) for m in measured.values()} == {(16, 12)}
    inside = audit.scores(X[8:24])
    outside = audit.scores(audit.mixture.stream.reserved)
    assert measured["auroc"].value == auroc(np.r_[inside, outside], np.r_[np.ones(16), np.zeros(12)])
