import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from amint.calibration import Calibration
from amint.errors import NonFiniteError, UsageError
from amint.intervals import Interval, hoeffding_interval
from amint.metrics import (
    Measurement,
    auroc,
    auroc_interval,
    balanced_accuracy,
    balanced_accuracy_interval,
    clopper_pearson,
    roc,
    summary,
    tpr_at_fpr,
    tpr_at_fpr_interval,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "metrics.json").read_text())
SCORES, LABELS = np.array(VECTORS["scores"]), np.array(VECTORS["labels"])
EXACT = {"rel": 0, "abs": 1e-12}


@st.composite
def labelled(draw, max_size=25):
    """Scores in a few levels, so that ties are common, with at least one member and one non-member."""
    rows = draw(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), max_size=max_size))
    rows += [(draw(st.integers(-6, 6)), True), (draw(st.integers(-6, 6)), False)]
    rows = draw(st.permutations(rows))
    return np.array([s for s, _ in rows]) / 4, np.array([m for _, m in rows])


def obvious_points(scores, is_member):
    """One (fpr, tpr) a threshold, counted sample by sample."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        called = [s >= threshold for s in scores]
        hits = sum(c for c, m in zip(called, is_member, strict=True) if m)
        alarms = sum(c for c, m in zip(called, is_member, strict=True) if not m)
        points.append((alarms / sum(~is_member), hits / sum(is_member)))
    return points


def test_roc_equals_the_reference_vectors():
    curve = roc(SCORES, LABELS)
    assert np.c_[curve.fpr, curve.tpr] == pytest.approx(np.array(VECTORS["roc_points"]), **EXACT)
    assert curve.thresholds[0] == np.inf
    assert np.all(np.diff(curve.thresholds) < 0)


def test_numbers_equal_the_reference_vectors():
    assert auroc(SCORES, LABELS) == VECTORS["auc"]
    for fpr, tpr in VECTORS["tpr_at"].items():
        assert tpr_at_fpr(SCORES, LABELS, float(fpr)) == pytest.approx(tpr, **EXACT)
    best = max(balanced_accuracy(SCORES, LABELS, t) for t in roc(SCORES, LABELS).thresholds)
    assert best == VECTORS["best_balanced_accuracy"]


@given(labelled())
def test_everything_equals_the_obvious_reference(sample):
    scores, is_member = sample
    points = obvious_points(scores, is_member)
    curve = roc(scores, is_member)
    assert list(zip(curve.fpr, curve.tpr, strict=True)) == points
    pairs = [(a > b) + (a == b) / 2 for a in scores[is_member] for b in scores[~is_member]]
    assert auroc(scores, is_member) == pytest.approx(np.mean(pairs), **EXACT)
    assert auroc(scores, is_member) == pytest.approx(roc_auc_score(is_member, scores), **EXACT)
    for fpr in (0, 0.1, 0.25, 0.5, 1):
        assert tpr_at_fpr(scores, is_member, fpr) == max(t for f, t in points if f <= fpr)
    for threshold, (f, t) in zip(curve.thresholds, points, strict=True):
        assert balanced_accuracy(scores, is_member, threshold) == pytest.approx((t + 1 - f) / 2, **EXACT)


@given(labelled())
def test_delong_by_ranks_equals_delong_by_pairs(sample):
    from amint.metrics import _auroc_parts

    scores, is_member = sample
    members, others = scores[is_member], scores[~is_member]
    wins = (members[:, None] > others) + (members[:, None] == others) / 2
    value, variance, smaller = _auroc_parts(members, others)
    assert value == pytest.approx(wins.mean(), **EXACT)
    assert smaller == min(wins.shape)
    if smaller > 1:
        expected = sum(wins.mean(axis=axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1))
        assert variance == pytest.approx(expected, **EXACT)


@given(labelled(), st.sampled_from([np.exp, np.arctan, lambda x: 3 * x - 1, lambda x: x**3]))
def test_a_rising_transform_changes_nothing(sample, transform):
    scores, is_member = sample
    moved = transform(scores)
    assert auroc(moved, is_member) == auroc(scores, is_member)
    assert auroc_interval(moved, is_member) == auroc_interval(scores, is_member)
    assert tpr_at_fpr(moved, is_member, 0.2) == tpr_at_fpr(scores, is_member, 0.2)


@given(labelled())
def test_swapping_the_classes_mirrors_the_auroc(sample):
    scores, is_member = sample
    assert auroc(scores, ~is_member) == pytest.approx(1 - auroc(scores, is_member), **EXACT)
    one, other = auroc_interval(scores, is_member), auroc_interval(scores, ~is_member)
    assert (1 - other.high, 1 - other.low) == pytest.approx((one.low, one.high), abs=1e-6)


@given(labelled(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_intervals_hold_their_value_and_have_width(sample, confidence):
    scores, is_member = sample
    results = [
        (auroc(scores, is_member), auroc_interval(scores, is_member, confidence)),
        (tpr_at_fpr(scores, is_member, 0.1), tpr_at_fpr_interval(scores, is_member, 0.1, confidence)),
        (balanced_accuracy(scores, is_member, 0), balanced_accuracy_interval(scores, is_member, 0, confidence)),
    ]
    for value, interval in results:
        assert 0 <= interval.low <= value + 1e-12
        assert value - 1e-12 <= interval.high <= 1
        assert interval.high - interval.low > 0.01
        assert interval.confidence == confidence


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist(), LABELS.astype(bool), LABELS * 1.0, LABELS.astype("u1")])
@pytest.mark.parametrize("convert", [np.asarray, list, np.float32])
def test_labels_and_scores_of_any_numeric_type(labels, convert):
    assert auroc(convert(SCORES), labels) == 0.75


def test_constant_scores_are_chance():
    scores, labels = np.zeros(300), np.arange(300) % 3 == 0
    assert auroc(scores, labels) == 0.5
    assert tpr_at_fpr(scores, labels, 0.1) == 0
    assert balanced_accuracy(scores, labels, 0) == balanced_accuracy(scores, labels, 1) == 0.5
    assert roc(scores, labels).fpr.tolist() == roc(scores, labels).tpr.tolist() == [0, 1]
    interval = auroc_interval(scores, labels)
    assert (interval.low, interval.high) == pytest.approx((0.3667, 0.6333), abs=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_perfect_separation_gets_the_bound_on_disjoint_pairs(n):
    labels = np.r_[np.ones(n), np.zeros(2 * n)]
    interval = auroc_interval(labels, labels)
    assert interval.low == pytest.approx(0.025 ** (1 / n))
    assert interval.low == pytest.approx(clopper_pearson(n, n).low)
    assert interval.high == 1
    reversed_ = auroc_interval(-labels, labels)
    assert (reversed_.low, reversed_.high) == pytest.approx((0, 1 - interval.low))


def test_nearly_perfect_separation_is_not_worse_than_perfect_by_a_cliff():
    scores, labels = np.r_[np.arange(20) + 1e6, np.arange(50_000)], np.r_[np.ones(20), np.zeros(50_000)]
    scores[0] = 49_998.5
    assert 0.999 < auroc(scores, labels) < 1
    assert auroc_interval(scores, labels).low > 0.8


def test_one_member_says_little():
    scores, labels = np.arange(100), np.arange(100) == 50
    assert auroc_interval(scores, labels) == hoeffding_interval(50 / 99, 1)
    assert tpr_at_fpr_interval(scores, labels, 0.1).high == pytest.approx(0.9875)


def test_a_score_at_the_threshold_is_called_a_member():
    scores, labels = np.array([1.0, 1.0]), np.array([1, 0])
    assert balanced_accuracy([1, 0], labels, 1.0) == 1
    assert balanced_accuracy([0, 1], labels, 1.0) == 0
    assert balanced_accuracy(scores, labels, 1.0) == 0.5


@given(labelled(), st.floats(0.2, 0.9))
def test_the_calibrated_threshold_means_the_same_here(sample, alpha):
    scores, is_member = sample
    calibration = Calibration([-1, -0.5, 0, 0, 0.25, 1])
    called = calibration.p_values(scores) <= alpha
    expected = (called[is_member].mean() + (~called[~is_member]).mean()) / 2
    assert balanced_accuracy(scores, is_member, calibration.threshold(alpha)) == pytest.approx(expected, **EXACT)


def test_summary_has_every_number_and_says_what_it_cannot_measure():
    rng = np.random.default_rng(0)
    scores, labels = np.r_[rng.normal(1, 1, 200), rng.normal(0, 1, 300)], np.arange(500) < 200
    found = summary(scores, labels, threshold=0.5)
    assert list(found) == ["auroc", "balanced_accuracy", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"]
    assert found["auroc"].value == auroc(scores, labels)
    assert found["auroc"].interval == auroc_interval(scores, labels)
    assert found["balanced_accuracy"].value == balanced_accuracy(scores, labels, 0.5)
    assert found["tpr_at_fpr_0.001"].note == "needs at least 1000 non-members, has 300"
    assert [m.note for m in found.values()][:-1] == ["", "", "", ""]
    for name, m in found.items():
        assert (m.name, m.n_members, m.n_nonmembers) == (name, 200, 300)
        assert isinstance(m.interval, Interval)
        assert type(m.value) is type(m.interval.low) is type(m.interval.high) is float


def test_the_note_appears_exactly_below_one_in_n():
    for n in (10, 100, 1000):
        scores, labels = np.arange(n + 1.0), np.arange(n + 1) == n
        assert summary(scores, labels, 0, [1 / n])[f"tpr_at_fpr_{1 / n}"].note == ""
        finer = summary(scores, labels, 0, [1 / (n + 1)])
        assert next(reversed(finer.values())).note == f"needs at least {n + 1} non-members, has {n}"
    assert "FPR of 0" in summary(scores, labels, 0, [0.0])["tpr_at_fpr_0"].note
    assert "tpr_at_fpr_0.00001" in summary(scores, labels, 0, [1e-5])


@pytest.mark.parametrize(
    "scores, labels, error, message",
    [
        (
            [0.1, math.nan, 0.3, math.inf],
            [0, 1, 0, 1],
            NonFiniteError,
            "2 of 4 are NaN or infinite, the first at index 1",
        ),
        ([0.1, -math.inf], [0, 1], NonFiniteError, "1 of 2"),
        ([0.1, 0.2], [1, 1], UsageError, "2 members and 0 non-members. Add scores of known non-members"),
        ([0.1, 0.2], [0, 0], UsageError, "0 members and 2 non-members. Add scores of known members"),
        ([], [], UsageError, "0 members and 0 non-members. Add scores of known both"),
        ([0.1, 0.2, 0.3], [0, 1], UsageError, "3 scores and 2 labels"),
        ([[0.1], [0.2]], [0, 1], UsageError, "one-dimensional"),
        ([0.1, 0.2], [[0, 1]], UsageError, "one-dimensional"),
        (["a", "b"], [0, 1], UsageError, "numbers"),
        ([0.1, 0.2, 0.3], [0, 1, 2], UsageError, re.escape("values [0, 1, 2]")),
        ([0.1, 0.2], [0.5, 1], UsageError, "0/1"),
        ([0.1, 0.2], [math.nan, 1], UsageError, "0/1"),
        ([0.1, 0.2], ["0", "1"], UsageError, "0/1"),
    ],
)
@pytest.mark.parametrize(
    "function", [roc, auroc, auroc_interval, lambda s, m: tpr_at_fpr_interval(s, m, 0.1), lambda s, m: summary(s, m, 0)]
)
def test_what_cannot_work_is_refused(function, scores, labels, error, message):
    with pytest.raises(error, match=message):
        function(scores, labels)


def test_rates_and_thresholds_are_checked():
    for fpr in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="fpr"):
            tpr_at_fpr(SCORES, LABELS, fpr)
    with pytest.raises(UsageError, match="NaN"):
        balanced_accuracy(SCORES, LABELS, math.nan)
    for confidence in (0, 1, 95, math.nan):
        with pytest.raises(UsageError, match="confidence"):
            auroc_interval(SCORES, LABELS, confidence)
        with pytest.raises(UsageError, match="confidence"):
            balanced_accuracy_interval(SCORES, LABELS, 0.5, confidence)


def at_least(repeats, rate):
    """The lowest count that chance gives once in 100,000 tests when the true rate is ``rate``."""
    return stats.binom.ppf(1e-5, repeats, rate)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.95, 0.99])
@pytest.mark.parametrize("m, n", [(2, 500), (5, 5), (10, 200), (20, 500), (500, 20), (50, 50), (200, 200)])
def test_the_auroc_interval_covers(m, n, truth):
    rng, repeats = np.random.default_rng(m + n), 2_000
    shift, labels = np.sqrt(2) * stats.norm.ppf(truth), np.arange(m + n) < m
    intervals = [auroc_interval(rng.normal(size=m + n) + shift * labels, labels) for _ in range(repeats)]
    # DeLong is approximate: a point below nominal is allowed.
    assert sum(i.low <= truth <= i.high for i in intervals) >= at_least(repeats, 0.94)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize(
    "m, n, fpr", [(10, 100, 0.1), (60, 300, 0.01), (200, 50, 0.001), (1000, 1000, 0.01), (2000, 5000, 0.001)]
)
def test_tpr_and_balanced_accuracy_intervals_cover(m, n, fpr, shift):
    """The TPR at the threshold that has this FPR on all non-members, which no sample of them shows exactly."""
    rng, repeats, labels = np.random.default_rng(n), 2_000, np.arange(m + n) < m
    covered = {"tpr": 0, "balanced": 0}
    for _ in range(repeats):
        scores = rng.normal(size=m + n) + shift * labels
        interval = tpr_at_fpr_interval(scores, labels, fpr)
        covered["tpr"] += interval.low <= stats.norm.sf(stats.norm.isf(fpr) - shift) <= interval.high
        interval = balanced_accuracy_interval(scores, labels, 1.0)
        truth = (stats.norm.sf(1 - shift) + stats.norm.cdf(1)) / 2
        covered["balanced"] += interval.low <= truth <= interval.high
    assert min(covered.values()) >= at_least(repeats, 0.95)


@pytest.mark.slow
def test_the_tpr_interval_covers_where_scores_are_tied():
    """Scores are 0, 1 or 2; a threshold of 2 has an FPR of 0.02, one of 1 an FPR of 0.2."""
    rng, repeats, labels = np.random.default_rng(0), 2_000, np.arange(700) < 300
    others, members = (0.8, 0.18, 0.02), (0.5, 0.2, 0.3)
    for fpr, truth in ((0.02, 0.3), (0.1, 0.3), (0.2, 0.5), (0.01, 0.0)):
        intervals = [
            tpr_at_fpr_interval(np.r_[rng.choice(3, 300, p=members), rng.choice(3, 400, p=others)], labels, fpr)
            for _ in range(repeats)
        ]
        assert sum(i.low <= truth <= i.high for i in intervals) >= at_least(repeats, 0.95)


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 2, 50, 5000])
def test_the_tpr_interval_holds_the_tpr_and_narrows_with_more_nonmembers(n, fpr):
    rng, labels = np.random.default_rng(n), np.arange(500 + n) < 500
    scores = rng.normal(size=500 + n) + 2 * labels
    interval = tpr_at_fpr_interval(scores, labels, fpr)
    assert interval.low <= tpr_at_fpr(scores, labels, fpr) <= interval.high
    assert (interval.low > 0) == (stats.binom.cdf(0, n, fpr) <= 0.0125)
    if n == 5000 and fpr == 0.3:
        assert interval.high - interval.low < 0.12


def test_a_measurement_shows_its_interval_and_its_note():
    measured = Measurement("auroc", 0.97349, Interval(0.9, 1.0, 0.95), 10, 20)
    assert str(measured) == "0.973 (0.900 to 1.000)"
    assert str(replace(measured, note="needs at least 1000 non-members, has 20")).endswith(
        "(0.900 to 1.000); needs at least 1000 non-members, has 20"
    )
