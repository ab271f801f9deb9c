"""Does the model do its task on what it is said to have been trained on? Where not, it was given other inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amint.arrays import Floats

__all__ = ["TaskAccuracy", "task_accuracy"]

# Accepted chance that a model without any skill on the members is taken for one with some.
_LEVEL = 0.05


@dataclass(frozen=True)
class TaskAccuracy:
    """How often a classifier is right.

    Attributes:
        members: share of right answers, from 0 to 1.
        nonmembers: the same.
        p_value: chance that answers which have nothing to do with the members' classes are right at least as often;
            None if the members are of one class, which then tells nothing.
    """

    members: float
    nonmembers: float
    p_value: float | None

    @property
    def guesses(self) -> bool:
        """Whether nothing shows that the model knows the members' classes."""
        return self.p_value is not None and self.p_value > _LEVEL

    def sentence(self) -> str:
        """The two shares in plain words, and what it means if the model only guesses."""
        members, others = f"{100 * self.members:.1f} %", f"{100 * self.nonmembers:.1f} %"
        if not self.guesses:
            return f"The model is right about {members} of the members and {others} of the non-members."
        return (
            f"The model is right about {members} of the members, which guessing gives, too: it was trained on other "
            "data, or these inputs are not preprocessed as in its training, or their classes are numbered otherwise."
        )


def task_accuracy(correct: NDArray[Any], classes: NDArray[np.int64], is_member: NDArray[np.bool_]) -> TaskAccuracy:
    """Accuracy on both sides, and whether that on the members is more than guessing.

    Whatever the classes' frequencies are, answers that do not depend on the class are right about a share of each class
    that adds up to one over all classes. The test is of that sum (balanced accuracy times the number of classes).

    Args:
        correct: ``[n]``, 1 where the predicted class is the true one, else 0.
        classes: ``[n]``, true classes.
        is_member: ``[n]``, with both kinds.
    """
    right, inside = np.asarray(correct, float), np.asarray(is_member, bool)
    p_value = _no_skill_p(right[inside], classes[inside])
    return TaskAccuracy(float(right[inside].mean()), float(right[~inside].mean()), p_value)


def _no_skill_p(right: Floats, classes: NDArray[np.int64]) -> float | None:
    kinds, numbers = np.unique(classes, return_inverse=True)
    if len(kinds) < 2:
        return None
    counts, found = np.bincount(numbers), np.bincount(numbers, right)
    smoothed = (found + 0.5) / (counts + 1)
    # Without skill the shares add up to one, so that the rarest class alone bounds the variance of the sum.
    variance = min(float((smoothed * (1 - smoothed) / counts).sum()), 1 / counts.min())
    return float(stats.norm.sf(((found / counts).sum() - 1) / np.sqrt(variance)))
