"""An attack that knows only a few non-members, wrapped around any other: how much does the population matter?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amint.attacks import Attack
from amint.signals import Signals


@dataclass(frozen=True)
class FewKnown:
    """The attack, fitted on all known members and on ``most`` of the known non-members."""

    attack: Attack
    most: int

    @property
    def name(self) -> str:
        """The attack's name and how many non-members it knows."""
        return f"{self.attack.name}, {self.most} known"

    @property
    def needs(self) -> frozenset[str]:
        """The attack's own."""
        return self.attack.needs

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> FewKnown:
        """On all members and the first non-members."""
        kept = np.sort(np.r_[np.flatnonzero(is_member), np.flatnonzero(~is_member)[: self.most]])
        return replace(self, attack=self.attack.fit(known.rows(kept), is_member[kept]))

    def score(self, signals: Signals) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The attack's own."""
        return self.attack.score(signals)
