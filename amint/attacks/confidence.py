"""The posterior of the true class as the score.

Source: Song and Mittal 2021 (confidence attack); Salem et al. 2019.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["Confidence"]


class Confidence:
    """Score = p_y. The order is that of the loss, except that posteriors within 1e-16 of 1 are tied."""

    name = "confidence"
    needs = frozenset({"logprob"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return np.exp(score_array(signals["logprob"], "logprob"))
