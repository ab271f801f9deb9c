import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.gradient_norm import GradientNorm
from amint.errors import NonFiniteError, UsageError
from amint.posteriors import posterior_columns
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


@pytest.fixture
def signals():
    """The signals of the four reference samples."""
    columns = posterior_columns(torch.tensor(VECTORS["logits"], dtype=torch.float64), torch.tensor(VECTORS["labels"]))
    return Signals({name: column.numpy() for name, column in columns.items()})


def per_sample_norms(x, weight, bias, labels):
    """Norms of the gradient with respect to all parameters of a linear model, by one backward pass a sample."""
    norms = []
    for row, label in zip(x, labels, strict=True):
        parameters = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
        loss = torch.nn.functional.cross_entropy(row @ parameters[0] + parameters[1], label)
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(float(sum((g**2).sum() for g in gradients) ** 0.5))
    return np.array(norms)


def test_scores_equal_the_reference_vectors():
    case = VECTORS["gmint_linear_softmax"]
    x, weight, bias = (torch.tensor(case[name], dtype=torch.float64) for name in ("x", "W", "b"))
    norms = per_sample_norms(x, weight, bias, torch.tensor(case["labels"]))
    scores = GradientNorm().score(Signals({"gradient_norm": norms}))
    np.testing.assert_allclose(scores, -np.array(case["grad_norm"]), rtol=0, atol=1e-9)


def test_a_surer_sample_of_a_linear_model_scores_higher(signals):
    """The gradient is (p - onehot) x: for one x it shrinks with the distance of p from the label."""
    logits = torch.tensor([[gap, 0.0, 0.0] for gap in (-2.0, 0.0, 1.0, 5.0)], dtype=torch.float64)
    distance = (logits.softmax(1) - torch.tensor([1.0, 0.0, 0.0])).norm(dim=1)
    scores = GradientNorm().score(Signals({"gradient_norm": 3 * distance.numpy()}))
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="gradient_norm: 1 of 3 are NaN or infinite, the first at index 1"):
        GradientNorm().score(Signals({"gradient_norm": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="gradient_norm must be a one-dimensional array of numbers"):
        GradientNorm().score(Signals({"gradient_norm": column}))
