import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.confidence import Confidence
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
    np.testing.assert_allclose(Confidence().score(signals), VECTORS["confidence"], rtol=0, atol=1e-9)


def test_confidence_is_the_softmax_of_the_true_class(signals):
    logits, labels = np.array(VECTORS["logits"]), VECTORS["labels"]
    expected = [np.exp(z[y]) / sum(np.exp(v) for v in z) for z, y in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(Confidence().score(signals), expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="logprob: 1 of 3 are NaN or infinite, the first at index 1"):
        Confidence().score(Signals({"logprob": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="logprob must be a one-dimensional array of numbers"):
        Confidence().score(Signals({"logprob": column}))
