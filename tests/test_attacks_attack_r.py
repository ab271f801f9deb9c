import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks_references import EXACT, SCORED, VECTORS, changed, fleet, vector_signals

from amint.attacks.attack_r import AttackR
from amint.metrics import auroc
from amint.signals import Signals


def slow_interpolated(loss, reference_losses, inside):
    """Row by row through numpy's own interpolation, as in the authors' code."""
    scores = []
    for x, references, seen in zip(loss, reference_losses, inside, strict=True):
        knots = np.sort(np.r_[references[~seen], 0.0, 1000.0])
        scores.append(1 - np.interp(x, knots, np.linspace(0, 1, len(knots))))
    return np.array(scores)


def slow_share(loss, reference_losses, inside):
    return np.array([np.mean(r[~s] >= x) for x, r, s in zip(loss, reference_losses, inside, strict=True)])


SLOW = {"interpolated": slow_interpolated, "share": slow_share}
both = pytest.mark.parametrize("method", SLOW)


@pytest.mark.parametrize("method, entry", [("interpolated", "attack_r_interpolated"), ("share", "attack_r_plain")])
def test_the_score_equals_the_reference_vectors(method, entry):
    x, _ = vector_signals()
    assert AttackR(method).score(x) == pytest.approx(VECTORS[entry], **EXACT)


@both
def test_the_score_equals_loops(method):
    slow = SLOW[method](-SCORED["logprob"], -SCORED["reference_logprob"], SCORED["reference_in"])
    np.testing.assert_allclose(AttackR(method).score(SCORED), slow, rtol=0, atol=1e-12)


LOSSES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 999.0, 1000.0, 1000.5, 5000.0])


@both
@given(st.lists(st.lists(LOSSES, min_size=4, max_size=4), min_size=1, max_size=6))
@settings(deadline=None)
def test_tied_and_huge_losses_equal_loops(method, rows):
    """Losses of 0, of the largest knot, and above it, in any ties."""
    table = np.array(rows)
    inside = np.tile([False, False, True], (len(table), 1))
    signals = Signals({"logprob": -table[:, 0], "reference_logprob": -table[:, 1:], "reference_in": inside})
    expected = SLOW[method](table[:, 0], table[:, 1:], inside)
    np.testing.assert_allclose(AttackR(method).score(signals), expected, rtol=0, atol=1e-12)


@both
def test_scores_are_shares(method):
    scores = AttackR(method).score(SCORED)
    assert scores.min() >= 0
    assert scores.max() <= 1


@both
def test_in_references_are_not_looked_at(method):
    other = np.where(SCORED["reference_in"], -50.0, SCORED["reference_logprob"])
    again = AttackR(method).score(changed(SCORED, reference_logprob=other))
    np.testing.assert_array_equal(again, AttackR(method).score(SCORED))


def test_the_share_takes_few_values_and_interpolation_breaks_the_ties():
    share, interpolated = (AttackR(method).score(SCORED) for method in ("share", "interpolated"))
    assert len(np.unique(share)) == 5
    assert len(np.unique(interpolated)) == len(SCORED)
    # Between the same two references the interpolated score is within one step of the share.
    assert np.abs(interpolated - share).max() <= 1 / 5 + 1e-12


def test_calibration_finds_members_that_the_loss_cannot():
    signals, is_member = fleet(n=4000, k=16, seed=6, gain=1.0)
    assert auroc(AttackR().score(signals), is_member) > auroc(signals["logprob"], is_member) + 0.03
