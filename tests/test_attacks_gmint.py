import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy

from amint.attacks.gmint import GMint
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.posteriors import posterior_columns
from amint.signals import Signals

CASE = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())["gmint_linear_softmax"]


def autograd(x, weight, bias, labels):
    """Per-sample gradients of the loss with respect to weight ``[f, c]`` and bias, by automatic differentiation."""

    def loss(weight, bias, row, label):
        return cross_entropy((row @ weight + bias)[None], label[None])

    return vmap(grad(loss, (0, 1)), (None, None, 0, 0))(weight, bias, x, labels)


def closed_form(x, logits, labels):
    """x (p - onehot)^T, with p_y - 1 from the log-odds: it keeps its digits where p_y rounds to 1."""
    residual = logits.softmax(1)
    surplus = -torch.sigmoid(-posterior_columns(logits, labels)["scaled_logit"])
    residual[torch.arange(len(labels)), labels] = surplus
    return x[:, :, None] * residual[:, None, :], residual


def signals_of(n, seed, gap=4.0, share=0.5, dim=6, classes=3):
    """Gradients of a linear layer whose members it classifies with log-odds higher by ``gap``."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=draw, dtype=torch.float64).relu() + 0.1
    labels = torch.randint(classes, (n,), generator=draw)
    member = torch.arange(n) < share * n
    logits = 2 * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    logits[torch.arange(n), labels] += 1 + gap * member
    weight, bias = closed_form(x, logits, labels)
    gradient = torch.cat([weight.flatten(1), bias], 1)
    norms = torch.stack([weight.flatten(1).norm(dim=1), bias.norm(dim=1)], 1)
    return Signals({"gradient": gradient.half().numpy(), "gradient_norms": norms.numpy()}), member.numpy()


@pytest.fixture(scope="module")
def fitted():
    return GMint().fit(*signals_of(1000, seed=1))


def test_gradients_equal_the_reference_vectors():
    x, weight, bias = (torch.tensor(CASE[name], dtype=torch.float64) for name in ("x", "W", "b"))
    labels = torch.tensor(CASE["labels"])
    for found in (autograd(x, weight, bias, labels), closed_form(x, x @ weight + bias, labels)):
        np.testing.assert_allclose(found[0], CASE["grad_W"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[1], CASE["grad_b"], rtol=0, atol=1e-9)


def test_members_of_another_sample_score_higher(fitted):
    judged, member = signals_of(3000, seed=2)
    assert auroc(fitted.score(judged), member) > 0.8


def test_it_is_about_as_good_as_the_norm_where_the_norm_says_all(fitted):
    judged, member = signals_of(3000, seed=2)
    assert auroc(fitted.score(judged), member) > auroc(-np.linalg.norm(judged["gradient_norms"], axis=1), member) - 0.03


def test_norms_below_float16_still_count():
    """Two kinds of well-learned samples: both gradients are 0 in float16, only their norms tell them apart."""
    norm = np.repeat([1e-12, 1e-9], 200) * np.random.default_rng(0).uniform(0.5, 2, 400)
    signals = Signals({"gradient": np.zeros((400, 5), np.float16), "gradient_norms": norm[:, None]})
    member = np.arange(400) < 200
    assert auroc(GMint().fit(signals, member).score(signals), member) > 0.99


def test_directions_count_where_norms_are_equal():
    draw = np.random.default_rng(0)
    member = np.arange(600) < 300
    gradient = draw.normal(size=(600, 8)) + 1.5 * member[:, None] * np.eye(8)[0]
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    signals = Signals({"gradient": gradient.astype(np.float16), "gradient_norms": np.ones((600, 2))})
    rows = np.arange(600) % 2 == 0
    known, judged = (Signals({k: v[r] for k, v in signals.columns.items()}) for r in (rows, ~rows))
    assert auroc(GMint().fit(known, member[rows]).score(judged), member[~rows]) > 0.7


def test_without_a_difference_there_is_nothing_to_learn():
    values = []
    for seed in range(4):
        judged, member = signals_of(2000, 20 + seed, gap=0.0)
        values.append(auroc(GMint(seed).fit(*signals_of(600, 10 + seed, gap=0.0)).score(judged), member))
    assert 0.47 < np.mean(values) < 0.53


def test_the_seed_decides():
    known, member = signals_of(80, seed=1)
    a, b, c = (GMint(seed).fit(known, member).score(known) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_zero_gradients_are_samples_too(fitted):
    judged, _ = signals_of(3, seed=2)
    nothing = {name: np.zeros_like(column) for name, column in judged.columns.items()}
    assert np.isfinite(fitted.score(Signals(nothing))).all()


def test_what_does_not_fit_is_refused(fitted):
    known, _ = signals_of(20, seed=1)
    with pytest.raises(UsageError, match="call fit"):
        GMint().score(known)
    with pytest.raises(UsageError, match="at least 2 known members and 2 known non-members"):
        GMint().fit(known, np.ones(20, bool))
    for column, error, match in [
        ({"gradient": known["gradient"][:, 1:]}, UsageError, r"fitted on samples of shape \(23,\), found \(22,\)"),
        ({"gradient": known["gradient"][0].repeat(2)[:20]}, UsageError, "gradient must be a floating array of 2 axes"),
        ({"gradient": np.full((20, 21), np.inf, np.float16)}, NonFiniteError, "gradient: 20 of 20"),
        ({"gradient_norms": np.full((20, 2), np.nan)}, NonFiniteError, "gradient_norms: 20 of 20"),
        ({"gradient_norms": np.full((20, 2), -1.0)}, UsageError, "0 or more; 20 of 20 rows"),
        ({"gradient_norms": np.full(20, 1.0)}, UsageError, "gradient_norms must be a floating array of 2 axes"),
    ]:
        with pytest.raises(error, match=match):
            fitted.score(Signals({**known.columns, **column}))
