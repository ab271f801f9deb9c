"""Attack-P: is the loss low for the population?

Source: Ye et al. 2022, "Enhanced Membership Inference Attacks against Machine Learning Models", section 4.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from amint.arrays import Floats
from amint.attacks._masked import known_nonmembers, target_column
from amint.errors import UsageError
from amint.signals import Signals

__all__ = ["AttackP"]


@dataclass(frozen=True)
class AttackP:
    """Score = share of the population's losses that are at or above the sample's own, in steps of 1/m.

    The population are the known non-members. Every sample with one loss gets one score, so the ROC is that of the
    loss itself, up to the ties that the steps make; what is gained is a threshold with a meaning.

    Attributes:
        population: after :meth:`fit`, the population's log p(y), float64 ``[m]``, ascending, read-only.
    """

    name = "attack-p"
    needs = frozenset({"logprob"})

    population: Floats | None = field(default=None, repr=False, compare=False)

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:
        """A new attack that holds the known non-members' losses.

        Raises UsageError where there is no known non-member, NonFiniteError for NaN or infinity.
        """
        losses = target_column(known_nonmembers(known, is_member, self.needs), "logprob")
        ascending = np.sort(losses[:, 0])
        ascending.setflags(write=False)
        return replace(self, population=ascending)

    def score(self, signals: Signals) -> Floats:
        """``[n]`` in [0, 1], higher = more likely a member. Raises UsageError before :meth:`fit`."""
        if self.population is None:
            raise UsageError("Attack-P has no population yet; call fit with known non-members first.")
        logprob = target_column(signals, "logprob")[:, 0]
        at_most = np.searchsorted(self.population, logprob, side="right")
        return np.asarray(at_most / len(self.population), dtype=np.float64)
