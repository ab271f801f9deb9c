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
# A basis of so many channels is soon made, in less than a tenth of a second on a CPU; the time grows with their third
# power. Another device waits for it, and has a step done in less.
_QUICK, _QUICK_ELSEWHERE = 512, 128


class Whitening(nn.Module):
    """Maps -> the same shape, by what channels were like while training: zero mean, variance one, uncorrelated.

    Of all such bases this is the one nearest to the channels' own (ZCA), so that a new one differs little from the one
    before. While training a new one is taken with every batch, once there were as many rows as channels, so that what
    follows sees as little as may be of the network's moving on. Where many channels take long, it is taken whenever
    there were twice as many rows, and as often as leaves the time for each row the same. Averages and basis are in
    single precision at least, whatever that of the model is.

    Args:
        channels: how many there are.
        axis: where they are, 1 or -1.
    """

    mean: Tensor
    covariance: Tensor
    matrix: Tensor
    rows: Tensor

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.zeros(channels, channels))
        self.register_buffer("matrix", torch.eye(channels))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        # Half precision would round away what is small.
        with torch.autocast(x.device.type, enabled=False):
            if self.training:
                self._follow(x)
            wide = _wide(x, self.axis)
            # A backward pass that is still to come needs the basis of its own forward pass.
            matrix = self.matrix.to(wide, copy=self.training)
            mean = self.mean.to(wide)
            return F.linear(wide, matrix, -(matrix @ mean)).movedim(-1, self.axis).to(x.dtype)

    def _follow(self, x: Tensor) -> None:
        """Let one more batch into the averages, and take the basis that they call for where one is due."""
        own, channels = x.numel() // len(self.mean), len(self.mean)
        if not self.learn(x, min(_MOST, max(_LEAST, own / (_ROWS * channels)))):
            return
        now, before = int(self.rows), int(self.rows) - own
        quick = _QUICK if x.device.type == "cpu" else _QUICK_ELSEWHERE
        apart = own * max(1, channels**3 // quick**3)
        doubled = (now // channels).bit_length() > (before // channels).bit_length()
        if doubled or (now >= channels and now // apart > before // apart):
            self.renew()

    @torch.no_grad()
    def learn(self, x: Tensor, least: float = 0.0) -> bool:
        """Let maps into the averages, every row so far counting alike, but these for that share of them at least.

        False, and nothing is learned, if some are NaN or infinite.
        """
        # Half precision would round away what is small.
        with torch.autocast(x.device.type, enabled=False):
            rows = _wide(x, self.axis).reshape(-1, len(self.mean))
            share = max(least, len(rows) / max(1, int(self.rows) + len(rows)))
            mean = rows.mean(dim=0)
            centred, away = rows - mean, mean - self.mean.to(rows)
            covariance = centred.T @ centred / len(rows) + (1 - share) * torch.outer(away, away)
        if not bool(torch.isfinite(covariance).all()):
            return False  # One broken row would stay in the averages; the loss names it.
        self.rows += len(rows)
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
    for maps in steps:
        for i, layer in fitted.items():
            layer.learn(maps[i])
    for i, layer in of_map.items():
        if int(fitted[i].rows):
            fitted[i].renew()
            layer.load_state_dict(fitted[i].state_dict())
            layer.eval()


def _wide(x: Tensor, axis: int) -> Tensor:
    """Channels last, in single precision at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).movedim(axis, -1)
