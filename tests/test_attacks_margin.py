import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.margin import Margin
from amint.errors import NonFiniteError, UsageError
from amint.posteriors import posterior_columns
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


@pytest.fixture
def signals():
    """The signals of the four reference samples."""
    columns = posterior_columns(torch.tensor(VECTORS["logits"], dtype=torch.float64), torch.tensor(VECTORS["labels"]))
    return Signals({name: column.numpy() for name, column in columns.items()})


def hinge_from_probabilities(p, label):
    """The hinge score as written for probabilities: log p_y - log of the largest other one."""
    others = [q for j, q in enumerate(p) if j != label]
    return np.log(p[label]) - np.log(max(others))


def test_scores_equal_the_reference_vectors(signals):
    np.testing.assert_allclose(Margin().score(signals), VECTORS["hinge_margin"], rtol=0, atol=1e-9)


def test_the_margin_of_logits_is_that_of_log_probabilities():
    logits, labels = torch.randn(40, 7, dtype=torch.float64) * 3, torch.randint(7, (40,))
    scores = Margin().score(Signals({"hinge": posterior_columns(logits, labels)["hinge"].numpy()}))
    rows = zip(logits.softmax(1).tolist(), labels.tolist(), strict=True)
    np.testing.assert_allclose(scores, [hinge_from_probabilities(p, y) for p, y in rows], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="hinge: 1 of 3 are NaN or infinite, the first at index 1"):
        Margin().score(Signals({"hinge": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="hinge must be a one-dimensional array of numbers"):
        Margin().score(Signals({"hinge": column}))
