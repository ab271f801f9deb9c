import copy
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from amint.calibration import Calibration, benjamini_hochberg, holm
from amint.errors import AlphaError, NonFiniteError, UsageError
from amint.ranksum import rank_sum_p
from amint.set_tests import welch_p

tied = st.lists(st.integers(-8, 8).map(lambda k: k / 8), min_size=1, max_size=40)
reals = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def at_most(repeats, rate):
    """The highest count that chance gives once in 100,000 tests when the true rate is ``rate``."""
    return stats.binom.ppf(1 - 1e-5, repeats, rate)


def test_p_values_by_hand():
    calibration = Calibration([3, 1, 2, 2])
    p = calibration.p_values([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    assert p.tolist() == [1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2]
    assert calibration.p_values([]).tolist() == []
    assert calibration.smallest_p == 0.2
    assert repr(calibration) == "<Calibration: 4 non-members, scores 1 to 3>"


def test_thresholds_by_hand():
    calibration = Calibration([3, 1, 2, 2])
    # p <= 0.2 needs a score above all four; p <= 0.4 may leave one above; 0.6 is not attained because of the tie.
    assert calibration.threshold(0.2) == np.nextafter(3, 4)
    assert calibration.threshold(0.4) == calibration.threshold(0.6) == np.nextafter(2, 3)
    assert calibration.threshold(0.8) == np.nextafter(1, 2)


def test_set_p_values_by_hand():
    calibration = Calibration([1, 2, 3])
    assert calibration.set_p_value([4]) == 1 / 4
    assert calibration.set_p_value([4, 5]) == pytest.approx(1 / 10)
    assert calibration.set_p_value([0, 5]) == pytest.approx(6 / 10)
    assert calibration.set_p_value([0]) == calibration.set_p_value([0, 0, 0, 0]) == 1
    assert Calibration([5]).set_p_value([5, 5, 5]) == 1


@given(st.one_of(tied, reals), st.one_of(tied, reals), st.floats(0.001, 0.999))
def test_the_threshold_and_the_p_values_agree_to_the_last_bit(known, scores, alpha):
    calibration = Calibration(known)
    assume(alpha >= calibration.smallest_p)
    threshold = calibration.threshold(alpha)
    scores = np.r_[scores, known, threshold, np.nextafter(threshold, -np.inf)]
    assert np.array_equal(scores >= threshold, calibration.p_values(scores) <= alpha)


@given(st.integers(1, 300), st.data())
def test_alphas_on_the_grid_of_p_values_are_met_exactly(n, data):
    k = data.draw(st.integers(1, n))
    calibration = Calibration(np.arange(n))
    assert calibration.threshold(k / (n + 1)) == np.nextafter(n - k, np.inf)


@given(tied, st.integers(-9, 9).map(lambda k: k / 8))
def test_one_sample_as_a_set_has_its_own_p_value(known, score):
    calibration = Calibration(known)
    assert calibration.set_p_value([score]) == calibration.p_values([score])[0]


@given(tied, tied)
def test_set_p_values_are_those_of_the_test_that_was_asked_for(known, scores):
    calibration = Calibration(known)
    if len(scores) == 1:
        assert calibration.set_p_value(scores, test="welch") == calibration.p_values(scores)[0]
    else:
        assert calibration.set_p_value(scores, test="welch") == welch_p(scores, known)
        assert calibration.set_p_value(scores, test="rank-sum") == rank_sum_p(np.array(scores), np.array(known))


@given(tied, tied, st.integers(1, 16))
def test_higher_scores_never_have_higher_p_values(known, scores, rise):
    calibration, higher = Calibration(known), np.array(scores) + rise / 8
    assert np.all(calibration.p_values(higher) <= calibration.p_values(scores))
    assert calibration.set_p_value(higher) <= calibration.set_p_value(scores) + 1e-12


def test_a_calibration_is_a_frozen_sorted_copy():
    given_ = np.array([2.0, 1.0], np.float32)
    calibration = Calibration(given_)
    given_[:] = 9
    assert calibration.scores.tolist() == [1, 2]
    assert calibration.scores.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0] = 5
    assert calibration == Calibration([1, 2]) == copy.deepcopy(calibration)
    assert hash(calibration) == hash(Calibration([1, 2]))
    assert calibration != Calibration([1, 3])
    assert calibration != [1, 2]


@pytest.mark.parametrize("alpha, n", [(0.01, 99), (0.05, 19), (0.001, 999), (0.1, 9), (0.5, 1), (0.02, 49), (0.03, 33)])
def test_alpha_needs_so_many_and_no_fewer(alpha, n):
    Calibration(np.arange(n)).check_alpha(alpha)
    if n == 1:
        return
    with pytest.raises(AlphaError) as caught:
        Calibration(np.arange(n - 1)).threshold(alpha)
    said, _, least = str(caught.value).partition(", or an alpha of ")
    assert said == (
        f"alpha={alpha} is out of reach with {n - 1} calibration samples: no p-value can be smaller than "
        f"1/{n} = {1 / n:.3g}. Use at least {n} calibration samples"
    )
    assert least.endswith(" or more.")


@given(st.integers(1, 5_000))
def test_one_over_n_plus_one_is_always_accepted(n):
    calibration = Calibration(np.zeros(n))
    calibration.check_alpha(1 / (n + 1))
    with pytest.raises(AlphaError, match=f"at least {n + 1} calibration") as caught:
        calibration.check_alpha(1 / (n + 2))
    # What the message offers can be typed as it stands, and gives little away.
    least = float(str(caught.value).partition("or an alpha of ")[2].split()[0])
    calibration.check_alpha(least)
    assert least < 1.01 / (n + 1)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, math.nan, math.inf])
def test_impossible_alphas_are_refused(alpha):
    with pytest.raises(AlphaError, match="strictly between 0 and 1"):
        Calibration([1, 2]).check_alpha(alpha)


@pytest.mark.parametrize("alpha", ["0.05", None, [0.05]])
def test_alphas_that_are_no_numbers_are_refused(alpha):
    with pytest.raises(AlphaError, match=r"alpha must be a number between 0 and 1, e\.g\. 0\.01; found") as refused:
        Calibration([1, 2]).check_alpha(alpha)
    assert repr(alpha) in str(refused.value)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Calibration([]), UsageError, "calibration scores are empty"),
        (lambda: Calibration([1, math.nan]), NonFiniteError, "calibration scores: 1 of 2"),
        (lambda: Calibration([1, math.inf]), NonFiniteError, "index 1"),
        (lambda: Calibration([[1.0]]), UsageError, r"shape \(1, 1\)"),
        (lambda: Calibration([1]).p_values([math.nan]), NonFiniteError, "1 of 1"),
        (lambda: Calibration([1]).p_values(1.0), UsageError, "one-dimensional"),
        (lambda: Calibration([1]).set_p_value([]), UsageError, "at least one sample"),
        (lambda: Calibration([1]).set_p_value([math.nan]), NonFiniteError, "scores: 1 of 1"),
        (
            lambda: Calibration([1]).set_p_value([1], test="fisher"),
            UsageError,
            "one of rank-sum, welch; found 'fisher'",
        ),
        (lambda: holm([0.5, 1.5]), UsageError, "found 0.5 to 1.5"),
        (lambda: benjamini_hochberg([math.nan]), NonFiniteError, "p-values"),
    ],
)
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_adjusted_p_values_by_hand():
    p = [0.04, 0.01, 0.03, 0.5]
    assert benjamini_hochberg(p) == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert holm(p) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert len(benjamini_hochberg([])) == len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_lie_between_the_raw_ones_and_bonferroni(p):
    p = np.array(p)
    adjusted, stricter = benjamini_hochberg(p), holm(p)
    bonferroni = np.minimum(p * len(p), 1)
    assert np.all(p <= adjusted + 1e-15)
    assert np.all(adjusted <= stricter + 1e-12)
    assert np.all(stricter <= bonferroni + 1e-12)
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(stricter[order]) >= 0)
    for alpha in (0.01, 0.1, 0.3):
        # Step by step: the smallest p against alpha/m, the next against alpha/(m-1), ... until one fails.
        rejected = np.zeros(len(p), bool)
        for i, index in enumerate(order):
            if p[index] * (len(p) - i) > alpha:
                break
            rejected[index] = True
        assert np.array_equal(stricter <= alpha, rejected)


SHAPES = {"continuous": lambda x: x, "tied": lambda x: np.round(2 * x) / 2, "coin": lambda x: np.float64(x > 1)}


def single_alarms(n, shape, repeats, alpha):
    rng = np.random.default_rng(n)
    alarms = 0
    for _ in range(repeats):
        x = SHAPES[shape](rng.normal(size=n + 1))
        alarms += Calibration(x[1:]).p_values(x[:1])[0] <= alpha
    return alarms


def set_alarms(m, n, shape, repeats, alphas):
    rng = np.random.default_rng(1_000 * m + n)
    p = []
    for _ in range(repeats):
        x = SHAPES[shape](rng.exponential(size=m + n))
        p.append(Calibration(x[m:]).set_p_value(x[:m]))
    return [int((np.array(p) <= alpha).sum()) for alpha in alphas]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [19, 20, 150])
def test_unused_samples_are_rarely_flagged(n, shape):
    assert single_alarms(n, shape, 400, 0.05) <= at_most(400, 0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m, n", [(1, 20), (2, 5), (5, 3), (20, 10)])
def test_unused_sets_are_rarely_flagged(m, n, shape):
    assert set_alarms(m, n, shape, 300, [0.05])[0] <= at_most(300, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [19, 99, 130, 1_000])
def test_single_samples_keep_the_level(n, shape):
    repeats = 10_000
    for alpha in (0.01, 0.05):
        if alpha >= 1 / (n + 1):
            assert single_alarms(n, shape, repeats, alpha) <= at_most(repeats, alpha)
    if shape == "continuous" and (n + 1) % 20 == 0:
        # On the grid the level is met exactly, so that no power is given away either.
        assert single_alarms(n, shape, repeats, 0.05) >= stats.binom.ppf(1e-5, repeats, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [3, 10, 60])
@pytest.mark.parametrize("m", [1, 2, 5, 20])
def test_sets_keep_the_level(m, n, shape):
    repeats = 3_000
    for alpha, alarms in zip((0.01, 0.05), set_alarms(m, n, shape, repeats, (0.01, 0.05)), strict=True):
        assert alarms <= at_most(repeats, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("members", [0, 10, 40])
def test_benjamini_hochberg_keeps_the_false_discovery_rate(members, shape):
    rng, repeats, alpha, m = np.random.default_rng(members), 3_000, 0.1, 50
    shares = []
    for _ in range(repeats):
        calibration = Calibration(SHAPES[shape](rng.normal(size=300)))
        scores = SHAPES[shape](rng.normal(size=m) + 3 * (np.arange(m) < members))
        found = benjamini_hochberg(calibration.p_values(scores)) <= alpha
        shares.append(found[members:].sum() / max(1, found.sum()))
    error = np.std(shares) / math.sqrt(repeats)
    assert np.mean(shares) <= alpha * (m - members) / m + 4.3 * error


@pytest.mark.slow
@pytest.mark.parametrize("members", [0, 25])
def test_holm_keeps_the_chance_of_any_false_alarm(members):
    rng, repeats, alpha, m = np.random.default_rng(members), 4_000, 0.05, 30
    any_false = 0
    for _ in range(repeats):
        calibration = Calibration(rng.normal(size=1_500))
        scores = rng.normal(size=m) + 3 * (np.arange(m) < members)
        any_false += (holm(calibration.p_values(scores)) <= alpha)[members:].any()
    assert any_false <= at_most(repeats, alpha)
