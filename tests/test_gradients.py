import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_toys import images
from target_toys import Wrapped, labels, trained_a_little
from torch import nn

from amint.errors import UsageError
from amint.targets import ClassifierTarget


def slow_gradients(model, x, y):
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        yield {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradients_against_a_loop():
    x, y = images(7), labels(7)
    model = trained_a_little().eval()
    columns = ClassifierTarget(copy.deepcopy(model)).measure((x, y), {"gradient", "gradient_norm", "gradient_norms"})
    loop = list(slow_gradients(model, x, y))
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values())) for gradients in loop]
    np.testing.assert_allclose(columns["gradient_norm"], norms, rtol=1e-5)
    by_layer = [[float(g.double().norm()) for g in gradients.values()] for gradients in loop]
    np.testing.assert_allclose(columns["gradient_norms"], by_layer, rtol=1e-5)
    of_last = [torch.cat([g["classifier.weight"].flatten(), g["classifier.bias"]]) for g in loop]
    np.testing.assert_allclose(columns["gradient"], torch.stack(of_last), rtol=1e-3, atol=1e-6)


def test_gradients_of_frozen_and_tied_weights_count():
    model = trained_a_little().eval()
    norms = ClassifierTarget(model).measure((images(3), labels(3)), {"gradient_norm"})["gradient_norm"]
    model.requires_grad_(False)
    frozen = ClassifierTarget(model).measure((images(3), labels(3)), {"gradient_norm"})["gradient_norm"]
    np.testing.assert_array_equal(frozen, norms)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[3].weight = tied[2].weight
    found = ClassifierTarget(tied).measure((images(3), labels(3)), {"gradient_norm"})["gradient_norm"]
    loop = slow_gradients(tied, images(3), labels(3))
    np.testing.assert_allclose(found, [math.sqrt(sum(float(g.square().sum()) for g in s.values())) for s in loop], 1e-5)


def test_a_model_that_cannot_be_vectorised():
    model = Wrapped(lambda z: z * float(z.sum().item() > 0))
    with pytest.raises(UsageError, match=r"torch\.func\.vmap can vectorise"):
        ClassifierTarget(model).measure((images(2), labels(2)), {"gradient_norm"})


class Attention(nn.Module):
    """Its fused kernel has no batching rule."""

    def __init__(self):
        super().__init__()
        self.patch, self.fc = nn.Conv2d(3, 24, 4, 4), nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = self.patch(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        return self.fc(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1))


def test_attention():
    torch.manual_seed(0)
    model = Attention()
    found = ClassifierTarget(model).measure((images(3), labels(3)), {"gradient_norm"})["gradient_norm"]
    loop = slow_gradients(model, images(3), labels(3))
    np.testing.assert_allclose(found, [math.sqrt(sum(float(g.square().sum()) for g in s.values())) for s in loop], 1e-5)


def test_more_samples_than_are_held_at_once():
    target, x, y = ClassifierTarget(trained_a_little()), images(150), labels(150)
    whole = target.measure((x, y), {"gradient", "gradient_norm"})
    last = target.measure((x[-7:], y[-7:]), {"gradient", "gradient_norm"})
    np.testing.assert_allclose(whole["gradient_norm"][-7:], last["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(whole["gradient"][-7:], last["gradient"], rtol=2e-3, atol=1e-6)
