import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks.loss import Loss
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
    scores = Loss().score(signals)
    np.testing.assert_allclose(scores, -np.array(VECTORS["loss"]), rtol=0, atol=1e-9)
    assert scores.dtype == np.float64


def test_decisions_equal_the_reference_vectors(signals):
    found = Loss(VECTORS["yeom_threshold_mean_train_loss"]).decide(signals)
    assert found.dtype == np.bool_
    assert found.astype(int).tolist() == VECTORS["yeom_decision"]


def test_a_loss_equal_to_the_mean_is_a_members():
    assert Loss(0.5).decide(Signals({"logprob": np.array([-0.5, np.nextafter(-0.5, -1)])})).tolist() == [True, False]


def test_the_threshold_is_the_mean_loss_of_the_known_members(signals):
    losses = VECTORS["loss"]
    fitted = Loss().fit(signals, np.array([True, False, True, False]))
    assert fitted.mean_training_loss == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-9)
    np.testing.assert_array_equal(fitted.score(signals), Loss().score(signals))


def test_fit_leaves_the_attack_and_the_owners_number_alone(signals):
    attack, known = Loss(), np.array([True, False, True, False])
    attack.fit(signals, known)
    assert attack.mean_training_loss is None
    assert Loss(0.25).fit(signals, known).mean_training_loss == 0.25


def test_without_a_threshold_there_is_no_decision(signals):
    with pytest.raises(UsageError, match="mean training loss is not known; give it"):
        Loss().decide(signals)


@pytest.mark.parametrize("known", [np.zeros(4, bool), np.ones(3, bool), np.zeros(0, bool)])
def test_the_threshold_needs_known_members(signals, known):
    with pytest.raises(UsageError, match=rf"found 4 samples, {len(known)} labels, {known.sum()} members"):
        Loss().fit(signals, known)


def test_the_error_of_the_rule_is_the_gap_between_the_losses():
    """Exponential losses, mean 1 for members and 3 for others: P(loss <= 1) is 1 - 1/e and 1 - e^(-1/3)."""
    draw = np.random.default_rng(0)
    inside, outside = -draw.exponential(1, 40_000), -draw.exponential(3, 40_000)
    fitted = Loss().fit(Signals({"logprob": np.r_[inside, outside]}), np.repeat([True, False], 40_000))
    for logprob, rate in [(inside, 1 - np.exp(-1)), (outside, 1 - np.exp(-1 / 3))]:
        assert fitted.decide(Signals({"logprob": logprob})).mean() == pytest.approx(rate, abs=0.012)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="logprob: 1 of 3 are NaN or infinite, the first at index 1"):
        Loss().score(Signals({"logprob": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="logprob must be a one-dimensional array of numbers"):
        Loss().score(Signals({"logprob": column}))
