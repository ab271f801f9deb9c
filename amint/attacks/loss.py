"""Members have a lower loss: the attack that every other one is compared with.

Source: Yeom et al. 2018, "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting", adversary 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats, label_array, score_array
from amint.errors import UsageError
from amint.signals import Signals

__all__ = ["Loss"]


@dataclass(frozen=True)
class Loss:
    """Score = log p_y, which is minus the cross-entropy.

    Attributes:
        mean_training_loss: the threshold of the paper's decision rule, in nats; known to the model's owner. Where it
            is not given, :meth:`fit` estimates it from known members; the score does not depend on it.
    """

    mean_training_loss: float | None = None

    name = "loss"
    needs = frozenset({"logprob"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Loss:
        """The mean loss of the known members becomes the threshold, unless the owner gave one.

        Raises:
            UsageError: no known member, or labels that do not match.
            NonFiniteError: a log-probability is NaN or infinite.
        """
        if self.mean_training_loss is not None:
            return self
        logprob, member = score_array(known["logprob"], "logprob"), label_array(is_member)
        if len(logprob) != len(member) or not member.any():
            raise UsageError(
                f"the mean training loss needs known members and one label a sample; found {len(logprob)} samples, "
                f"{len(member)} labels, {int(member.sum())} members. Add known members, or give mean_training_loss."
            )
        return Loss(float(-logprob[member].mean()))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return score_array(signals["logprob"], "logprob")

    def decide(self, signals: Signals) -> NDArray[np.bool_]:
        """``[n]``: member, iff the loss is at most the mean training loss. Its false-alarm rate is whatever it is.

        Raises:
            UsageError: there is no threshold yet.
            NonFiniteError: a log-probability is NaN or infinite.
        """
        if self.mean_training_loss is None:
            raise UsageError(
                "the mean training loss is not known; give it, Loss(mean_training_loss), or call fit first"
            )
        return np.asarray(-self.score(signals) <= self.mean_training_loss)
