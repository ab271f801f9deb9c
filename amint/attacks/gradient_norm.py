"""Members lie near a minimum of their own loss: their gradient is small.

Source: Nasr et al. 2019 (gradient signals); one number instead of a network on top.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["GradientNorm"]


class GradientNorm:
    """Score = minus the norm of the gradient of the loss of the true class."""

    name = "gradient-norm"
    needs = frozenset({"gradient_norm"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return -score_array(signals["gradient_norm"], "gradient_norm")
