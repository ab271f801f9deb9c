"""Members get surer posteriors; no label is needed.

Source: Shokri et al. 2017; Song and Mittal 2021 (prediction entropy).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["Entropy"]


class Entropy:
    """Score = minus the entropy of the posteriors, in nats. A confident mistake counts like a confident hit."""

    name = "entropy"
    needs = frozenset({"entropy"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return -score_array(signals["entropy"], "entropy")
