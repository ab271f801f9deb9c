import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint.effect import effect, effect_by_class, members_at_least
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc_interval

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=30)


@pytest.mark.parametrize(
    "submitted, calibration, superiority",
    [([3], [1, 2], 1), ([1, 2], [3], 0), ([2], [1, 2, 3], 0.5), ([0, 0], [0], 0.5), ([1, 4], [2, 3], 0.5)],
)
def test_superiority_by_hand(submitted, calibration, superiority):
    found = effect(submitted, calibration)
    assert found.superiority == superiority
    assert found.interval.low <= superiority <= found.interval.high
    assert (found.samples, found.calibration_n) == (len(submitted), len(calibration))


def test_the_interval_is_that_of_the_auroc_and_all_of_it_is_json():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20) + 1, rng.normal(size=90)
    found = effect(x, y, 0.9)
    assert found.interval == auroc_interval(np.r_[x, y], np.r_[np.ones(20), np.zeros(90)], 0.9)
    assert json.loads(json.dumps(asdict(found)))["interval"]["confidence"] == 0.9


def test_the_bound_on_members_can_have_a_level_of_its_own():
    x, y, classes, known = (
        np.r_[np.full(9, 9.0), np.zeros(9)],
        np.arange(200) % 5,
        np.arange(18) % 2,
        np.arange(200) % 2,
    )
    for level in (0.8, 0.99):
        assert effect(x, y, bound=level).members_at_least == members_at_least(x, y, level)
        assert effect(x, y, bound=level).interval == effect(x, y).interval
        by_class = effect_by_class(x, classes, y, known, bound=level)
        assert by_class.members_at_least == effect_by_class(x, classes, y, known, level).members_at_least
        assert by_class.interval == effect_by_class(x, classes, y, known).interval


def test_members_are_counted_where_they_cannot_be_overlooked():
    calibration = np.arange(1_000)
    assert members_at_least(np.full(20, 2_000), calibration) == 20
    assert 7 <= members_at_least(np.r_[np.full(10, 2_000), np.linspace(0, 999, 10)], calibration) <= 10
    assert members_at_least(np.linspace(0, 999, 20), calibration) == 0
    assert members_at_least([2_000], calibration) == 1
    assert members_at_least([2_000], [0, 1, 2]) == 0


@given(scores, scores, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_bound_is_a_count_that_falls_with_confidence_and_grows_with_the_scores(x, y, confidence):
    bound = members_at_least(x, y, confidence)
    assert 0 <= bound <= len(x)
    assert members_at_least(x, y, (1 + confidence) / 2) <= bound
    assert bound <= members_at_least(np.array(x) + 1, y, confidence)
    assert bound == members_at_least(np.exp(x), np.exp(y), confidence)


def test_the_bound_inverts_an_exact_test():
    # 12 of 15 submitted scores lie above all of 40: one k is the top one, others lie below.
    m, n, above = 15, 40, 12
    found = members_at_least(np.r_[np.full(above, 99.0), np.zeros(m - above)], np.arange(1.0, n + 1))
    # At each k only 3 lie below: the largest K for which P(at most 3 of K before the k-th of 40) is above 5 % / 5.
    bounds = [
        max(unused for unused in range(m + 1) if stats.betabinom.cdf(m - above, unused, k, n + 1 - k) > 0.05 / 5)
        for k in (20, 30, 36, 39, 40)
    ]
    assert found == m - min(bounds) > 0


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: effect([], [1.0]), UsageError, "found 0 submitted and 1 calibration"),
        (lambda: members_at_least([1.0], []), UsageError, "found 1 submitted and 0 calibration"),
        (lambda: effect([math.nan], [1.0]), NonFiniteError, "scores: 1 of 1"),
        (lambda: effect([1.0], [math.inf]), NonFiniteError, "calibration scores: 1 of 1"),
        (lambda: effect([1.0], [1.0], 1.0), UsageError, "confidence"),
        (lambda: members_at_least([1.0], [1.0], 0), UsageError, "confidence"),
    ],
)
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def wrong_bounds(unused, members, n, rounding, repeats, confidence):
    rng = np.random.default_rng(1_000 * unused + members)
    wrong = 0
    for _ in range(repeats):
        x = rounding(np.r_[rng.normal(size=unused), rng.normal(size=members) + 6])
        wrong += members_at_least(x, rounding(rng.normal(size=n)), confidence) > members
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "rounding", [lambda x: x, np.round, lambda x: np.float64(x > 1)], ids=["reals", "tied", "coin"]
)
@pytest.mark.parametrize("unused, members, n", [(20, 0, 100), (10, 10, 1_000), (80, 20, 50), (1, 0, 50), (5, 2, 3)])
def test_more_members_are_rarely_counted_than_there_are(unused, members, n, rounding):
    repeats, confidence = 3_000, 0.9
    wrong = wrong_bounds(unused, members, n, rounding, repeats, confidence)
    assert wrong <= stats.binom.ppf(1 - 1e-5, repeats, 1 - confidence)


def mixed(rng, shares, n):
    """Scores that depend on the class, and classes in these shares."""
    classes = rng.choice(4, n, p=shares)
    return rng.normal(size=n) + 2.0 * classes, classes


def test_by_class_another_mixture_of_classes_is_no_effect():
    rng, repeats = np.random.default_rng(0), 300
    counted, covered, pooled = 0, 0, 0
    for _ in range(repeats):
        known, known_classes = mixed(rng, [0.4, 0.3, 0.2, 0.1], 400)
        own, classes = mixed(rng, [0.1, 0.2, 0.3, 0.4], 40)
        found = effect_by_class(own, classes, known, known_classes)
        counted += found.members_at_least > 0
        covered += found.interval.low <= 0.5 <= found.interval.high
        pooled += effect(own, known).members_at_least > 0
    assert counted <= stats.binom.isf(1e-4, repeats, 0.05)
    assert covered >= stats.binom.ppf(1e-4, repeats, 0.94)
    assert pooled > repeats / 2, "this test must be able to fail"


def test_by_class_members_are_counted_in_every_class():
    rng = np.random.default_rng(1)
    known, known_classes = mixed(rng, [0.25] * 4, 2_000)
    own, classes = mixed(rng, [0.25] * 4, 60)
    found = effect_by_class(own + 9, classes, known, known_classes)
    assert found.superiority > 0.99
    assert 45 <= found.members_at_least <= 60
    assert (found.samples, found.calibration_n) == (60, 2_000)
    one = effect_by_class(own, np.zeros(60, int), known, np.zeros(2_000, int))
    assert one.superiority == pytest.approx(effect(own, known).superiority, abs=0.01)
    assert one.members_at_least == members_at_least(own, known)


def test_by_class_without_a_common_class_nothing_is_known():
    found = effect_by_class([9.0, 9.0], np.array([1, 1]), np.arange(50.0), np.zeros(50, int))
    assert (found.superiority, found.interval.low, found.interval.high, found.members_at_least) == (0.5, 0, 1, 0)
