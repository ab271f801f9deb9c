import json
from pathlib import Path

import numpy as np
import pytest
from test_attacks_references import EXACT, MEMBERS, SCORED, changed, fleet

from amint.attacks.watson import Watson
from amint.metrics import auroc
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


def test_the_score_equals_the_reference_vectors():
    losses = np.array(VECTORS["reference_losses"]).T
    signals = Signals(
        {
            "logprob": -np.array(VECTORS["loss"]),
            "reference_logprob": -losses,
            "reference_in": np.zeros(losses.shape, bool),
        }
    )
    assert Watson().score(signals) == pytest.approx(VECTORS["watson_calibrated_score"], **EXACT)


def slow_calibrated_loss(loss, reference_losses, inside):
    """The authors' reading, sample by sample: loss under the target less the mean loss of models without the sample.

    Lower is a member there (and in PrivacyGuard's port with its one reference score), so the sign differs from ours.
    """
    calibrated = []
    for i in range(len(loss)):
        without = [reference_losses[i][k] for k in range(len(inside[i])) if not inside[i][k]]
        calibrated.append(loss[i] - sum(without) / len(without))
    return np.array(calibrated)


def test_the_score_is_minus_the_authors_in_loops():
    slow = slow_calibrated_loss(-SCORED["logprob"], -SCORED["reference_logprob"], SCORED["reference_in"])
    np.testing.assert_allclose(Watson().score(SCORED), -slow, rtol=1e-12, atol=1e-12)


def test_in_references_are_not_looked_at():
    inside = SCORED["reference_in"]
    other = np.where(inside, -50.0, SCORED["reference_logprob"])
    np.testing.assert_array_equal(Watson().score(changed(SCORED, reference_logprob=other)), Watson().score(SCORED))


def test_calibration_finds_members_that_the_loss_cannot():
    signals, is_member = fleet(n=4000, seed=6, gain=1.0)
    assert auroc(Watson().score(signals), is_member) > auroc(signals["logprob"], is_member) + 0.03


def test_a_shift_of_difficulty_alone_changes_nothing():
    shift = -np.random.default_rng(0).exponential(size=len(MEMBERS))
    harder = changed(
        SCORED,
        logprob=SCORED["logprob"] + shift,
        reference_logprob=SCORED["reference_logprob"] + shift[:, None],
    )
    np.testing.assert_allclose(Watson().score(harder), Watson().score(SCORED), atol=1e-12)


def test_there_is_nothing_to_fit():
    attack = Watson()
    assert attack.fit(SCORED, MEMBERS) is attack
