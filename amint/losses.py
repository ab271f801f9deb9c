"""The MINT loss of a training step, and what to say when it is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["StepLosses", "membership_loss", "scaled_gradient", "what_is_not_finite"]

_GUESSING = math.log(2)


@dataclass(frozen=True)
class StepLosses:
    """What the last training step was made of, as scalars on the model's device."""

    task: Tensor
    mint: Tensor
    total: Tensor


def membership_loss(logits: Tensor, members: int, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of membership logits, members and non-members weighted alike.

    Guessing costs ln 2 and the best answers nothing, with smoothed truth, too: a balance that goes by how far a loss
    has fallen must not take what cannot be learned for what is learned slowly.

    Args:
        logits: ``[n]`` or ``[n, heads]``, the members' first.
        members: how many rows are members, between 1 and n - 1.
        smoothing: half of this share of the truth is told the wrong way round, so that the best answers are
            log((2 - smoothing) / smoothing) to members and minus that to others, and further ones cost something again
            (label smoothing; Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7). From 0 to below
            1.

    Returns:
        A scalar: the mean of the members' mean loss and the others' mean loss (without smoothing the MINT loss of arXiv
        2509.07879, section 3, for any ratio of the two).
    """
    wrong = smoothing / 2
    told = (_told(logits[:members], wrong) + _told(-logits[members:], wrong)) / 2
    if not wrong:
        return told
    least = -(wrong * math.log(wrong) + (1 - wrong) * math.log(1 - wrong))
    # Rounding may leave a loss a little below the least one, and balances divide losses and take powers of them.
    return (told - least).clamp_min(0) * (_GUESSING / (_GUESSING - least))


def _told(logits: Tensor, wrong: float) -> Tensor:
    """Mean loss of logits that are told to be above 0, but for a share of the truth; infinite ones never give NaN."""
    right = F.softplus(-logits).mean()
    return (1 - wrong) * right + wrong * F.softplus(logits).mean() if wrong else right


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.factor, None


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values, the gradient on its way back times a factor."""
    result: Tensor = x if factor == 1 or not x.requires_grad else _Scaled.apply(x, factor)
    return result


def what_is_not_finite(
    task: Tensor, mint: Tensor, logits: Tensor, maps: Sequence[Tensor], members: int, views: int = 0
) -> str:
    """Which of the two losses of a step is NaN or infinite, and for the MINT loss which rows began it.

    Logits ``[n]`` and tapped maps ``[n, ...]`` are those of the members, of their ``views``, and of the others.
    """
    if not bool(torch.isfinite(task)):
        return (
            f"the task loss is {task.item()}; look for NaN or infinity in this batch's inputs, or lower the "
            "learning rate"
        )
    # One broken map breaks the logits of all rows, by way of the head's batch statistics.
    sound = torch.stack([x.isfinite().flatten(1).all(dim=1) for x in maps]).all(dim=0)
    if bool(sound.all()):
        sound = logits.isfinite()
    broken = (~sound).nonzero().flatten().tolist()
    kinds = [("member row", 0), ("changed member row", members), ("external row", members + views)]
    whose = [next(f"{kind} {i - start}" for kind, start in reversed(kinds) if i >= start) for i in broken[:3]]
    where = ", ".join(whose) or "the balance of the two losses"
    return (
        f"the MINT loss is {mint.item()} and the balanced loss is not finite (first cause: {where}); look for NaN or "
        "infinity in these inputs, or lower the learning rate"
    )
