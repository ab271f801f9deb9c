import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.correctness import Correctness
from amint.errors import NonFiniteError, UsageError
from amint.posteriors import posterior_columns
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


@pytest.fixture
def signals():
    """The signals of the four reference samples."""
    columns = posterior_columns(torch.tensor(VECTORS["logits"], dtype=torch.float64), torch.tensor(VECTORS["labels"]))
    return Signals({name: column.numpy() for name, column in columns.items()})


def test_scores_equal_the_reference_vectors(signals):
    scores = Correctness().score(signals)
    assert scores.tolist() == VECTORS["correctness"]
    assert scores.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float32])
def test_any_type_of_0_and_1_will_do(dtype):
    assert Correctness().score(Signals({"correct": np.array([1, 0, 1], dtype)})).tolist() == [1, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="correct: 1 of 3 are NaN or infinite, the first at index 1"):
        Correctness().score(Signals({"correct": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="correct must be a one-dimensional array of numbers"):
        Correctness().score(Signals({"correct": column}))
