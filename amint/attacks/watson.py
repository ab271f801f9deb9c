"""Difficulty calibration: how much surer is the target of a sample than models that never saw it?

Source: Watson et al. 2022, "On the Importance of Difficulty Calibration in Membership Inference Attacks",
section 3, with the loss as the signal.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from amint.arrays import Floats
from amint.attacks._masked import mean, needs_of, referenced, require_outside
from amint.signals import Signals

__all__ = ["Watson"]


@dataclass(frozen=True)
class Watson:
    """Score = log p(y) minus its mean over the OUT references, in nats: the references' loss minus the target's.

    Works from one reference on. The official code returns the negative.
    """

    name = "watson"
    needs = needs_of("logprob")

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn: the references carry the difficulty of each sample."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member.

        Raises UsageError for a sample without an OUT reference or columns that do not match, NonFiniteError for
        NaN or infinity.
        """
        columns = referenced(signals, "logprob")
        require_outside(columns.inside, "samples")
        calibrated: Floats = columns.target - mean(columns.reference, ~columns.inside)
        return calibrated[:, 0]
