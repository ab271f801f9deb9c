import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.entropy import Entropy
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
    np.testing.assert_allclose(Entropy().score(signals), -np.array(VECTORS["entropy"]), rtol=0, atol=1e-9)


def test_the_label_does_not_matter(signals):
    logits = torch.tensor(VECTORS["logits"], dtype=torch.float64)
    other = posterior_columns(logits, (torch.tensor(VECTORS["labels"]) + 1) % 3)
    np.testing.assert_array_equal(
        Entropy().score(signals), Entropy().score(Signals({"entropy": other["entropy"].numpy()}))
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="entropy: 1 of 3 are NaN or infinite, the first at index 1"):
        Entropy().score(Signals({"entropy": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="entropy must be a one-dimensional array of numbers"):
        Entropy().score(Signals({"entropy": column}))
