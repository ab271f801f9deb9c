"""The two losses of a step as numbers."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["shared_values", "usable"]

_SMALLEST = torch.finfo(torch.float32).tiny


def shared_values(task: Tensor, mint: Tensor) -> tuple[float, float]:
    """Both losses as numbers, the mean over all processes: ranks must not scale their gradients differently."""
    values = torch.stack([task.detach().float(), mint.detach().float()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    a, b = values.abs().clamp_min(_SMALLEST).tolist()
    return a, b


def usable(values: tuple[float, float]) -> bool:
    """A loss of zero, or a broken step that the training loop skips, must not set the scale of those after it."""
    return all(_SMALLEST < value < math.inf for value in values)
