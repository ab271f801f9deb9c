import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from amint.calibration import Calibration
from amint.errors import AlphaError, NonFiniteError, UsageError
from amint.power import (
    SIZES,
    false_alarm_rate,
    power,
    power_curve,
    samples_needed,
    samples_needed_by_mean_p,
)

RNG = np.random.default_rng(0)
CALIBRATION = RNG.normal(size=300)
MEMBERS = RNG.normal(size=400) + 1
ROUNDINGS = {"reals": lambda x: x, "tied": lambda x: np.round(x, 1), "coin": lambda x: np.float64(x > 1)}


@pytest.mark.parametrize("shape", ROUNDINGS)
@pytest.mark.parametrize("n, alpha", [(1, 0.05), (2, 0.01), (5, 0.05), (15, 0.01)])
def test_the_rate_is_that_of_the_test_on_every_subset(n, alpha, shape):
    members, calibration = ROUNDINGS[shape](MEMBERS), ROUNDINGS[shape](CALIBRATION)
    rng = np.random.default_rng(7)
    subsets = [members[rng.permutation(400)[:n]] for _ in range(60)]
    expected = np.mean([Calibration(calibration).set_p_value(subset) <= alpha for subset in subsets])
    # Ties with the submission shift a p-value a little between subsets with equally many wins.
    assert power(members, calibration, n, alpha, 60, seed=7).rate == pytest.approx(expected, abs=0.04)


def test_large_submissions_agree_with_the_test_too():
    members = MEMBERS - 0.7
    rng = np.random.default_rng(7)
    subsets = [members[rng.permutation(400)[:40]] for _ in range(100)]
    p = np.array([Calibration(CALIBRATION).set_p_value(subset) for subset in subsets])
    found = power(members, CALIBRATION, 40, 0.05, 100, seed=7)
    assert 0.2 < found.rate < 0.8
    assert found.rate == pytest.approx((p <= 0.05).mean(), abs=0.02)
    assert found.mean_p == pytest.approx(p.mean(), abs=0.005)


def test_power_agrees_with_theory():
    # Lehmann 1975, section 2.3: normal shift, known in closed form.
    rng = np.random.default_rng(1)
    members, calibration = rng.normal(size=4_000) + 0.8, rng.normal(size=4_000)
    n, c, theta = 15, 4_000, stats.norm.cdf(0.8 / math.sqrt(2))
    q = stats.multivariate_normal.cdf([0.8 / math.sqrt(2)] * 2, cov=[[1, 0.5], [0.5, 1]])
    variance = n * c * (theta * (1 - theta) + (n + c - 2) * (q - theta**2))
    critical = n * c / 2 + stats.norm.isf(0.01) * math.sqrt(n * c * (n + c + 1) / 12)
    expected = stats.norm.sf((critical - n * c * theta) / math.sqrt(variance))
    found = power(members, calibration, n, repeats=1_000)
    assert found.rate == pytest.approx(expected, abs=0.06)
    assert found.interval.low <= found.rate <= found.interval.high


def test_the_smallest_sufficient_submission_is_the_smallest():
    needed = samples_needed(MEMBERS, CALIBRATION, repeats=400)
    assert 8 <= needed <= 20
    assert power(MEMBERS, CALIBRATION, needed, repeats=400).rate >= 0.8
    assert power(MEMBERS, CALIBRATION, needed - 1, repeats=400).rate < 0.8
    assert samples_needed(MEMBERS, CALIBRATION, power=0.99) > needed
    assert samples_needed(MEMBERS + 9, CALIBRATION, alpha=0.05) == 1
    assert samples_needed(MEMBERS - 1, CALIBRATION) is None


@pytest.mark.parametrize("members", [np.ones(1), np.ones(50)])
def test_what_cannot_be_told_apart_needs_more_than_there_is(members):
    assert samples_needed(members, np.ones(100)) is None
    assert samples_needed_by_mean_p(members, np.ones(100)) is None
    assert power(members, np.ones(100), 1).rate == 0


def test_the_papers_criterion_is_another_one():
    needed = samples_needed_by_mean_p(MEMBERS, CALIBRATION)
    assert power(MEMBERS, CALIBRATION, needed, repeats=1_000).mean_p <= 0.01
    assert power(MEMBERS, CALIBRATION, needed - 1, repeats=1_000).mean_p > 0.01


def test_the_curve_holds_it_all_and_is_json():
    curve = power_curve(MEMBERS, CALIBRATION)
    assert [point.n for point in curve.points] == [n for n in SIZES if n <= 200]
    assert curve.needed == samples_needed(MEMBERS, CALIBRATION)
    assert [point.rate for point in curve.points] == sorted(point.rate for point in curve.points)
    assert curve.points[3] == power(MEMBERS, CALIBRATION, 10)
    assert all(0 <= p.interval.low <= p.rate <= p.interval.high <= 1 for p in curve.points)
    assert json.loads(json.dumps(asdict(curve)))["points"][0]["n"] == 1
    assert [p.n for p in power_curve(MEMBERS, CALIBRATION, [7, 3, 3]).points] == [3, 7]
    assert [p.n for p in power_curve(MEMBERS[:1], CALIBRATION).points] == [1]


def test_the_same_seed_gives_the_same_power():
    first = power_curve(MEMBERS, CALIBRATION)
    assert first == power_curve(MEMBERS, CALIBRATION) != power_curve(MEMBERS, CALIBRATION, seed=1)


@pytest.mark.parametrize("shape", ROUNDINGS)
@pytest.mark.parametrize("n", [1, 4, 30, 200, 295])
def test_calibration_against_calibration_alarms_at_about_alpha(n, shape):
    found = false_alarm_rate(ROUNDINGS[shape](CALIBRATION), n, alpha=0.05, repeats=600)
    assert found.rate <= stats.binom.ppf(1 - 1e-5, 600, 0.05) / 600
    if shape == "reals" and n >= 4:
        assert found.rate >= stats.binom.ppf(1e-5, 600, 0.05) / 600
    assert found.mean_p > 0.45


def test_calibration_rows_are_left_out_of_what_they_are_compared_with():
    # Two outliers against themselves would tie and be hidden; against the rest they stand out.
    known = np.r_[np.arange(20), 100, 101]
    found = false_alarm_rate(known, 2, alpha=1 / 200, repeats=4_000)
    # Only the top pair, one of 231, has a p-value that low.
    assert 0 < found.rate <= stats.binom.ppf(1 - 1e-5, 4_000, 1 / 231) / 4_000


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: power([], [1.0], 1), UsageError, "members' scores are empty"),
        (lambda: power([1.0], [], 1), UsageError, "calibration scores are empty"),
        (lambda: power([1.0], [1.0], 0), UsageError, "between 1 and 1, .*found 0"),
        (lambda: power([1.0], [1.0], 2), UsageError, "between 1 and 1"),
        (lambda: power([math.nan], [1.0], 1), NonFiniteError, "members' scores: 1 of 1"),
        (lambda: power([1.0], [math.inf], 1), NonFiniteError, "calibration scores"),
        (lambda: power([1.0], [1.0], 1, alpha=0), AlphaError, "strictly between"),
        (lambda: power([1.0], [1.0], 1, repeats=0), UsageError, "repeats must be at least 1"),
        (lambda: samples_needed([1.0], [1.0], power=1.1), UsageError, "power must lie"),
        (lambda: samples_needed([1.0], [1.0], alpha=math.nan), AlphaError, "found nan"),
        (lambda: power_curve([1.0], [1.0], [5]), UsageError, "found 5"),
        (lambda: false_alarm_rate([1.0, 2.0], 2), UsageError, "between 1 and 1"),
        (lambda: false_alarm_rate([1.0], 1), UsageError, "between 1 and 0"),
        (lambda: false_alarm_rate([1.0, math.nan], 1), NonFiniteError, "calibration scores"),
        (lambda: false_alarm_rate([1.0, 2.0], 1, alpha=1), AlphaError, "found 1"),
    ],
)
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.4, 0.8, 2])
@pytest.mark.parametrize("shape", ROUNDINGS)
def test_the_needed_number_keeps_its_promise_on_fresh_data_on_average(shape, shift):
    rng, rounding, rates = np.random.default_rng(3), ROUNDINGS[shape], []
    for _ in range(12):
        needed = samples_needed(rounding(rng.normal(size=1_500) + shift), rounding(rng.normal(size=2_000)))
        calibration = Calibration(rounding(rng.normal(size=2_000)))
        p = [calibration.set_p_value(rounding(rng.normal(size=needed) + shift)) for _ in range(100)]
        rates.append((np.array(p) <= 0.01).mean())
    # One study can be far off: its members and its calibration are samples too.
    assert 0.68 <= np.mean(rates) <= 0.95
