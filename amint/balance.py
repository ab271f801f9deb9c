"""Two losses into one. A balance is any object with ``combine(task, mint) -> total``; scalars in, scalar out.

Source: aMINT (arXiv 2509.07879), section 3 (lambda1, lambda2) and its published code, in which each loss is divided by
its value at the first batch, with lambda2/lambda1 from 10 (MNIST) to 10,000 (Tiny ImageNet).
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from amint.errors import UsageError

__all__ = ["Balance", "NormalisedByFirst", "NormalisedByRunningMean", "Weighted"]

_SMALLEST = torch.finfo(torch.float32).tiny


@runtime_checkable
class Balance(Protocol):
    """Combines the task's loss and the MINT loss.

    A balance that remembers something between steps also has ``state_dict()`` and ``load_state_dict(state)``.
    """

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The loss to call ``backward`` on, a scalar that depends on both."""
        ...


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
    """Each loss is divided by its value at the first batch, then weighted: the recipe of the paper's code."""

    def __init__(self, task: float = 1.0, mint: float = 10.0) -> None:
        super().__init__(task, mint)
        self._first: tuple[float, float] | None = None

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The weighted sum of the normalised losses."""
        first = self._first or _shared_values(task, mint)
        if _usable(first):
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
        now = _shared_values(task, mint)
        old = self._mean or now
        a, b = (self.momentum * m + (1 - self.momentum) * n for m, n in zip(old, now, strict=True))
        if _usable((a, b)):
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


def _usable(values: tuple[float, float]) -> bool:
    """A loss of zero, or a broken step that the training loop skips, must not set the scale of those after it."""
    return all(_SMALLEST < value < math.inf for value in values)


def _shared_values(task: Tensor, mint: Tensor) -> tuple[float, float]:
    """Both losses as numbers, the mean over all processes: ranks must not scale their gradients differently."""
    values = torch.stack([task.detach().float(), mint.detach().float()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    a, b = values.abs().clamp_min(_SMALLEST).tolist()
    return a, b
