"""Tapped maps with their channels made uncorrelated and equally large.

What a trained network tells of an image in deep maps varies along a few directions above all: those of the classes.
What tells one image from the next is there, too, a hundred times smaller, and no head finds it there unless all
directions are made as large.

Source: decorrelated batch normalisation, Huang et al. (2018, CVPR), section 3, with running averages throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Whitening", "whiten_by"]

# The share of the average variance below which a direction counts as noise: rounding in half precision is of this size.
_NOISE = 0.01
# What share of the running averages the latest batch is: as much as leaves ten rows a channel in them, within limits.
_LEAST, _MOST = 0.01, 0.4
_ROWS = 10
# A basis of so many channels is soon made, in some hundredths of a second on a CPU; the time grows with their third
# power. Another device waits for it, and has a step done in less.
_QUICK, _QUICK_ELSEWHERE = 512, 128


class Whitening(nn.Module):
    """Maps -> the same shape, by what channels were like while training: zero mean, variance one, uncorrelated.

    Of all such bases this is the one nearest to the channels' own (ZCA), so that a new one differs little from the one
    before. While training a new one is taken with every batch, once there were as many rows as channels, so that what
    follows sees as little as may be of the network's moving on. Where many channels take long, it is taken after 1, 2,
    4, 8, ... batches, and as often as leaves the time for each batch the same. Averages and basis are in single
    precision at least, whatever that of the model is.

    Args:
        channels: how many there are.
        axis: where they are, 1 or -1.
    """

    mean: Tensor
    covariance: Tensor
    matrix: Tensor
    batches: Tensor

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.zeros(channels, channels))
        self.register_buffer("matrix", torch.eye(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        # Half precision would round away what is small.
        with torch.autocast(x.device.type, enabled=False):
            if self.training:
                n, channels = int(self.batches) + 1, len(self.mean)
                share = min(_MOST, max(_LEAST, x.numel() / (_ROWS * channels**2)))
                known = self.learn(x, max(1 / n, share)) and n * x.numel() >= channels**2
                apart = max(1, (channels // (_QUICK if x.device.type == "cpu" else _QUICK_ELSEWHERE)) ** 3)
                if known and (n % apart == 0 or n & (n - 1) == 0):
                    self.renew()
            wide = _wide(x, self.axis)
            # A backward pass that is still to come needs the basis of its own forward pass.
            matrix = self.matrix.to(wide, copy=self.training)
            mean = self.mean.to(wide)
            return F.linear(wide, matrix, -(matrix @ mean)).movedim(-1, self.axis).to(x.dtype)

    @torch.no_grad()
    def learn(self, x: Tensor, share: float) -> bool:
        """Let maps make up that share of the averages; False, and nothing else, if some are NaN or infinite."""
        rows = _wide(x, self.axis).reshape(-1, len(self.mean))
        mean = rows.mean(dim=0)
        centred, away = rows - mean, mean - self.mean.to(rows)
        covariance = centred.T @ centred / len(rows) + (1 - share) * torch.outer(away, away)
        if not bool(torch.isfinite(covariance).all()):
            return False  # One broken row would stay in the averages; the loss names it.
        self.batches += 1
        self.mean.lerp_(mean.to(self.mean), share)
        self.covariance.lerp_(covariance.to(self.covariance), share)
        return True

    @torch.no_grad()
    def renew(self) -> None:
        """Take the basis that the averages call for."""
        variances, directions = torch.linalg.eigh(self.covariance.cpu().double())
        if not bool(variances.sum() > torch.finfo(torch.float32).tiny):
            return  # Nothing varies, or nothing was seen.
        scale = (variances.clamp_min(0) + _NOISE * variances.mean()).rsqrt()
        self.matrix.copy_((directions * scale) @ directions.T)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        before = dict(self.named_buffers())
        super()._apply(fn, *args, **options)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            now = getattr(self, name)
            if now.is_floating_point() and torch.promote_types(now.dtype, torch.float32) != now.dtype:
                setattr(self, name, value.to(now.device))
        return self


def whiten_by(layers: Iterable[nn.Module], steps: Iterable[Sequence[Tensor]]) -> None:
    """Fit those of the layers that whiten to the maps of a few steps, one map a layer; every row counts alike.

    They are left in evaluation mode: as they are, they stay while the rest of the head learns. Without any step, or
    where one of them fails, nothing changes. Where no layer whitens, no step is taken.
    """
    of_map = {i: layer for i, layer in enumerate(layers) if isinstance(layer, Whitening)}
    if not of_map:
        return
    fitted = {i: Whitening(len(layer.mean), layer.axis).to(layer.mean) for i, layer in of_map.items()}
    seen = 0
    for maps in steps:
        seen += len(maps[0])
        for i, layer in fitted.items():
            layer.learn(maps[i], len(maps[i]) / seen)
    if not seen:
        return
    for i, layer in of_map.items():
        fitted[i].renew()
        layer.load_state_dict(fitted[i].state_dict())
        layer.eval()


def _wide(x: Tensor, axis: int) -> Tensor:
    """Channels last, in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).movedim(axis, -1)
