import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import amint
from amint.balance import Balance, NormalisedByFirst, NormalisedByRunningMean, Weighted
from amint.errors import UsageError

losses = st.floats(1e-3, 1e3)
histories = st.lists(st.tuples(losses, losses), min_size=1, max_size=8)


def run(balance, history):
    """Totals, and the gradient weights of both losses, step by step."""
    steps = []
    for values in history:
        task, mint = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values)
        total = balance.combine(task, mint)
        total.backward()
        steps.append([total.item(), task.grad.item(), mint.grad.item()])
    return steps


def test_by_hand():
    history = [(2.0, 0.5), (1.0, 0.25), (4.0, 1.0)]
    assert run(Weighted(task=3, mint=10), history) == [[11, 3, 10], [5.5, 3, 10], [22, 3, 10]]
    assert run(NormalisedByFirst(task=1, mint=10), history) == [[11, 0.5, 20], [5.5, 0.5, 20], [22, 0.5, 20]]
    means = [(2, 0.5), (1.5, 0.375), (2.75, 0.6875)]
    expected = [[t / a + 4 * m / b, 1 / a, 4 / b] for (t, m), (a, b) in zip(history, means, strict=True)]
    for found, wanted in zip(run(NormalisedByRunningMean(mint=4, momentum=0.5), history), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-6)


def test_defaults_are_the_documented_ones():
    assert repr(Weighted()) == "Weighted(task=1, mint=1)"
    assert repr(NormalisedByFirst()) == "NormalisedByFirst(task=1, mint=1)"
    assert repr(NormalisedByRunningMean()) == "NormalisedByRunningMean(task=1, mint=1)"
    assert NormalisedByRunningMean().momentum == 0.99


@settings(deadline=None)
@given(history=histories, a=st.floats(0.01, 100), b=st.floats(0.01, 100))
@pytest.mark.parametrize("make", [NormalisedByFirst, NormalisedByRunningMean])
def test_normalised_totals_do_not_depend_on_the_units_of_the_losses(make, history, a, b):
    plain = run(make(), history)
    scaled = run(make(), [(t * a, m * b) for t, m in history])
    for (total, task, mint), (total2, task2, mint2) in zip(plain, scaled, strict=True):
        assert (total2, task2 * a, mint2 * b) == pytest.approx((total, task, mint), rel=1e-5)


@settings(deadline=None)
@given(history=histories, cut=st.integers(0, 8))
@pytest.mark.parametrize("make", [NormalisedByFirst, NormalisedByRunningMean])
def test_state_round_trip(make, history, cut, tmp_path_factory):
    whole, first, second = make(), make(), make()
    expected = run(whole, history)
    found = run(first, history[:cut])
    path = tmp_path_factory.mktemp("balance") / "state.pt"
    torch.save(first.state_dict(), path)
    second.load_state_dict(torch.load(path, weights_only=True))
    assert found + run(second, history[cut:]) == expected
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("make", [NormalisedByFirst, NormalisedByRunningMean])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_broken_or_empty_step_does_not_set_the_scale(make, bad):
    balance = make()
    for values in ((bad, 1.0), (1.0, bad)):
        total = balance.combine(*map(torch.tensor, values))
        assert torch.isfinite(total) == (bad == 0)
    expected = [balance.task + balance.mint, balance.task / 2, balance.mint / 4]
    assert run(balance, [(2.0, 4.0)])[0] == pytest.approx(expected)


@pytest.mark.parametrize("make", [Weighted, NormalisedByFirst, NormalisedByRunningMean])
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("which", ["task", "mint"])
def test_weights_must_be_positive(make, bad, which):
    with pytest.raises(UsageError, match=f"weight '{which}' must be positive and finite, got {bad}.*trunk_gradient=0"):
        make(**{which: bad})


@pytest.mark.parametrize("bad", [1, -0.1, math.nan])
def test_momentum_must_be_a_share(bad):
    with pytest.raises(UsageError, match=f"momentum must be at least 0 and below 1, got {bad}"):
        NormalisedByRunningMean(momentum=bad)


class Own:
    def combine(self, task, mint):
        return task + 3 * mint


@pytest.mark.parametrize("bad", [Own, Weighted, "weighted", 10, lambda task, mint: task + mint])
def test_what_is_no_balance_is_refused_when_attaching(bad):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with pytest.raises(UsageError, match=r"balance must be an object with a method combine\(task, mint\), got"):
        amint.attach(model, external=torch.randn(20, 4), split="0", balance=bad)


def test_a_users_balance_is_used():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    audit = amint.attach(model, external=torch.randn(20, 4), split="0", balance=Own())
    assert isinstance(Own(), Balance)
    total = audit.loss(model(torch.randn(10, 4)).square().mean())
    torch.testing.assert_close(total.detach(), audit.last.task + 3 * audit.last.mint)
    state = audit.state_dict()
    audit.load_state_dict(state)
    assert state["balance"] == {}
