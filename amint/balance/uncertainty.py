"""Weights learned as the uncertainty of each loss.

Source: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
CVPR 2018, section 3.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from amint.balance.torchjd_extra import torchjd_module
from amint.balance.values import shared_values, usable
from amint.errors import UsageError

__all__ = ["UncertaintyWeighting"]


class UncertaintyWeighting:
    """``exp(-s_task)/2 * task_loss + s_task/2``, and the same for the MINT loss, with learned log-variances ``s``.

    The log-variances start at 0 and follow an Adam of their own, one step a call, so that they need no place in the
    model's optimizer and learn alike in any loop. Uses torchjd's ``UW`` (extra "balance").

    Args:
        learning_rate: of the log-variances, positive.

    Raises:
        UsageError: torchjd is not installed, or a bad learning rate.
    """

    def __init__(self, learning_rate: float = 0.01) -> None:
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise UsageError(f"learning_rate must be positive and finite, got {learning_rate}")
        self.learning_rate = learning_rate
        self._uncertainty = torchjd_module("scalarization", type(self).__name__).UW(2)
        self._optimizer = torch.optim.Adam(self._uncertainty.parameters(), learning_rate)

    @property
    def log_variances(self) -> tuple[float, float]:
        """``s`` of the task's loss and of the MINT loss."""
        task, mint = self._uncertainty.log_var.tolist()
        return task, mint

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The losses weighted by the uncertainties before this step, which then learn from it."""
        losses = torch.stack([task, mint])
        before = {"log_var": self._uncertainty.log_var.detach().to(losses, copy=True)}
        total: Tensor = torch.func.functional_call(self._uncertainty, before, (losses,))
        self._learn(shared_values(task, mint))
        return total

    def state_dict(self) -> dict[str, Any]:
        """The log-variances and their optimizer."""
        return {"uncertainty": self._uncertainty.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the log-variances and their optimizer."""
        self._uncertainty.load_state_dict(state["uncertainty"])
        self._optimizer.load_state_dict(state["optimizer"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(learning_rate={self.learning_rate:g})"

    def _learn(self, values: tuple[float, float]) -> None:
        if usable(values):
            self._optimizer.zero_grad()
            with torch.enable_grad():
                self._uncertainty(torch.tensor(values)).backward()
            self._optimizer.step()
