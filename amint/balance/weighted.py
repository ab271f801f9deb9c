"""Two losses into one by weights that are fixed, or follow the size of the losses.

Source: aMINT (arXiv 2509.07879), section 3 (lambda1, lambda2) and its published code, in which each loss is divided by
its value at the first batch, with lambda2/lambda1 from 10 (MNIST) to 10,000 (Tiny ImageNet).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from amint.balance.values import shared_values, usable
from amint.errors import UsageError

__all__ = ["NormalisedByFirst", "NormalisedByRunningMean", "Weighted"]


class Weighted:
    """``task * task_loss + mint * mint_loss``.

    Args:
        task, mint: the weights, positive.
    """

    def __init__(self, task: float = 1.0, mint: float = 1.0) -> None:
        self.task, self.mint = _positive("task", task), _positive("mint", mint)

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The weighted sum."""
        return self.task * task + self.mint * mint

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task={self.task:g}, mint={self.mint:g})"


class NormalisedByFirst(Weighted):
    """Each loss is divided by its value at the first batch, then weighted: the recipe of the paper's code.

    Args:
        task, mint: the weights, positive. The paper's lambda2/lambda1, 10 and more, costs the task several points and
            finds no more members (recipes/RESULTS.md, "Task against audit").
    """

    def __init__(self, task: float = 1.0, mint: float = 1.0) -> None:
        super().__init__(task, mint)
        self._first: tuple[float, float] | None = None

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The weighted sum of the normalised losses."""
        first = self._first or shared_values(task, mint)
        if usable(first):
            self._first = first
        return super().combine(task / first[0], mint / first[1])

    def state_dict(self) -> dict[str, Any]:
        """The first losses."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the first losses."""
        self._first = None if state["first"] is None else tuple(state["first"])


class NormalisedByRunningMean(Weighted):
    """Each loss is divided by its exponential running mean, then weighted.

    Args:
        task, mint: the weights, positive.
        momentum: share of the old mean that is kept, 0 <= momentum < 1.
    """

    def __init__(self, task: float = 1.0, mint: float = 1.0, momentum: float = 0.99) -> None:
        super().__init__(task, mint)
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum must be at least 0 and below 1, got {momentum}")
        self.momentum = momentum
        self._mean: tuple[float, float] | None = None

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The weighted sum of the normalised losses."""
        now = shared_values(task, mint)
        old = self._mean or now
        a, b = (self.momentum * m + (1 - self.momentum) * n for m, n in zip(old, now, strict=True))
        if usable((a, b)):
            self._mean = (a, b)
        return super().combine(task / a, mint / b)

    def state_dict(self) -> dict[str, Any]:
        """The running means."""
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the running means."""
        self._mean = None if state["mean"] is None else tuple(state["mean"])


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"the weight {name!r} must be positive and finite, got {value}. To keep the MINT loss away from the "
            "audited model use trunk_gradient=0, not a weight of 0"
        )
    return float(value)
