"""Members are classified correctly more often: the weakest attack, and the one that needs only the answer.

Source: Yeom et al. 2018 (the gap between training and test accuracy); called baseline or gap attack since.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["Correctness"]


class Correctness:
    """Score = 1 where the predicted class is the true one, else 0; every other attack has to beat it."""

    name = "correctness"
    needs = frozenset({"correct"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return score_array(signals["correct"], "correct")
