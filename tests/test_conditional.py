import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint.calibration import Calibration
from amint.conditional import ConditionalCalibration, depends_on_class
from amint.errors import AlphaError, NonFiniteError, UsageError
from amint.ranksum import rank_sum_p


def two_classes(a=30, b=30, gap=5.0, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat([0, 1], [a, b])
    return ConditionalCalibration(rng.normal(size=a + b) + gap * groups, groups)


def test_each_class_is_its_own_calibration():
    known = two_classes()
    scores, groups = np.array([0.0, 5.0, 5.0, 9.0]), np.array([0, 0, 1, 1])
    p = known.p_values(scores, groups, 0.05)
    for group in (0, 1):
        own = Calibration(known.scores[known.groups == group])
        assert p[groups == group].tolist() == own.p_values(scores[groups == group]).tolist()
    assert known.explain(groups, 0.05) == "Each sample is compared with its own class (2 classes, 30 or more in each)."
    assert p[1] == 1 / 31


def test_one_small_class_pools_them_all_and_says_so():
    known = two_classes(60, 7)
    scores, groups = np.array([0.0, 5.0, 7.0]), np.array([0, 0, 1])
    assert known.p_values(scores, groups, 0.05).tolist() == known.pooled.p_values(scores).tolist()
    assert known.explain(groups, 0.05) == (
        "All samples are compared with all classes together, because class 1 has 7 calibration samples, "
        "alpha=0.05 takes 20 in every class."
    )


def test_a_class_without_calibration_is_compared_with_all():
    known = two_classes()
    scores, groups = np.array([3.0, 3.0]), np.array([0, 8])
    p = known.p_values(scores, groups, 0.05)
    assert p.tolist() == [1 / 31, known.pooled.p_values([3.0])[0]]
    assert known.explain(groups, 0.05) == (
        "1 of 2 samples are compared with all classes together, "
        "because there are no calibration samples of their class."
    )


def test_the_submitted_sample_counts_towards_its_class():
    known = two_classes(40, 19)
    assert known.per_class([0, 1, 2], 0.05).tolist() == [False, True, False]
    assert two_classes(40, 20).per_class([0, 1, 2], 0.05).tolist() == [True, True, False]
    assert two_classes(19, 19).per_class([0, 1, 2], 0.05).tolist() == [False, False, False]
    assert two_classes(9, 9).per_class([0, 1], 0.5).tolist() == [True, True]


def test_names_of_classes_may_be_strings():
    known = ConditionalCalibration(np.arange(6.0), ["cat", "dog", "horse"] * 2)
    assert known.counts == {"cat": 2, "dog": 2, "horse": 2}
    assert known.p_values([9.0, 0.5], ["dog", "horse"], 0.5).tolist() == [1 / 3, 1]
    assert known.set_p_value([9.0], ["cow"]) == 1


def test_nothing_submitted_is_nothing_judged():
    known = two_classes()
    assert known.p_values([], [], 0.05).tolist() == known.per_class([], 0.05).tolist() == []
    assert known.explain([], 0.05).startswith("Each sample")


def test_it_is_a_frozen_copy():
    scores, groups = np.array([1.0, 2.0]), np.array([0, 1])
    known = ConditionalCalibration(scores, groups)
    scores[:], groups[:] = 9, 9
    assert (known.scores.tolist(), known.groups.tolist()) == ([1, 2], [0, 1])
    for values in (known.scores, known.groups):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 5


def by_enumeration(scores, groups, known, known_groups):
    """van Elteren's p-value over all exchanges within classes."""
    options, observed = [], 0.0
    for group in np.intersect1d(groups, known_groups):
        x, y = scores[groups == group], known[known_groups == group]
        ranks = stats.rankdata(np.r_[x, y]) / (len(x) + len(y) + 1)
        observed += ranks[: len(x)].sum()
        options.append([ranks[list(chosen)].sum() for chosen in combinations(range(len(ranks)), len(x))])
    sums = np.array([sum(parts) for parts in product(*options)])
    return (sums >= observed - 1e-9).mean()


strata = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=7)


@given(strata, strata)
def test_small_sets_equal_the_full_enumeration(submitted, calibration):
    (groups, scores), (known_groups, known) = (
        np.array(list(zip(*rows, strict=True))) for rows in (submitted, calibration)
    )
    p = ConditionalCalibration(known, known_groups).set_p_value(scores, groups)
    assert p == pytest.approx(by_enumeration(scores, groups, known, known_groups), abs=0.025)


def test_one_class_is_the_rank_sum():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20) + 1, rng.normal(size=50)
    known = ConditionalCalibration(np.r_[y, y + 9], np.repeat([3, 4], 50))
    assert known.set_p_value(x, np.full(20, 3)) == rank_sum_p(x, y)


@pytest.mark.parametrize("m", [25, 60])
def test_a_mixture_of_classes_is_no_evidence_but_members_are(m):
    known = two_classes(300, 300)
    rng = np.random.default_rng(1)
    groups = np.r_[np.ones(m - 2, int), [0, 0]]
    scores = rng.normal(size=m) + 5 * groups
    assert known.pooled.set_p_value(scores) < 1e-4
    assert known.set_p_value(scores, groups) > 0.01
    assert known.set_p_value(scores + 2, groups) <= 1e-4


def test_large_sets_agree_with_permutations():
    rng = np.random.default_rng(2)
    known = ConditionalCalibration(rng.normal(size=400), np.arange(400) % 10)
    scores, groups = rng.normal(size=60) + 0.4, np.arange(60) % 10
    observed, drawn = 0.0, np.zeros(20_000)
    for group in range(10):
        x, y = scores[groups == group], known.scores[known.groups == group]
        ranks = stats.rankdata(np.r_[x, y]) / (len(x) + len(y) + 1)
        observed += ranks[: len(x)].sum()
        drawn += rng.permuted(np.tile(ranks, (20_000, 1)), axis=1)[:, : len(x)].sum(axis=1)
    expected = (drawn >= observed).mean()
    assert 0.005 < expected < 0.2
    assert known.set_p_value(scores, groups) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("m", [1, 3, 50])
def test_constant_scores_are_no_evidence(m):
    known = ConditionalCalibration(np.ones(40), np.arange(40) % 3)
    groups = np.arange(m) % 3
    assert known.set_p_value(np.ones(m), groups) == 1
    assert known.p_values(np.ones(m), groups, 0.1).tolist() == [1] * m
    assert depends_on_class(known.scores, known.groups) == 1


def test_dependence_on_the_class_is_seen():
    known = two_classes()
    assert depends_on_class(known.scores, known.groups) < 1e-9
    assert depends_on_class(two_classes(gap=0).scores, known.groups) > 0.01
    assert depends_on_class([1.0, 2.0], ["a", "a"]) == 1
    expected = stats.kruskal([1, 2, 5], [3, 4]).pvalue
    assert depends_on_class([1, 3, 2, 4, 5], [0, 1, 0, 1, 0]) == expected


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ConditionalCalibration([], []), UsageError, "calibration scores are empty"),
        (lambda: ConditionalCalibration([1.0], [1, 2]), UsageError, "found 1 scores and 2 groups"),
        (lambda: ConditionalCalibration([1.0], [1.5]), UsageError, "dtype float64"),
        (lambda: ConditionalCalibration([1.0], [[1]]), UsageError, r"shape \(1, 1\)"),
        (lambda: ConditionalCalibration([math.nan], [1]), NonFiniteError, "calibration scores"),
        (lambda: two_classes().p_values([1.0], [0, 1], 0.05), UsageError, "1 scores and 2 groups"),
        (lambda: two_classes().p_values([math.inf], [0], 0.05), NonFiniteError, "1 of 1"),
        (lambda: two_classes().p_values([1.0], ["cat"], 0.05), UsageError, "by int64; found <U3"),
        (lambda: two_classes().set_p_value([1.0], ["cat"]), UsageError, "by int64; found <U3"),
        (lambda: two_classes().set_p_value([], []), UsageError, "at least one sample"),
        (lambda: two_classes().check_alpha(0.001), AlphaError, "1/61"),
        (lambda: two_classes().p_values([1.0], [0], 0.001), AlphaError, "1/61"),
        (lambda: two_classes().explain([0], 2), AlphaError, "strictly"),
        (lambda: depends_on_class([1.0], [1, 2]), UsageError, "same length"),
    ],
)
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_together_every_class_needs_enough_with_the_submission_counted():
    known = ConditionalCalibration(np.arange(30.0), np.repeat([0, 1], [18, 12]))
    assert known.together([0, 0], 0.05) is False, "class 1 has 12 of 20"
    assert known.together([0, 0, *[1] * 7], 0.05) is False
    assert known.together([0, 0, *[1] * 8], 0.05) is True
    assert known.together([0, 0, *[1] * 8, 2], 0.05) is False, "a class that the calibration does not know"
    for one in (0, 1, 2):
        assert known.together([one], 1 / 13) == known.per_class([one], 1 / 13).all()
    with pytest.raises(UsageError, match="groups"):
        known.together(["cat"], 0.05)


def test_where_the_whole_is_pooled_so_is_every_sample():
    rng = np.random.default_rng(0)
    said = []
    for _ in range(500):
        known = ConditionalCalibration(rng.normal(size=60), rng.choice(3, 60, p=[0.3, 0.35, 0.35]))
        classes = rng.choice(3, rng.integers(1, 6))
        said.append(known.together(classes, 0.05))
        if not said[-1]:
            assert not known.per_class(classes, 0.05).any()
    assert 0.1 < np.mean(said) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 20, 60])
def test_the_choice_by_class_or_pooled_costs_no_false_alarms(m):
    """Scores that hang on the class, and classes about as large as they must be: the choice is open every time."""
    rng, alpha, repeats = np.random.default_rng(m), 0.05, 4_000
    alarms, within = 0, 0
    for _ in range(repeats):
        classes = rng.choice(2, 60 + m, p=[0.67, 0.33])
        scores = rng.normal(size=60 + m) + 3 * classes
        known = ConditionalCalibration(scores[m:], classes[m:])
        if known.together(classes[:m], alpha):
            within += 1
            alarms += known.set_p_value(scores[:m], classes[:m]) <= alpha
        else:
            alarms += known.pooled.set_p_value(scores[:m]) <= alpha
    assert 0.2 * repeats < within
    assert alarms <= stats.binom.ppf(0.999, repeats, alpha)
