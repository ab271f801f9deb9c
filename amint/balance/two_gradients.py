"""The gradients of the two losses, apart, and back together in ``.grad``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amint.errors import NonFiniteError, UsageError

__all__ = ["TwoGradients"]

_Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class TwoGradients:
    """Gradients with regard to every leaf tensor that at least one of the two losses reaches.

    Leaves with both gradients are the *shared* ones: the audited model up to the deepest tap. The taps themselves
    would not do in their place, as the deeper one depends on the shallower.

    Attributes:
        leaves: the tensors, ``[k]``.
        task, mint: their gradients, ``[k]``, None where a loss does not reach.
    """

    leaves: tuple[Tensor, ...]
    task: _Gradients
    mint: _Gradients

    @staticmethod
    def of(task: Tensor, mint: Tensor) -> TwoGradients:
        """Two backward passes through the graphs of two scalars; the graphs are freed.

        Raises:
            UsageError: no leaf gets both gradients, or one has a hook that would act twice.
        """
        leaves = tuple(dict.fromkeys([*_leaves(task), *_leaves(mint)]))
        if any(getattr(leaf, "_backward_hooks", None) for leaf in leaves):
            raise UsageError(
                "a parameter has a hook on its gradient (register_hook), which would act on each loss's gradient and "
                "again on their balance: use register_post_accumulate_grad_hook, or balance the losses instead"
            )
        by_mint: _Gradients = (None,) * len(leaves)
        if mint.requires_grad:
            by_mint = torch.autograd.grad(mint, leaves, retain_graph=True, allow_unused=True)
        by_task: _Gradients = (None,) * len(leaves)
        if task.requires_grad:
            by_task = torch.autograd.grad(task, leaves, allow_unused=True)
        both = TwoGradients(leaves, by_task, by_mint)
        if not both.shared():
            raise UsageError(
                "no parameter is reached by both the task loss and the MINT loss, so there is nothing to balance: the "
                "layers up to the tap are frozen, or the task loss does not depend on the audited model's output"
            )
        return both

    def shared(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs of gradients of the shared leaves, the task's first."""
        return [(a, b) for a, b in zip(self.task, self.mint, strict=True) if a is not None and b is not None]

    def gramian(self) -> Tensor:
        """Inner products of the two shared gradients, ``[2, 2]``, float64 on the CPU: the task's first.

        Raises:
            NonFiniteError: a gradient holds NaN or infinity.
        """
        pairs = self.shared()
        device = pairs[0][0].device
        products = [torch.stack([_inner(a, a), _inner(a, b), _inner(b, b)]).to(device) for a, b in pairs]
        aa, ab, bb = torch.stack(products).cpu().double().sum(dim=0).tolist()
        gramian = torch.tensor([[aa, ab], [ab, bb]], dtype=torch.float64)
        if not bool(torch.isfinite(gramian).all()):
            raise NonFiniteError(
                f"the losses are finite, but the squared norms of their gradients in the shared layers are {aa} (task) "
                f"and {bb} (MINT): lower the learning rate"
            )
        return gramian

    def accumulate(self, task: float, mint: float) -> None:
        """Add to ``.grad``, as ``backward`` does: shared leaves get the weighted sum, the others their one gradient."""
        combined = [_combined(a, b, task, mint) for a, b in zip(self.task, self.mint, strict=True)]
        found = [(leaf, gradient) for leaf, gradient in zip(self.leaves, combined, strict=True) if gradient is not None]
        # Through the engine, so that hooks that wait for a gradient to be accumulated see it.
        torch.autograd.backward([leaf for leaf, _ in found], [gradient for _, gradient in found])


def _combined(a: Tensor | None, b: Tensor | None, task: float, mint: float) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    # Not in place: autograd may give one tensor to two leaves.
    return torch.add(a * task, b, alpha=mint)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.dot(a.flatten().to(wide), b.flatten().to(wide))


def _leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that ``loss.backward()`` would fill the ``.grad`` of, in one order for one graph."""
    found: list[Tensor] = []
    seen: set[Any] = set()
    stack: list[Any] = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            found.append(node.variable)
        stack.extend(below for below, _ in node.next_functions)
    return found
