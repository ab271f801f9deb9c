"""Does training really reach the MINT head, and the audited model where it should?

A head that is in no optimizer, or whose loss is multiplied by zero, trains silently to nothing. The first
optimizer step shows it: the gradients that arrived before it, and the parameters it moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amint.accounting import sum_of_bits
from amint.errors import UsageError

__all__ = ["Reach"]


class Reach:
    """Watches the first steps of a training run until one optimizer step is seen to be right.

    Args:
        model: the audited model, head included.
        head: the MINT head.
        through_trunk: whether the MINT loss is to reach the audited model too.
    """

    def __init__(self, model: nn.Module, head: nn.Module, through_trunk: bool) -> None:
        self._head = dict(head.named_parameters())
        own = {id(p) for p in self._head.values()}
        self._trunk = [p for p in model.parameters() if id(p) not in own]
        self._through_trunk = through_trunk
        self._before: dict[int, tuple[int, int]] | None = None
        self._head_gradient = self._trunk_gradient = False
        self._handles = [p.register_post_accumulate_grad_hook(self._at_head) for p in self._head.values()]

    @property
    def done(self) -> bool:
        """Whether a right step was seen."""
        return not self._handles

    def watch(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps on their way to the head, the gradients on their way back watched."""
        if self.done:
            return list(maps)
        if self._before is None:
            self._before = self._states()
        watched = [x.view_as(x) for x in maps]
        for x in watched:
            if x.requires_grad:
                x.register_hook(self._at_trunk)
        return watched

    def confirm(self) -> None:
        """Look at what has happened so far; nothing to say before the first optimizer step.

        Raises:
            UsageError: the optimizer left the head alone, or the MINT loss did not arrive.
        """
        if self.done or self._before is None:
            return
        now = self._states()
        moved = {key for key, state in now.items() if state != self._before[key]}
        still = [name for name, p in self._head.items() if id(p) not in moved and p.requires_grad]
        if not moved:
            return
        if not self._head_gradient:
            raise UsageError(
                "the MINT loss did not reach the head: its gradient is zero or missing. Call backward() on what "
                "audit.loss() returned, and do not multiply the MINT loss by zero"
            )
        if still:
            raise UsageError(
                f"the optimizer moved the model but not {len(still)} of {len(self._head)} parameters of the MINT head "
                f"({', '.join(still[:2])}): attach before the optimizer is made, and give it model.parameters(); "
                'or call optimizer.add_param_group({"params": audit.head.parameters()})'
            )
        if self._through_trunk and not self._trunk_gradient:
            raise UsageError(
                "the MINT loss did not reach the audited model, though trunk_gradient is above 0: the layers up to the "
                "tap are frozen. Use trunk_gradient=0"
            )
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _states(self) -> dict[int, tuple[int, int]]:
        # Fused optimizers write past the version counters of tensors, and a step may be too small to change any bit.
        return {id(p): (p._version, int(sum_of_bits(p))) for p in [*self._trunk, *self._head.values()]}

    def _at_head(self, parameter: Tensor) -> None:
        self._head_gradient |= parameter.grad is not None and bool(torch.any(parameter.grad != 0))

    def _at_trunk(self, gradient: Tensor) -> None:
        self._trunk_gradient |= bool(torch.any(gradient != 0))
