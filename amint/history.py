"""The curves of a training run: losses and accuracy over the steps, in a bounded number of points.

A point is the mean over a stretch of steps. When there are too many points, neighbours are merged and every further
point takes twice as many steps, so that a long run takes no more room than a short one, and each step counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from amint.errors import UsageError

__all__ = ["Curves", "History", "balanced_accuracy"]

# Neighbours are merged in pairs: an even number.
_MOST_POINTS = 500
_MOST_STEPS = 2**53


@dataclass(frozen=True)
class Curves:
    """Means over stretches of steps.

    Attributes:
        steps: training steps in all.
        stride: steps a point; the last point may stand for fewer.
        mint_loss: ``[p]``, as in :func:`amint.losses.membership_loss`.
        mint_accuracy: ``[p]``, balanced accuracy of the MINT head on the rows that it is trained on, at the logit 0.
        task_loss: ``[p]``, what the training loop gave; None where the model was not trained along with the head.
    """

    steps: int
    stride: int
    mint_loss: tuple[float, ...]
    mint_accuracy: tuple[float, ...]
    task_loss: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self._columns().values()}
        whole = all(type(value) is int and 0 < value <= _MOST_STEPS for value in (self.steps, self.stride))
        if not whole or lengths != {-(-self.steps // self.stride)}:
            raise UsageError(f"{self.steps} steps in points of {self.stride} cannot be columns of {sorted(lengths)}")
        for name, values in self._columns().items():
            if not all(type(value) is float and math.isfinite(value) for value in values):
                raise UsageError(f"the {name} of some steps is not a finite number")

    @property
    def middles(self) -> tuple[float, ...]:
        """The middle of each point's stretch of steps ``[p]``, counted from 1."""
        starts = range(0, self.steps, self.stride)
        return tuple((start + 1 + min(start + self.stride, self.steps)) / 2 for start in starts)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the facts of an audit."""
        columns = {name: list(values) for name, values in self._columns().items()}
        return {"steps": self.steps, "stride": self.stride, **columns}

    @staticmethod
    def from_json(data: Any) -> Curves:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: anything else.
        """
        try:
            columns = {name: tuple(data[name]) for name in data if name not in ("steps", "stride")}
            return Curves(data["steps"], data["stride"], **columns)
        except (LookupError, TypeError) as error:
            raise UsageError(f"these are not the curves of a training run: {error!r}") from error

    def _columns(self) -> dict[str, tuple[float, ...]]:
        return {k: v for k, v in asdict(self).items() if k not in ("steps", "stride") and v is not None}


class History:
    """Collects :class:`Curves` while training runs.

    A step costs a few operations on scalars on the device. They are waited for only when a point closes: at each of
    the first 500 steps, and ever more rarely from then on. Among several processes each keeps its own.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._stride = 1
        self._points: list[list[float]] = []
        # Sums over the steps of the point that is still open, and how many these are.
        self._sums, self._open = torch.zeros(0, dtype=torch.float64), 0

    def add(self, *, mint_loss: Tensor, mint_accuracy: Tensor, task_loss: Tensor | None = None) -> None:
        """Note one step, in scalars on any device; all steps give the task's loss, or none does."""
        given = {"mint_loss": mint_loss, "mint_accuracy": mint_accuracy, "task_loss": task_loss}
        step = {name: value for name, value in given.items() if value is not None}
        device = mint_loss.device
        values = torch.stack([v.detach().reshape(()).to(device, torch.float64) for v in step.values()])
        self._names = tuple(step)
        self._sums = values if self._open == 0 else self._sums.to(device) + values
        self._open += 1
        if self._open == self._stride:
            self._close()

    def curves(self) -> Curves | None:
        """The curves up to now, or None before the first step."""
        points = [[total / self._stride for total in point] for point in self._points]
        if self._open:
            points.append([total / self._open for total in self._sums.tolist()])
        if not points:
            return None
        columns = dict(zip(self._names, map(tuple, zip(*points, strict=True)), strict=True))
        # A balance of one's own may go on without a task loss that is not finite.
        if not all(map(math.isfinite, columns.get("task_loss", ()))):
            del columns["task_loss"]
        return Curves(self._stride * len(self._points) + self._open, self._stride, **columns)

    def facts(self) -> dict[str, Any]:
        """The curves as plain values for the bundle, under "history"; nothing before the first step."""
        found = self.curves()
        return {} if found is None else {"history": found.to_json()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as without a stop, as plain values."""
        return {
            "names": list(self._names),
            "stride": self._stride,
            "points": [list(point) for point in self._points],
            "sums": self._sums.tolist(),
            "open": self._open,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._names, self._stride, self._open = tuple(state["names"]), state["stride"], state["open"]
        self._points = [list(point) for point in state["points"]]
        self._sums = torch.tensor(state["sums"], dtype=torch.float64)

    def _close(self) -> None:
        self._points.append(self._sums.tolist())
        self._open = 0
        if len(self._points) == _MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            self._stride *= 2


@torch.no_grad()
def balanced_accuracy(logits: Tensor, members: int) -> Tensor:
    """A scalar: the mean of the share of members above 0 and the share of others at or below 0.

    Args:
        logits: ``[n]``, the members' first.
        members: how many of them are members, between 1 and n - 1.
    """
    inside, outside = logits[:members] > 0, logits[members:] <= 0
    return (inside.double().mean() + outside.double().mean()) / 2
