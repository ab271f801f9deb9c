import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_toys import ToyNet, audit_of, images
from target_toys import TOLERANCE, Wrapped, labels, trained_a_little
from torch import nn

from amint.errors import SplitError, StepError, UsageError
from amint.targets import ClassifierTarget


def test_features_are_what_the_last_linear_layer_reads():
    model, x = trained_a_little().eval(), images(5)
    features = ClassifierTarget(model).measure(x, {"features"})["features"]
    np.testing.assert_allclose(model.classifier(torch.from_numpy(features)).detach(), model(x).detach(), **TOLERANCE)


def test_the_last_linear_layer_is_found_by_its_run_not_by_its_place():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.aside = nn.Linear(6, 4), nn.Linear(768, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = self.first(x.flatten(1))
            logits = self.last(hidden)
            self.aside(hidden)
            return logits / 2

    model, x, y = Shuffled(), images(3), labels(3)
    columns = ClassifierTarget(model).measure((x, y), {"features", "gradient"})
    np.testing.assert_allclose(columns["features"], model.first(x.flatten(1)).detach(), **TOLERANCE)
    # Behind a linear layer whose output is halved, the gradient is halved too.
    delta = (F.softmax(model(x), 1) - F.one_hot(y, 4)) / 2
    weight = torch.einsum("nc,nf->ncf", delta, model.first(x.flatten(1))).flatten(1)
    np.testing.assert_allclose(columns["gradient"], torch.cat([weight, delta], 1).detach(), rtol=2e-3, atol=1e-4)


def test_activations_and_maps_are_the_taps():
    model, x = trained_a_little().eval(), images(5, shape=(3, 48, 40))
    columns = ClassifierTarget(model, taps=["middle", "last"]).measure(x, {"activations", "maps"})
    middle = model.middle(model.entry(x))
    last = model.last(middle)
    expected = torch.cat([middle.mean((2, 3)), last.mean((2, 3))], 1).detach()
    np.testing.assert_allclose(columns["activations"], expected, **TOLERANCE)
    assert columns["maps"].shape == (5, 16, 8, 8)
    np.testing.assert_allclose(columns["maps"], F.adaptive_avg_pool2d(last, 8).detach(), rtol=2e-3, atol=1e-3)


def test_a_tap_overwritten_in_place_is_read_before():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 5, 3), nn.Identity(), nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(F.relu_(self.norm(self.conv(x))).mean((2, 3)))

    model, x = InPlace(), images(4)
    means = ClassifierTarget(model, taps="conv").measure(x, {"activations"})["activations"]
    np.testing.assert_allclose(means, model.conv(x).mean((2, 3)).detach(), **TOLERANCE)
    assert (means < 0).any()


def test_tokens_lie_on_a_grid_without_the_class_token():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.block, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            tokens = self.block(torch.cat([tokens.sum(1, keepdim=True), tokens], 1))
            return self.fc(tokens[:, 0] + tokens.mean(1))

    model, x = Tokens(), images(3)
    columns = ClassifierTarget(model, taps="block").measure(x, {"activations", "maps"})
    grid = model.block(model.patch(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).detach()
    np.testing.assert_allclose(columns["maps"], grid, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(columns["activations"], grid.mean((2, 3)), **TOLERANCE)


def test_a_network_without_a_linear_end():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not ClassifierTarget(model).provides & {"features", "gradient", "activations", "maps", "mint_logit"}
    inside = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 9), nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 4, 3), nn.Flatten()
    )
    with pytest.raises(UsageError, match=r"no nn.Linear of this model gives its output \(2, 4\)"):
        ClassifierTarget(inside).measure((images(2), labels(2)), {"features"})
    norm = ClassifierTarget(model).measure((images(2), labels(2)), {"gradient_norm"})["gradient_norm"]
    assert (norm > 0).all()


def test_taps_that_do_not_exist_or_do_not_run():
    with pytest.raises(SplitError, match="no module 'nowhere'"):
        ClassifierTarget(ToyNet(), taps="nowhere").measure(images(2), {"maps"})
    audit = audit_of()
    audit.points = (dataclasses.replace(audit.points[0], name="unused"),)
    audit.backbone.unused = nn.Identity()
    with pytest.raises(StepError, match=r"\['unused'\] did not run"):
        ClassifierTarget(audit.backbone, audit=audit).measure(images(2), {"maps"})


def test_half_precision_saturates_instead_of_overflowing():
    model = Wrapped(nn.Identity())
    columns = ClassifierTarget(model, taps="body.0").measure((images(2) * 1e6, labels(2)), {"gradient", "maps"})
    for column in columns.values():
        assert np.isfinite(column).all()
        assert np.abs(column).max() == np.finfo(np.float16).max
