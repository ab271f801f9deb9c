import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.salem import SalemNet, SalemThreshold
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.posteriors import posterior_columns
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


def posteriors(n, sureness, draw, classes=5):
    """Top-3 posteriors of ``n`` samples whose logits have this spread."""
    logits = torch.from_numpy(draw.normal(size=(n, classes)) * sureness)
    return posterior_columns(logits, torch.zeros(n, dtype=torch.long))["top3"].numpy()


def signals_of(n, sure, unsure, seed, classes=5):
    """A target and a shadow model that are surer on what they trained on; the halves of the two differ."""
    draw = np.random.default_rng(seed)
    inside, shadow_in = draw.random(n) < 0.5, draw.random(n) < 0.5
    top3, shadow = (posteriors(n, np.where(half, sure, unsure)[:, None], draw, classes) for half in (inside, shadow_in))
    return Signals({"top3": top3, "shadow_top3": shadow, "shadow_in": shadow_in}), inside


@pytest.fixture(scope="module")
def fitted():
    known, _ = signals_of(1500, 6.0, 1.5, seed=1)
    return SalemNet().fit(known, np.zeros(len(known), bool))


def test_the_inputs_equal_the_reference_vectors():
    logits, labels = torch.tensor(VECTORS["logits"], dtype=torch.float64), torch.tensor(VECTORS["labels"])
    expected = np.array(VECTORS["salem_top3_sorted"])
    columns = posterior_columns(logits, labels)
    np.testing.assert_allclose(columns["top3"], expected, rtol=0, atol=1e-9)
    scores = SalemThreshold().score(Signals({"max_logprob": columns["max_logprob"].numpy()}))
    np.testing.assert_allclose(np.exp(scores), expected[:, 0], rtol=0, atol=1e-9)


def test_what_the_shadow_teaches_holds_for_the_target(fitted):
    judged, inside = signals_of(3000, 6.0, 1.5, seed=2)
    learned = auroc(fitted.score(judged), inside)
    assert learned > 0.8
    assert learned > auroc(judged["top3"][:, 0], inside) - 0.02


def test_a_shadow_that_memorised_nothing_teaches_nothing():
    known, _ = signals_of(1500, 2.0, 2.0, seed=3)
    judged, inside = signals_of(3000, 2.0, 2.0, seed=4)
    scores = SalemNet().fit(known, np.zeros(len(known), bool)).score(judged)
    assert 0.46 < auroc(scores, inside) < 0.54


def test_the_score_is_the_log_odds_of_the_fitted_network(fitted):
    judged, _ = signals_of(500, 2.0, 1.0, seed=5)
    p = fitted.pipeline.predict_proba(judged["top3"])[:, 1]
    np.testing.assert_allclose(fitted.score(judged), np.log(p) - np.log1p(-p), rtol=1e-7, atol=1e-9)


def test_log_odds_do_not_tie_where_probabilities_would():
    known = np.tile([[0.34, 0.33, 0.33], [1.0, 0.0, 0.0]], (500, 1))
    known = Signals({"top3": known, "shadow_top3": known, "shadow_in": np.tile([False, True], 500)})
    far = np.c_[np.linspace(1, 40, 20), np.zeros((20, 2))]
    scores = SalemNet().fit(known, np.zeros(1000, bool)).score(Signals({"top3": far}))
    assert scores[-1] > 37
    assert (np.diff(scores) > 0).all()


def test_the_targets_membership_is_not_looked_at():
    known, inside = signals_of(300, 6.0, 1.5, seed=6)
    judged, _ = signals_of(50, 6.0, 1.5, seed=7)
    a, b = (SalemNet().fit(known, labels).score(judged) for labels in (inside, ~inside))
    np.testing.assert_array_equal(a, b)


def test_the_seed_decides_and_the_global_state_does_not():
    known, inside = signals_of(300, 6.0, 1.5, seed=6)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (SalemNet(seed).fit(known, inside).score(known) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_two_classes_have_two_posteriors(fitted):
    known, inside = signals_of(300, 6.0, 1.5, seed=6, classes=2)
    assert known["top3"].shape == (300, 2)
    assert np.isfinite(SalemNet().fit(known, inside).score(known)).all()
    with pytest.raises(UsageError, match=r"gave 3 posteriors a sample and the target 2.*same classes"):
        fitted.score(known)


@pytest.mark.parametrize("shadow_in", [np.zeros(20, bool), np.ones(20, bool)])
def test_a_shadow_needs_both_kinds(shadow_in):
    known, inside = signals_of(20, 6.0, 1.5, seed=6)
    known = Signals({**known.columns, "shadow_in": shadow_in})
    with pytest.raises(UsageError, match=rf"found {shadow_in.sum()} of 20 in its training"):
        SalemNet().fit(known, inside)


def test_bad_posteriors_are_refused(fitted):
    with pytest.raises(UsageError, match="call fit"):
        SalemNet().score(Signals({"top3": np.zeros((2, 3))}))
    with pytest.raises(UsageError, match=r"top3 must be \[n, 3\].*found shape \(2,\)"):
        fitted.score(Signals({"top3": np.zeros(2)}))
    with pytest.raises(NonFiniteError, match="top3: 1 of 6"):
        fitted.score(Signals({"top3": np.array([[0.5, np.nan, 0.0], [1, 0, 0]])}))
    with pytest.raises(NonFiniteError, match="max_logprob: 1 of 2"):
        SalemThreshold().score(Signals({"max_logprob": np.array([-np.inf, 0.0])}))
