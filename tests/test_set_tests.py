import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint.errors import NonFiniteError, UsageError
from amint.ranksum import rank_sum_p
from amint.set_tests import combined_p, discriminant, permutation_p, scaled_sum, separation, split_test, welch_p

few = st.lists(st.integers(-3, 3), min_size=1, max_size=6)


def textbook(x, y):
    return stats.ttest_ind(x, y, equal_var=False, alternative="greater").pvalue


@pytest.mark.parametrize("m, n", [(50, 60), (100, 100), (300, 1_000)])
@pytest.mark.parametrize("shift", [-1, 0, 0.3, 2])
def test_welch_equals_scipys_where_the_approximation_is_good(m, n, shift):
    # Quantiles, so that no accident of a sample decides whether the approximation is good.
    x = stats.norm.ppf((np.arange(m) + 0.5) / m) + shift / 10
    y = 1.3 * stats.norm.ppf((np.arange(n) + 0.5) / n)
    assert welch_p(x, y) == pytest.approx(textbook(x, y), rel=1e-9)


@given(few, few, st.floats(-100, 100))
def test_welch_is_never_below_the_textbook_and_does_not_depend_on_the_unit(x, y, offset):
    x, y = np.array(x, float), np.array(y, float)
    p = welch_p(x, y)
    assert 0 < p <= 1
    assert welch_p(x * 1e-9, y * 1e-9) == pytest.approx(p)
    assert welch_p(x / 4 + round(offset), y / 4 + round(offset)) == pytest.approx(p, abs=1e-3)
    if min(len(x), len(y)) > 1 and len(set(x)) > 1 and len(set(y)) > 1:
        assert p >= textbook(x, y) - 1e-12


def test_where_it_is_not_trusted_welch_is_the_larger_of_two():
    # All of the submission at saturation, as are 97 % of the control: t is huge, and it means nothing.
    x, y = np.ones(2), np.r_[np.zeros(3), np.ones(97)]
    assert welch_p(x, y) == pytest.approx(stats.hypergeom.pmf(0, 102, 3, 2), abs=0.05)
    x = stats.norm.ppf((np.arange(10) + 0.5) / 10) + 1
    y = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    both = stats.permutation_test((x, y), lambda a, b: stats.ttest_ind(a, b, equal_var=False).statistic,
                                  alternative="greater", n_resamples=3_000, rng=0).pvalue  # fmt: skip
    assert welch_p(x, y) == pytest.approx(max(textbook(x, y), both), rel=0.5)


@pytest.mark.parametrize(
    "x, y",
    [
        ([5], [0, 1, 2]),
        ([5, 6, 7], [0]),
        ([1], [1]),
        ([2, 2, 2], [1, 1, 1]),
        ([0.1] * 3, [0.1] * 7),
        ([0.3] * 7, [0.1] * 3),
        ([0, 0], [0, 0, 0]),
        ([1, 1], [0, 1e-200]),
    ],
)
def test_without_a_variance_welch_finds_nothing(x, y):
    assert welch_p(x, y) == 1


@pytest.mark.parametrize("scale", [1e308, 5e-324, 1e-300, 1e-9, 1])
def test_welch_survives_any_scale(scale):
    p = welch_p(np.arange(60) % 7 * (scale / 7), -(np.arange(60) % 11) * (scale / 11))
    assert 0 < p <= 1


def test_no_welch_p_is_zero():
    assert welch_p(np.arange(2_000) + 1e6, np.arange(2_000)) > 0


def test_permutation_p_by_hand():
    # One of four rows is submitted and it is the highest: a quarter of all permutations reach it.
    p = permutation_p([[9.0]], [[1.0], [2.0], [3.0]], lambda x, y: float(x.mean() - y.mean()), permutations=4_999)
    assert p == pytest.approx(1 / 4, abs=0.03)
    assert permutation_p([[0.0]], [[0.0]], lambda x, y: 0.0) == 1
    assert permutation_p([[9.0]] * 9, np.arange(30)[:, None] / 9, lambda x, y: x.sum(), permutations=99) == 0.01


def test_permutation_p_equals_the_rank_sum_for_its_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 1)) + 0.5, rng.normal(size=(9, 1))

    def ranks(a, b):
        return stats.rankdata(np.r_[a, b][:, 0])[: len(a)].sum()

    assert permutation_p(x, y, ranks, permutations=4_999) == pytest.approx(rank_sum_p(x[:, 0], y[:, 0]), abs=0.03)


def test_a_pipeline_may_not_spoil_the_next_permutation():
    x, y = np.ones((3, 1)), np.arange(8.0)[:, None]
    before = x.copy(), y.copy()

    def careless(a, b):
        value = float(a.mean() - b.mean())
        a[:], b[:] = 0, 0
        return value

    careful = permutation_p(x, y, lambda a, b: float(a.mean() - b.mean()), permutations=199)
    assert permutation_p(x, y, careless, permutations=199) == careful
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


def test_rounding_does_not_make_a_win_of_a_tie():
    # All rows alike up to order: sums differ in the last bits only.
    values = np.array([0.1, 0.2, 0.3])
    x, y = np.tile(values, (2, 1)), np.tile(values, (5, 1))
    rng = np.random.default_rng(0)
    assert permutation_p(x, y, lambda a, b: 1 + 1e-15 * rng.normal(), permutations=199) == 1


def signals(m, n, d=6, shift=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)) + shift * (np.arange(d) < 2), rng.normal(size=(n, d))


@pytest.mark.parametrize("shift, low, high", [(1.5, 0, 0.002), (0, 0.02, 1)])
def test_pipelines_find_members_and_only_members(shift, low, high):
    x, y = signals(60, 80, shift=shift)
    assert low <= permutation_p(x, y, separation) <= high
    assert low <= split_test(x, y) <= high
    assert low <= split_test(x, y, test=welch_p, splits=1) <= high
    assert low <= rank_sum_p(*scaled_sum(x, y)) <= high


def test_the_test_half_never_reaches_the_fit():
    x, y = signals(9, 14)
    x[:, 5], y[:, 5] = np.arange(9), 100 + np.arange(14)
    halves = []

    def spy(features, is_submitted):
        seen = set(features[:, 5])
        assert np.array_equal(features[:, 5] < 100, is_submitted)

        def scorer(rows):
            halves.append((len(seen), seen & set(rows[:, 5]), sorted(seen | set(rows[:, 5]))))
            return rows[:, 0]

        return scorer

    split_test(x, y, fit=spy, splits=3)
    assert halves == [(4 + 7, set(), [*range(9), *range(100, 114)])] * 3


def test_the_same_seed_gives_the_same_p_value_and_another_other_halves():
    x, y = signals(20, 30)
    assert split_test(x, y, splits=1) == split_test(x, y, splits=1)
    assert len({split_test(x, y, splits=1, seed=seed) for seed in range(10)}) > 5
    assert permutation_p(x, y, separation, 99) == permutation_p(x, y, separation, 99)


def test_repeated_splits_pay_for_their_dependence():
    x, y = signals(20, 30, shift=0.1)
    singles = []
    combined = split_test(x, y, splits=5, test=lambda a, b: singles.append(rank_sum_p(a, b)) or singles[-1])
    assert len(singles) == 5
    assert combined == min(1, 2 * np.mean(singles))


def test_combined_p_values_by_hand():
    assert combined_p([0.3]) == 0.3
    assert combined_p([0.01, 0.03]) == pytest.approx(0.04)
    assert combined_p([0.9, 0.8]) == 1


def test_the_discriminant_finds_the_direction_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    mixing, shift = rng.normal(size=(5, 5)), rng.normal(size=5)
    rows = rng.normal(size=(400, 5)) @ mixing
    labels = np.arange(400) < 150
    rows[labels] += 0.5 * shift
    z = (rows - rows.mean(0)) / rows.std(0)
    expected = LogisticRegression(C=1).fit(z, labels).decision_function(z)
    assert np.corrcoef(discriminant(rows, labels)(rows), expected)[0, 1] > 0.999


@pytest.mark.parametrize("d", [1, 3, 40])
def test_the_discriminant_copes_with_constants_and_more_features_than_rows(d):
    rng = np.random.default_rng(0)
    rows = np.c_[rng.normal(size=(12, d)), np.full(12, 0.1), np.zeros(12)]
    scorer = discriminant(rows, np.arange(12) < 6)
    changed = rows.copy()
    changed[:, d:] += 7
    assert np.isfinite(scorer(rows)).all()
    assert np.array_equal(scorer(rows), scorer(changed))


@given(st.integers(-100, 100), st.integers(1, 3))
def test_the_discriminant_does_not_depend_on_units(power, feature):
    x, y = signals(10, 12)
    rows, labels = np.r_[x, y], np.arange(22) < 10
    scaled = rows.copy()
    scaled[:, feature] *= 2.0**power
    assert discriminant(scaled, labels)(scaled) == pytest.approx(discriminant(rows, labels)(rows))


def test_the_scaled_sum_by_hand():
    x, y = scaled_sum([[0, 5, 1], [4, 5, 3]], [[2, 5, 2]])
    assert (x.tolist(), y.tolist()) == ([0, 2], [1])
    x, y = scaled_sum([[1e308]], [[-1e308]])
    assert (x.tolist(), y.tolist()) == ([1], [0])


FEATURES = [[1.0], [2.0]]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: welch_p([], [1.0]), UsageError, "0 submitted and 1 control"),
        (lambda: welch_p([1.0], []), UsageError, "1 submitted and 0 control"),
        (lambda: welch_p([math.nan], [1.0]), NonFiniteError, "scores: 1 of 1"),
        (lambda: welch_p([1.0], [math.inf]), NonFiniteError, "control scores: 1 of 1"),
        (lambda: welch_p([[1.0]], [1.0]), UsageError, "one-dimensional"),
        (lambda: permutation_p([1.0], FEATURES, separation), UsageError, r"submission features .* shape \(1,\)"),
        (lambda: permutation_p(FEATURES, np.zeros((0, 1)), separation), UsageError, r"control features .* \(0, 1\)"),
        (lambda: permutation_p(FEATURES, [[1, 2]], separation), UsageError, "found 1 submitted, 2 control"),
        (lambda: permutation_p(FEATURES, FEATURES, separation, 0), UsageError, "permutations must be at least 1"),
        (lambda: permutation_p(FEATURES, FEATURES, lambda x, y: math.nan), NonFiniteError, "the statistic is nan"),
        (lambda: permutation_p([[math.inf]], FEATURES, separation), NonFiniteError, "submission features"),
        (lambda: permutation_p([["a"]], FEATURES, separation), UsageError, "dtype"),
        (lambda: split_test(FEATURES[:1], FEATURES), UsageError, "at least 2 rows on each side, found 1 submitted"),
        (lambda: split_test(FEATURES, FEATURES, splits=0), UsageError, "splits must be at least 1"),
        (lambda: split_test(FEATURES, FEATURES, fit=lambda f, s: lambda rows: rows), UsageError, "scores from fit"),
        (lambda: split_test(FEATURES, FEATURES, fit=lambda f, s: lambda r: r[:1, 0]), UsageError, "one score a row"),
        (lambda: split_test(FEATURES, FEATURES, fit=lambda f, s: lambda r: r[:, 0] / 0), NonFiniteError, "from fit"),
        (lambda: split_test(FEATURES, FEATURES, test=lambda a, b: 3.0), UsageError, "between 0 and 1; found"),
        (lambda: combined_p([]), UsageError, "at least one p-value"),
        (lambda: combined_p([0.5, -0.1]), UsageError, "between 0 and 1"),
        (lambda: combined_p([math.nan]), NonFiniteError, "p-values"),
        (lambda: scaled_sum([[1.0]], [[1.0, 2.0]]), UsageError, "same features"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_test_rows_beyond_all_measure_are_refused():
    rng = np.random.default_rng(0)
    scorer = discriminant(rng.normal(size=(8, 1)) * 1e-300, np.arange(8) < 4)
    with pytest.raises(NonFiniteError, match="scores from fit"):
        split_test(FEATURES, FEATURES, fit=lambda f, s: lambda r: scorer(r * 5e307))
