from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint import ranksum
from amint.ranksum import rank_sum_p

levels = st.lists(st.integers(0, 4), min_size=1, max_size=5)


def by_enumeration(pooled, m):
    """(p-value of each split, its true chance to be at most that) over all choices of the submission."""
    ranks = stats.rankdata(pooled)
    sums = np.array([ranks[list(c)].sum() for c in combinations(range(len(pooled)), m)])
    return np.array([(sums >= s).mean() for s in sums])


@given(levels, levels)
def test_small_samples_equal_the_full_enumeration(submitted, calibration):
    pooled = np.array(submitted + calibration, float)
    m = len(submitted)
    assert rank_sum_p(pooled[:m], pooled[m:]) == pytest.approx(by_enumeration(pooled, m)[0])


@pytest.mark.parametrize("m, n", [(1, 1), (1, 9), (2, 3), (5, 2), (8, 8), (3, 40), (40, 3), (20, 30)])
@pytest.mark.parametrize("shift", [-2, 0, 0.7, 20])
def test_without_ties_it_equals_scipys_exact_test(m, n, shift):
    rng = np.random.default_rng(m * n)
    x, y = rng.normal(size=m) + shift, rng.normal(size=n)
    expected = stats.mannwhitneyu(x, y, alternative="greater", method="exact").pvalue
    assert rank_sum_p(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("m, n", [(6, 900), (900, 6), (30, 160), (60, 60)])
def test_the_two_exact_methods_agree(m, n):
    rng = np.random.default_rng(m)
    for wins in rng.integers(0, m * n + 1, 5):
        doubled = 2 * np.arange(1, m + n + 1)
        observed = int(2 * wins + m * (m + 1))
        slow = ranksum._exact_tied(m, n, doubled, observed)
        assert ranksum._exact_untied(m, n, int(wins)) == pytest.approx(slow, rel=1e-9)


def test_the_ends_of_the_exact_distribution():
    assert ranksum._exact_untied(3, 4, 0) == 1
    assert ranksum._exact_untied(3, 4, 12) == pytest.approx(1 / 35)
    assert ranksum._exact_untied(8, 100_000, 800_000) == pytest.approx(40_320 / 1e40, rel=1e-3)


def test_large_samples_without_ties_equal_scipys_approximation():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=600) + 0.1, rng.normal(size=800)
    expected = stats.mannwhitneyu(x, y, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p(x, y) == pytest.approx(expected)


def test_heavy_ties_use_permutations_and_say_the_same_twice():
    # 1 % ones: twelve of them in the submission where three would be expected.
    x, y = np.r_[np.ones(12), np.zeros(288)], np.r_[np.ones(8), np.zeros(1_692)]
    exact = stats.hypergeom.sf(11, 2_000, 20, 300)
    assert exact < 1e-4 / 2
    assert rank_sum_p(x, y) == rank_sum_p(x, y) == pytest.approx(1 / (1 + ranksum.PERMUTATIONS))
    weaker = rank_sum_p(np.r_[np.ones(6), np.zeros(294)], np.r_[np.ones(14), np.zeros(1_686)])
    assert weaker == pytest.approx(stats.hypergeom.sf(5, 2_000, 20, 300), rel=0.15)


def test_permutations_do_not_depend_on_how_they_are_drawn():
    rng = np.random.default_rng(0)
    # Many levels and a small submission: the other sampler, in several chunks.
    y = np.round(rng.normal(size=9_000), 3)
    x = np.quantile(y, np.linspace(0.3, 0.99, 12), method="nearest")
    assert len(np.unique(y)) > 1_200
    expected = stats.mannwhitneyu(x, y, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p(x, y) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("m, n", [(1, 1), (2, 5), (5, 2), (50, 50), (400, 300), (300, 9_000)])
def test_constant_scores_are_no_evidence(m, n):
    assert rank_sum_p(np.ones(m), np.ones(n)) == 1


@pytest.mark.parametrize("m, n", [(600, 600), (20_000, 30_000), (1, 10**6)])
def test_a_p_value_is_never_zero_or_above_one(m, n):
    low, high = np.arange(n) * 1.0, np.arange(m) + 1e9
    assert 0 < rank_sum_p(high, low) <= 1 / (n + 1)
    assert 1 - 1e-6 < rank_sum_p(low, high) <= 1


def test_a_few_ties_among_thousands_take_nothing_from_the_resolution():
    rng = np.random.default_rng(0)
    calibration, high = rng.normal(size=5_000), rng.normal(size=20) + 5
    untied = rank_sum_p(high, calibration)
    calibration[:2] = calibration[2]
    assert untied < 1e-30
    assert rank_sum_p(high, calibration) == pytest.approx(untied)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 1.0])
def test_few_ties_count_against_the_submission(shift):
    rng = np.random.default_rng(1)
    calibration, submitted = rng.normal(size=2_000), rng.normal(size=20) + shift
    submitted[:10] = calibration[:10]
    apart = [rank_sum_p(submitted - sign * 1e-9, calibration) for sign in (1, -1)]
    assert rank_sum_p(submitted, calibration) == pytest.approx(apart[0])
    assert apart[0] > apart[1]


def test_minus_zero_ties_with_zero():
    assert rank_sum_p(np.array([0.0, 0.0]), np.array([-0.0, -0.0])) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, m, n, rounding",
    [
        ("rare ones", 40, 400, lambda x: np.float64(x > 1.6)),
        ("rare ones, few calibration samples", 400, 40, lambda x: np.float64(x > 1.6)),
        ("half at the bottom", 60, 500, lambda x: np.maximum(x, 0)),
        ("half at the bottom, balanced", 100, 100, lambda x: np.maximum(x, 0)),
        ("ten levels", 100, 300, lambda x: np.clip(np.round(2 * x), -5, 4)),
        ("one decimal", 45, 2_000, lambda x: np.round(x, 1)),
        ("coin", 80, 120, lambda x: np.float64(x > 0)),
        ("continuous", 9, 300, lambda x: x),
        ("few ties", 20, 600, lambda x: np.where(np.abs(x) < 2.7, x, 3 * np.sign(x))),
    ],
)
def test_large_tied_samples_keep_the_level(name, m, n, rounding):
    rng, repeats = np.random.default_rng(m + n), 3_000
    p = np.array([rank_sum_p(rounding(rng.normal(size=m)), rounding(rng.normal(size=n))) for _ in range(repeats)])
    for alpha in (0.05, 0.01):
        assert (p <= alpha).sum() <= stats.binom.ppf(1 - 1e-5, repeats, alpha), name
