"""Membership attacks: signals in, one score a sample out; higher = more likely a member, without exception."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np

from amint.signals import Signals

__all__ = ["Attack"]


class Attack(Protocol):
    """Any attack, active or passive.

    Attributes:
        name: short, lower case.
        needs: names of the signals it reads.

    A fitted attack may have a text ``note``: what to mind when reading its figures, which a comparison then says.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def needs(self) -> frozenset[str]:
        """See above."""
        ...

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:
        """Learn from samples whose membership is known."""
        ...

    def score(self, signals: Signals) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``[n]``, higher = more likely a member."""
        ...
