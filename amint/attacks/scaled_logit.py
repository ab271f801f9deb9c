"""The log-odds of the true class: the loss on a scale where it is nearly Gaussian.

Source: Carlini et al. 2022 (LiRA), the logit scaling of the confidence.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.arrays import Floats, score_array
from amint.signals import Signals

__all__ = ["ScaledLogit"]


class ScaledLogit:
    """Score = log(p_y / (1 - p_y)) = z_y - logsumexp over the other classes."""

    name = "scaled-logit"
    needs = frozenset({"scaled_logit"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return score_array(signals["scaled_logit"], "scaled_logit")
