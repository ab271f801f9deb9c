"""Attack-R: is the loss low for models that did not train on this sample?

Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from amint.arrays import Floats
from amint.attacks._masked import Mask, needs_of, one_of, referenced, require_outside
from amint.signals import Signals

__all__ = ["AttackR"]

# The largest loss of the interpolated distribution, as in the authors' code.
LARGEST_LOSS = 1000.0


@dataclass(frozen=True)
class AttackR:
    """Score = share of the OUT references whose loss on the sample is at or above the target's.

    Attributes:
        method: ``"interpolated"`` takes one minus the linearly interpolated empirical distribution of the OUT
            losses together with 0 and 1000, which breaks the ties that few references make; ``"share"`` counts.
    """

    name = "attack-r"
    needs = needs_of("logprob")

    method: Literal["interpolated", "share"] = "interpolated"

    def __post_init__(self) -> None:
        one_of("method", self.method, ("interpolated", "share"))

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn: each sample has its own distribution over references."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]`` in [0, 1], higher = more likely a member.

        Raises UsageError for a sample without an OUT reference or columns that do not match, NonFiniteError for
        NaN or infinity.
        """
        columns = referenced(signals, "logprob")
        require_outside(columns.inside, "samples")
        # Rounding may lift a log-probability a little above 0; a loss starts at 0.
        loss = np.maximum(-columns.target, 0.0)
        losses = np.maximum(-columns.reference[:, :, 0].astype(np.float64), 0.0)
        if self.method == "share":
            return _share(loss, losses, ~columns.inside)
        return _interpolated(loss, losses, ~columns.inside)


def _share(loss: Floats, losses: Floats, outside: Mask) -> Floats:
    at_least = (outside & (losses >= loss)).sum(axis=1)
    return np.asarray(at_least / outside.sum(axis=1), dtype=np.float64)


def _interpolated(loss: Floats, losses: Floats, outside: Mask) -> Floats:
    """One minus the distribution whose knots, a row, are 0, 1000 and the OUT losses, at even heights."""
    ends = np.broadcast_to([0.0, LARGEST_LOSS], (len(loss), 2))
    knots = np.concatenate([losses, ends], axis=1)
    used = np.concatenate([outside, np.ones_like(ends, dtype=bool)], axis=1)
    below = used & (knots <= loss)
    above = used & (knots > loss)
    low = np.where(below, knots, 0.0).max(axis=1)
    high = np.where(above, knots, np.inf).min(axis=1)
    steps_up = below.sum(axis=1) - 1 + (loss[:, 0] - low) / (high - low)
    return np.asarray(1 - steps_up / (used.sum(axis=1) - 1), dtype=np.float64)
