"""Entropy that takes the true class into account: a confident mistake is the opposite of a confident hit.

Source: Song and Mittal 2021, "Systematic Evaluation of Privacy Risks of Machine Learning Models", with their
thresholds for each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from amint.arrays import Floats, by_class, label_array, score_array
from amint.errors import UsageError
from amint.metrics import roc
from amint.signals import Signals

__all__ = ["ModifiedEntropy", "ModifiedEntropyByClass"]


class ModifiedEntropy:
    """Score = minus the modified entropy, in nats; the same threshold for all classes."""

    name = "modified-entropy"
    needs = frozenset({"modified_entropy"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return -score_array(signals["modified_entropy"], "modified_entropy")


@dataclass(frozen=True)
class ModifiedEntropyByClass:
    """Score = threshold of the sample's class - modified entropy, so that 0 is the border in every class.

    The paper tunes one threshold a class; as a score, each class is centred on its own.

    Attributes:
        pooled: the threshold, in nats, of classes without an own one; None before :meth:`fit`.
        thresholds: (class, threshold in nats), for every class with known members and known non-members.
    """

    pooled: float | None = None
    thresholds: tuple[tuple[int, float], ...] = ()

    name = "modified-entropy-by-class"
    needs = frozenset({"modified_entropy", "label"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> ModifiedEntropyByClass:
        """The threshold of the highest balanced accuracy on the known samples: in each class, and over all of them.

        Raises:
            UsageError: members and non-members are not both known, or labels that do not match.
            NonFiniteError: an entropy is NaN or infinite.
        """
        scores, classes, member = ModifiedEntropy().score(known), known["label"], label_array(is_member)
        by_class(scores, member)
        found = []
        for label in np.unique(classes):
            rows = classes == label
            if 0 < member[rows].sum() < rows.sum():
                found.append((int(label), _threshold(scores[rows], member[rows])))
        return ModifiedEntropyByClass(_threshold(scores, member), tuple(found))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member.

        Raises:
            UsageError: not fitted.
            NonFiniteError: an entropy is NaN or infinite.
        """
        if self.pooled is None:
            raise UsageError("modified-entropy-by-class has no thresholds; call fit with known samples first")
        scores, classes = ModifiedEntropy().score(signals), signals["label"]
        thresholds: Floats = np.full(len(scores), self.pooled, np.float64)
        for label, threshold in self.thresholds:
            thresholds[classes == label] = threshold
        return scores + thresholds


def _threshold(scores: Floats, member: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """The entropy threshold of the highest balanced accuracy, "at or below" meaning member."""
    curve = roc(scores, member)
    best = int(np.argmax((curve.tpr - curve.fpr)[1:]))
    return -float(curve.thresholds[1:][best])
