import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.scaled_logit import ScaledLogit
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
    scores = ScaledLogit().score(signals)
    np.testing.assert_allclose(scores, VECTORS["phi_logit_confidence"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(scores, VECTORS["phi_from_probability"], rtol=0, atol=1e-9)


def test_with_two_classes_it_is_the_margin():
    logits, labels = torch.randn(40, 2, dtype=torch.float64) * 9, torch.randint(2, (40,))
    columns = posterior_columns(logits, labels)
    scores = ScaledLogit().score(Signals({"scaled_logit": columns["scaled_logit"].numpy()}))
    np.testing.assert_allclose(scores, columns["hinge"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="scaled_logit: 1 of 3 are NaN or infinite, the first at index 1"):
        ScaledLogit().score(Signals({"scaled_logit": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="scaled_logit must be a one-dimensional array of numbers"):
        ScaledLogit().score(Signals({"scaled_logit": column}))
