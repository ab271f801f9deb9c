"""How far the true class leads the next one, in logits.

Source: Bertran et al. 2023 (the score behind their quantile regression).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["Margin"]


class Margin:
    """Score = z_y - max over the other classes; unlike a posterior it does not saturate."""

    name = "margin"
    needs = frozenset({"hinge"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return score_array(signals["hinge"], "hinge")
