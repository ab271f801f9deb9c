"""How near a head's answer is to the one that members are told.

A head that is told smoothed truth (:func:`amint.losses.membership_loss`) gives its members answers close around the
best one, and most strangers lower ones. Some strangers get one further beyond it than members do; taken as it is, that
was the highest score of all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["nearness"]

# A step too far counts half of a step too short: there are fewer strangers on that side.
_BEYOND = 0.5


def nearness(logits: Tensor, smoothing: float) -> Tensor:
    """The logits up to the best answer to a member, log((2 - smoothing) / smoothing), and falling again beyond it.

    Args:
        logits: of any shape.
        smoothing: from 0 to below 1, as in :func:`amint.losses.membership_loss`; without any the best answer is
            infinite, and all stay as they are.
    """
    if not smoothing:
        return logits
    best = math.log((2 - smoothing) / smoothing)
    return torch.minimum(logits, best - _BEYOND * (logits - best))
