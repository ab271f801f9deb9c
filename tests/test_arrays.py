import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amint.arrays import samples_needed, score_array
from amint.errors import NonFiniteError


@given(st.integers(1, 10**6))
def test_one_in_n_needs_n_samples(n):
    assert samples_needed(1 / n) == n


@given(st.floats(1e-5, 1))
def test_samples_needed_is_the_smallest(rate):
    n = samples_needed(rate)
    assert 1 / n <= rate
    assert n == 1 or 1 / (n - 1) > rate


def test_the_smallest_float_needs_a_number_too_large_for_a_float():
    assert samples_needed(5e-324) > 10**323


def test_a_score_array_is_a_copy_in_float64():
    given_ = np.ones(3, np.float32)
    array = score_array(given_)
    array[0] = 2
    assert array.dtype == np.float64
    assert given_[0] == 1
    assert len(score_array([])) == 0


def test_overflow_on_the_way_is_seen():
    with pytest.raises(NonFiniteError, match="p-values: 1 of 2 are NaN or infinite, the first at index 0"):
        score_array([np.inf, 1], "p-values")
