"""Weights learned so that both losses pull on the shared layers with comparable strength.

Source: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
Multitask Networks", ICML 2018, section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from amint.balance.two_gradients import TwoGradients
from amint.balance.values import shared_values, usable
from amint.errors import UsageError

__all__ = ["GradNorm"]


class GradNorm:
    """A weighted sum whose weights move until the norms of the two gradients follow the losses' training rates.

    The norms of the two weighted gradients are drawn towards a ratio of ``r ** alpha``, where ``r`` is each loss as a
    share of its first value: what trains slowly pulls harder. The weights sum to 2. Other than in the paper, the
    targets sum to the norms for every alpha, so that they can be met; the weights are learned as logarithms, by an Adam
    of their own, and stay positive where the losses differ by orders of magnitude; and the norms are those in all
    shared parameters, not in the last shared layer alone.

    Args:
        alpha: strength of the pull towards equal training rates, at least 0; 0 makes the norms equal.
        learning_rate: of the logarithms of the weights, positive.

    Raises:
        UsageError: a bad argument.
    """

    def __init__(self, alpha: float = 1.5, learning_rate: float = 0.025) -> None:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise UsageError(f"alpha must be at least 0 and finite, got {alpha}")
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise UsageError(f"learning_rate must be positive and finite, got {learning_rate}")
        self.alpha, self.learning_rate = alpha, learning_rate
        self._first: tuple[float, float] | None = None
        self._logs = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self._optimizer = torch.optim.Adam([self._logs], learning_rate)

    @property
    def weights(self) -> tuple[float, float]:
        """Of the task's loss and of the MINT loss; their sum is 2."""
        task, mint = self._logs.exp().tolist()
        return task, mint

    def backward(self, task: Tensor, mint: Tensor) -> Tensor:
        """Add the gradients of the weighted sum; the weights then learn from this step."""
        a, b = self.weights
        total = (a * task + b * mint).detach()
        if bool(torch.isfinite(total)):
            gradients = TwoGradients.of(a * task, b * mint)
            weighted_norms = gradients.gramian().diagonal().sqrt()
            gradients.accumulate(1, 1)
            self._learn(weighted_norms, shared_values(task, mint))
        return total

    def state_dict(self) -> dict[str, Any]:
        """The first losses, the weights and their optimizer."""
        return {"first": self._first, "logs": self._logs.detach().clone(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the first losses, the weights and their optimizer."""
        self._first = None if state["first"] is None else tuple(state["first"])
        with torch.no_grad():
            self._logs.copy_(state["logs"])
        self._optimizer.load_state_dict(state["optimizer"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(alpha={self.alpha:g}, learning_rate={self.learning_rate:g})"

    def _learn(self, weighted_norms: Tensor, values: tuple[float, float]) -> None:
        if not usable(values):
            return
        self._first = self._first or values
        shares = torch.tensor([now / first for now, first in zip(values, self._first, strict=True)]).double()
        rates = (shares / shares.mean()) ** self.alpha
        target = weighted_norms.sum() * rates / rates.sum()
        # The gradient of |norm - target| with regard to the logarithm of a weight, the target held fixed.
        self._logs.grad = torch.sign(weighted_norms - target) * weighted_norms
        self._optimizer.step()
        with torch.no_grad():
            self._logs.sub_(self._logs.logsumexp(dim=0) - math.log(2))
