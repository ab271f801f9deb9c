"""What a balance is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["AnyBalance", "Balance", "GradientBalance"]


@runtime_checkable
class Balance(Protocol):
    """Combines the task's loss and the MINT loss.

    A balance that remembers something between steps also has ``state_dict()`` and ``load_state_dict(state)``.
    """

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The loss to call ``backward`` on, a scalar that depends on both."""
        ...


@runtime_checkable
class GradientBalance(Protocol):
    """Combines the gradients of the task's loss and of the MINT loss; used through ``audit.backward``.

    A balance that remembers something between steps also has ``state_dict()`` and ``load_state_dict(state)``.
    """

    def backward(self, task: Tensor, mint: Tensor) -> Tensor:
        """Add the balanced gradients to the ``.grad`` of every parameter that either loss reaches.

        Args:
            task, mint: the losses, scalars with their graphs.

        Returns:
            The balanced loss, a detached scalar; if it is not finite, nothing has been added.
        """
        ...


AnyBalance = Balance | GradientBalance
