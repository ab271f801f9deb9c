"""Every way to the word "used", on data where nothing was used: it may not come up more often than alpha.

A count is judged against the highest that chance gives once in 100,000 tests at the allowed rate: methods that are
known to be wrong must exceed it, which shows that these tests can fail.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from amint.calibration import Calibration, benjamini_hochberg, holm
from amint.conditional import ConditionalCalibration
from amint.ranksum import rank_sum_p
from amint.set_tests import combined_p, discriminant, permutation_p, scaled_sum, separation, split_test, welch_p

pytestmark = pytest.mark.slow

REPEATS = 2_000
ALPHAS = (0.05, 0.01)
SHAPES = {
    "continuous": lambda x: x,
    "tied": lambda x: np.round(2 * x) / 2,
    "coin": lambda x: np.float64(x > 0.5),
    "saturated": lambda x: np.minimum(x, -1.8),
    "long left tail": lambda x: -np.exp(-1.5 * x),
}
SIZES = [(1, 20), (2, 120), (5, 3), (5, 100), (20, 10)]
shapes = pytest.mark.parametrize("shape", SHAPES)
sizes = pytest.mark.parametrize("m, n", SIZES)


def at_most(repeats, rate):
    return stats.binom.ppf(1 - 1e-5, repeats, rate)


def p_values(draw, seed, repeats=REPEATS):
    rng = np.random.default_rng(seed)
    return np.array([draw(rng) for _ in range(repeats)])


def keeps_the_level(p, alphas=ALPHAS):
    return all((p <= alpha).sum() <= at_most(len(p), alpha) for alpha in alphas)


def scores(rng, shape, m, n):
    x = SHAPES[shape](rng.normal(size=m + n))
    return x[:m], x[m:]


@shapes
@pytest.mark.parametrize("n", [19, 99, 130])
def test_single_samples(n, shape):
    def draw(rng):
        x, y = scores(rng, shape, 1, n)
        return Calibration(y).p_values(x)[0]

    assert keeps_the_level(p_values(draw, n))


@shapes
@pytest.mark.parametrize("m, n", [(1, 20), (2, 120), (5, 500), (50, 200), (300, 120)])
def test_lists_in_which_nothing_was_used(m, n, shape):
    # With nothing to discover any discovery is a false one, so that its chance is the false-discovery rate.
    def draw(rng):
        x, y = scores(rng, shape, m, n)
        return benjamini_hochberg(Calibration(y).p_values(x)).min()

    assert keeps_the_level(p_values(draw, m + n))


@shapes
def test_lists_in_which_half_was_used(shape):
    rng, alpha, m, members = np.random.default_rng(1), 0.05, 40, 20
    shares = []
    for _ in range(REPEATS):
        x, y = scores(rng, shape, m, 400)
        x[:members] = SHAPES[shape](rng.normal(size=members) + 4)
        found = benjamini_hochberg(Calibration(y).p_values(x)) <= alpha
        shares.append(found[members:].sum() / max(1, found.sum()))
    assert np.mean(shares) <= alpha * (m - members) / m + 4.3 * np.std(shares) / np.sqrt(REPEATS)


@shapes
@sizes
@pytest.mark.parametrize("test", ["rank-sum", "welch"])
def test_sets(test, m, n, shape):
    def draw(rng):
        x, y = scores(rng, shape, m, n)
        return Calibration(y).set_p_value(x, test=test)

    assert keeps_the_level(p_values(draw, 100 * m + n))


@pytest.mark.parametrize("m, n", [(60, 90), (100, 400)])
def test_welch_where_the_approximation_is_used(m, n):
    assert keeps_the_level(p_values(lambda rng: welch_p(*scores(rng, "continuous", m, n)), 0))


@pytest.mark.parametrize("shape, m, n", [("long left tail", 5, 100), ("saturated", 2, 120), ("coin", 2, 120)])
@pytest.mark.filterwarnings("ignore:(Precision loss|invalid value|divide by zero):RuntimeWarning")
def test_textbook_welch_is_caught(shape, m, n):
    def draw(rng):
        p = stats.ttest_ind(*scores(rng, shape, m, n), equal_var=False, alternative="greater").pvalue
        return 1 if np.isnan(p) else p

    assert not keeps_the_level(p_values(draw, 0))


def test_a_thousand_sets_of_twenty():
    rng = np.random.default_rng(0)
    p = np.array([Calibration(rng.normal(size=500)).set_p_value(rng.normal(size=20)) for _ in range(1_000)])
    assert (p <= 0.01).sum() <= 17


def features(rng, m, n, d=4, shape="continuous"):
    rows = SHAPES[shape](rng.normal(size=(m + n, d)) @ np.triu(np.ones((d, d))))
    return rows[:m], rows[m:]


@pytest.mark.parametrize("m, n, shape", [(1, 8, "coin"), (2, 3, "coin"), (5, 20, "continuous"), (20, 10, "coin")])
def test_permuted_pipelines(m, n, shape):
    def draw(rng):
        return permutation_p(*features(rng, m, n, shape=shape), separation, permutations=99)

    assert keeps_the_level(p_values(draw, m))


@pytest.mark.parametrize("shape", ["continuous", "coin"])
@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.parametrize("m, n", [(2, 5), (5, 30), (30, 12)])
def test_splits(m, n, splits, shape):
    def draw(rng):
        return split_test(*features(rng, m, n, shape=shape), splits=splits)

    assert keeps_the_level(p_values(draw, m))


def cross_fitted(x, y, folds=5):
    """Every row scored by a discriminant that was fitted on the other folds, then all tested as if independent."""
    sides = [np.zeros(len(x)), np.zeros(len(y))]
    for fold in range(folds):
        out = [np.arange(len(side)) % folds == fold for side in (x, y)]
        kept = np.concatenate([x[~out[0]], y[~out[1]]])
        scorer = discriminant(kept, np.arange(len(kept)) < (~out[0]).sum())
        for side, rows, chosen in zip(sides, (x, y), out, strict=True):
            side[chosen] = scorer(rows[chosen])
    return sides


def test_cross_fitted_scores_are_caught():
    assert not keeps_the_level(p_values(lambda rng: rank_sum_p(*cross_fitted(*features(rng, 100, 100, 26))), 0, 500))


def dependent_p_values(rng, alpha=0.05):
    """Two p-values, each uniform, that depend on one another in the worst way for their mean."""
    p = rng.random()
    return p, (2 * alpha - p if p < 2 * alpha else p)


def test_the_plain_mean_of_p_values_is_caught_and_twice_the_mean_is_not():
    assert keeps_the_level(p_values(lambda rng: combined_p(dependent_p_values(rng)), 0))
    assert not keeps_the_level(p_values(lambda rng: np.mean(dependent_p_values(rng)), 0))
    for which in (0, 1):
        assert keeps_the_level(p_values(lambda rng, which=which: dependent_p_values(rng)[which], 0))


@pytest.mark.parametrize("shape", ["continuous", "tied", "coin"])
@pytest.mark.parametrize("test", [rank_sum_p, welch_p])
def test_several_attacks_with_holm(test, shape):
    def draw(rng):
        x, y = features(rng, 5, 12, 3, shape)
        return holm([test(x[:, attack], y[:, attack]) for attack in range(3)]).min()

    assert keeps_the_level(p_values(draw, 0))


def test_the_best_of_several_attacks_without_holm_is_caught():
    def draw(rng):
        x, y = rng.normal(size=(5, 3)), rng.normal(size=(12, 3))
        return min(rank_sum_p(x[:, attack], y[:, attack]) for attack in range(3))

    assert not keeps_the_level(p_values(draw, 0))


def classes(rng, shape, size, shares, gap=3.0):
    groups = rng.choice(len(shares), size=size, p=shares)
    return SHAPES[shape](rng.normal(size=size) + gap * groups), groups


@shapes
@pytest.mark.parametrize("m, n", [(1, 20), (2, 5), (5, 3), (5, 60), (20, 10), (60, 300)])
def test_sets_stratified_by_class(m, n, shape):
    def draw(rng):
        # The submission holds other classes than the calibration: what stratifying is for.
        y, known = classes(rng, shape, n, [0.6, 0.3, 0.1])
        x, groups = classes(rng, shape, m, [0.1, 0.3, 0.6])
        return ConditionalCalibration(y, known).set_p_value(x, groups)

    assert keeps_the_level(p_values(draw, 100 * m + n))


def test_other_classes_without_stratifying_are_caught():
    def draw(rng):
        y, _ = classes(rng, "continuous", 60, [0.6, 0.3, 0.1])
        x, _ = classes(rng, "continuous", 5, [0.1, 0.3, 0.6])
        return Calibration(y).set_p_value(x)

    assert not keeps_the_level(p_values(draw, 0))


@shapes
@pytest.mark.parametrize("shares", [(0.1, 0.9), (0.5, 0.5), (0.02, 0.98)])
@pytest.mark.parametrize("gap", [0.0, 0.5, 30.0])
def test_single_samples_per_class_or_pooled(gap, shares, shape):
    alpha, rng = 0.05, np.random.default_rng(int(10 * gap))
    alarms = 0
    for _ in range(REPEATS):
        x, groups = classes(rng, shape, 200, shares, gap)
        known = ConditionalCalibration(x[1:], groups[1:])
        alarms += known.p_values(x[:1], groups[:1], alpha)[0] <= alpha
    assert alarms <= at_most(REPEATS, alpha)


def test_choosing_by_the_calibration_samples_alone_is_caught():
    # One class lies far above and has about as many samples as it takes: pooled where it happens to have fewer.
    rng, alpha, n, repeats = np.random.default_rng(0), 0.25, 19, 100_000
    alone, counted = 0, 0
    for _ in range(repeats // 5_000):
        high = rng.random((5_000, n + 1)) < 0.16
        values = rng.random((5_000, n + 1)) + 2 * high
        above, own = values[:, 1:] >= values[:, :1], high[:, 1:] == high[:, :1]
        pooled = (1 + above.sum(1)) / (n + 1) <= alpha
        per_class = (1 + (above & own).sum(1)) / (1 + own.sum(1)) <= alpha
        alone += int(np.where(high[:, 1:].sum(1) >= 3, per_class, pooled).sum())
        counted += int(np.where(high.sum(1) >= 4, per_class, pooled).sum())
    assert counted <= at_most(repeats, alpha) < alone


VECTORS = json.loads((Path(__file__).parent / "vectors" / "null_calibration.json").read_text())
PATHS = {
    "split_one": lambda x, y: split_test(x, y, splits=1, test=welch_p),
    "minmax_one": lambda x, y: welch_p(*scaled_sum(x, y)),
    "cv_one": lambda x, y: stats.ttest_ind(*cross_fitted(x, y), equal_var=False, alternative="greater").pvalue,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sizes", VECTORS["results"])
def test_the_rates_of_an_independent_simulation(sizes, path):
    n, d = (int(part.split("=")[1]) for part in sizes.split(","))
    expected, repeats = VECTORS["results"][sizes][path], 600
    p = p_values(lambda rng: PATHS[path](rng.normal(size=(n, d)), rng.normal(size=(n, d))), n + d, repeats)
    noise = 1 / repeats + 1 / VECTORS["runs"]
    for name, alpha in (("fpr05", 0.05), ("fpr01", 0.01)):
        rate = expected[name]
        assert (p <= alpha).mean() == pytest.approx(rate, abs=4.5 * np.sqrt(max(rate, alpha) * noise))
    assert p.mean() == pytest.approx(expected["mean_p"], abs=4.5 * np.sqrt(noise / 12) + 0.04 * (path == "cv_one"))
