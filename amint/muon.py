"""Muon, an optimizer for matrices: what the dense layers of a head learn the fastest with.

Every direction of an update becomes as large as any other, so that the few directions in which inputs differ most do
not drown those that tell one sample from the next. ``torch.optim.Muon`` always computes in bfloat16: on a CPU that has
no instructions for it that takes 25 times as long as float32 (a head of the default size) to 55 times (a large one).

Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; the size of updates is that of
Liu et al. (arXiv 2502.16982), section 2.2, with which rates for AdamW fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "head_optimizers", "orthogonalised"]

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LIKE_ADAMW = 0.2
# Where a CPU has instructions for it, a quarter of the time.
_CPU = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
_CPU_HAS_BFLOAT16 = bool(_CPU.get("avx512_bf16"))


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix ``[m, n]`` with its singular values moved to between 0.5 and 1.5 by Newton-Schulz iterations."""
    halved, tall = _CPU_HAS_BFLOAT16 and matrix.device.type == "cpu", matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).to(torch.bfloat16 if halved else torch.float32)
    wide = wide / wide.norm().clamp_min(1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return (wide.T if tall else wide).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with decoupled weight decay.

    Args:
        params: matrices.
        lr: as for AdamW.
        momentum: share of the sum of gradients that each step keeps.
        weight_decay: as for AdamW.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                gradient, state = p.grad.float(), self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                held = state["momentum"].mul_(group["momentum"]).add_(gradient)
                update = orthogonalised(gradient + group["momentum"] * held)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * _LIKE_ADAMW * max(p.shape) ** 0.5 * update)
        return loss


def head_optimizers(head: nn.Module, lr: float = 3e-3) -> list[torch.optim.Optimizer]:
    """The optimizers that a MINT head learns the fastest with, for loops in which it has optimizers of its own.

    They replace nothing: the model's optimizer must then be given the model's parameters without the head's. ::

        own = set(audit.head.parameters())
        optimizers = [AdamW([p for p in model.parameters() if p not in own]), *amint.head_optimizers(audit.head)]

    Args:
        head: ``audit.head``.
        lr: the rate of both.

    Returns:
        Muon for the dense layers' weights but that of the layer which gives the logit, AdamW for all the rest.
    """
    dense = [module.weight for module in head.modules() if isinstance(module, nn.Linear) and module.out_features > 1]
    taken = {id(weight) for weight in dense}
    return [Muon(dense, lr=lr), torch.optim.AdamW([p for p in head.parameters() if id(p) not in taken], lr=lr)]
