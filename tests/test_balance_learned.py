"""Balances whose weights learn: uncertainty weighting and GradNorm."""

import math

import pytest
import torch
from balance_toys import conflicting, pair
from torchjd.scalarization import UW

from amint.balance import GradNorm, UncertaintyWeighting
from amint.errors import UsageError

HISTORY = [(2.0, 0.5), (1.0, 0.3), (0.5, 0.4), (0.7, 0.01)]
both = pytest.mark.parametrize("make", [UncertaintyWeighting, GradNorm])


def step(balance, task, mint, dtype=torch.float64):
    """The total and the gradients of both losses' own parameters after one step."""
    toy = pair(*conflicting(0))
    if isinstance(balance, GradNorm):
        total = balance.backward(*toy.losses(task, mint))
    else:
        total = balance.combine(*toy.losses(task, mint))
        total.backward()
    return total.item(), toy.task_own.grad[0].item(), toy.mint_own.grad[0].item() / 3


def test_uncertainty_weighting_is_torchjds_trained_along():
    balance, reference = UncertaintyWeighting(learning_rate=0.1), UW(2)
    optimizer = torch.optim.Adam(reference.parameters(), 0.1)
    for task, mint in HISTORY:
        losses = torch.tensor([task, mint], requires_grad=True)
        total = reference(losses)
        optimizer.zero_grad()
        total.backward()
        assert step(balance, task, mint) == pytest.approx((total.item(), *losses.grad.tolist()), rel=1e-6)
        optimizer.step()
        assert balance.log_variances == pytest.approx(reference.log_var.tolist())


def test_uncertainties_become_the_sizes_of_the_losses():
    balance = UncertaintyWeighting(learning_rate=0.05)
    for _ in range(400):
        balance.combine(torch.tensor(20.0), torch.tensor(0.01))
    assert balance.log_variances == pytest.approx((math.log(20), math.log(0.01)), abs=0.05)


def test_the_total_stays_differentiable_after_learning():
    balance = UncertaintyWeighting()
    task, mint = (torch.tensor(v, requires_grad=True, dtype=torch.float64) for v in (2.0, 3.0))
    first, second = balance.combine(task, mint), balance.combine(task, mint)
    (first + second).backward()
    assert task.grad.item() == pytest.approx(0.5 + 0.5 * math.exp(-0.01))
    with torch.no_grad():
        assert not balance.combine(task, mint).requires_grad


def test_gradnorm_adds_the_gradient_of_the_weighted_sum():
    a, b = conflicting(0, ratio=5.0)
    balance = GradNorm(learning_rate=0.1)
    balance.backward(*pair(a, b).losses())
    task, mint = balance.weights
    assert task > 1 > mint > 0
    toy = pair(a, b)
    total = balance.backward(*toy.losses(2.0, 3.0))
    assert total.item() == pytest.approx(2 * task + 3 * mint)
    assert not total.requires_grad
    torch.testing.assert_close(toy.gradient(), task * a + mint * b)
    torch.testing.assert_close(toy.task_own.grad, torch.full((2,), task, dtype=torch.float64))
    torch.testing.assert_close(toy.mint_own.grad, torch.full((3,), 3 * mint, dtype=torch.float64))


@pytest.mark.parametrize("ratio", [30.0, 1e-3])
def test_gradnorm_makes_the_norms_equal_where_both_train_alike(ratio):
    a, b = conflicting(0, ratio=ratio)
    balance = GradNorm(learning_rate=0.1)
    for _ in range(300):
        balance.backward(*pair(a, b).losses())
        assert sum(balance.weights) == pytest.approx(2)
    task, mint = balance.weights
    assert mint * b.norm().item() == pytest.approx(task * a.norm().item(), rel=0.15)


def test_gradnorm_pulls_harder_on_what_trains_slowly():
    a, b = conflicting(0)
    ratios = {}
    for alpha in (0, 0.5, 1.5):
        balance = GradNorm(alpha=alpha, learning_rate=0.05)
        balance.backward(*pair(a, b).losses(1.0, 4.0))
        for _ in range(150):
            balance.backward(*pair(a, b).losses(0.25, 3.0))
        ratios[alpha] = balance.weights[1] / balance.weights[0]
    # Shares 1/4 and 3/4 of the first losses: the norms stand as 1 to 3 ** alpha.
    assert ratios == pytest.approx({0: 1, 0.5: 3**0.5, 1.5: 3**1.5}, rel=0.15)


@both
def test_state_round_trip(make, tmp_path):
    whole, first, second = make(), make(), make()
    expected = [step(whole, *losses) for losses in HISTORY]
    found = [step(first, *losses) for losses in HISTORY[:2]]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found + [step(second, *losses) for losses in HISTORY[2:]] == expected
    assert len({total for total, _, _ in expected}) == len(HISTORY)
    make().load_state_dict(make().state_dict())


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_broken_or_empty_step_teaches_nothing(make, bad):
    balance, untouched = make(), make()
    for losses in ((bad, 1.0), (1.0, bad)):
        toy = pair(*conflicting(0))
        total = (balance.combine if make is UncertaintyWeighting else balance.backward)(*toy.losses(*losses))
        assert bool(torch.isfinite(total)) == (bad == 0)
        assert (toy.task_own.grad is None) == (make is UncertaintyWeighting or bad != 0)
    assert [step(balance, *losses) for losses in HISTORY] == [step(untouched, *losses) for losses in HISTORY]


@both
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_learning_rates_are_positive(make, bad):
    with pytest.raises(UsageError, match=f"learning_rate must be positive and finite, got {bad}"):
        make(learning_rate=bad)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_alpha_is_not_negative(bad):
    with pytest.raises(UsageError, match=f"alpha must be at least 0 and finite, got {bad}"):
        GradNorm(alpha=bad)


def test_representations():
    assert repr(UncertaintyWeighting()) == "UncertaintyWeighting(learning_rate=0.01)"
    assert repr(GradNorm()) == "GradNorm(alpha=1.5, learning_rate=0.025)"
