"""The trained MINT head as an attack: its score (:meth:`amint.Audit.score`) is the attack's.

Source: aMINT (arXiv 2509.07879), section 3.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from amint.signals import Signals

__all__ = ["Mint"]


class Mint:
    """Score = MINT score; there is nothing left to fit after training."""

    name = "mint"
    needs = frozenset({"mint_logit"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``[n]``, higher = more likely a member."""
        return np.asarray(signals["mint_logit"], np.float64)
