import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint.errors import UsageError
from amint.intervals import clopper_pearson, hoeffding_interval


@given(st.integers(1, 60), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_clopper_pearson_equals_scipy(n, data, confidence):
    k = data.draw(st.integers(0, n))
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    found = clopper_pearson(k, n, confidence)
    assert (found.low, found.high, found.confidence) == pytest.approx((expected.low, expected.high, confidence))


@pytest.mark.parametrize("n", [1, 2, 7, 50, 300])
@pytest.mark.parametrize("interval", [clopper_pearson, lambda k, n: hoeffding_interval(k / n, n)])
def test_the_exact_coverage_of_a_proportion_is_never_below_nominal(n, interval):
    counts = np.arange(n + 1)
    ends = [interval(int(k), n) for k in counts]
    for p in np.linspace(0, 1, 41):
        covers = np.array([e.low <= p <= e.high for e in ends])
        assert stats.binom.pmf(counts, n, p)[covers].sum() >= 0.95


@given(st.floats(0, 1), st.integers(1, 10**7), st.sampled_from([0.5, 0.95, 0.9999]))
def test_the_hoeffding_interval_holds_its_mean_and_narrows(mean, n, confidence):
    found, wider = hoeffding_interval(mean, n, confidence), hoeffding_interval(mean, 1, confidence)
    assert 0 <= wider.low <= found.low <= mean <= found.high <= wider.high <= 1
    assert found.low < found.high
    # KL(mean, x) >= 2 (mean - x)², so it is never wider than the better-known form of the bound.
    reach = np.sqrt(np.log(2 / (1 - confidence)) / 2 / n)
    assert found.low >= mean - reach - 1e-9
    assert found.high <= mean + reach + 1e-9


@pytest.mark.parametrize("k, n", [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(UsageError, match=f"found k={k}, n={n}"):
        clopper_pearson(k, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_impossible_confidences_are_refused(confidence):
    for call in (lambda: clopper_pearson(1, 2, confidence), lambda: hoeffding_interval(0.5, 2, confidence)):
        with pytest.raises(UsageError, match="strictly between 0 and 1"):
            call()
