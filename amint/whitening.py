"""Tapped maps with their channels made uncorrelated and equally large.

What a trained network tells of an image in deep maps varies along a few directions above all: those of the classes.
What tells one image from the next is there, too, a hundred times smaller, and no head finds it there unless all
directions are made as large.

Source: decorrelated batch normalisation, Huang et al. (2018, CVPR), section 3, with running averages throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Whitening", "whiten_by"]

# The share of the average variance below which a direction counts as noise: rounding in half precision is of this size.
_NOISE = 0.01
# How much of the running average the latest batch is, at the least.
_LEAST = 0.01


class Whitening(nn.Module):
    """Maps -> the same shape, by what channels were like while training: zero mean, variance one, uncorrelated.

    Of all such bases this is the one nearest to the channels' own (ZCA), so that a new one differs little from the one
    before. While training a new one is taken after 1, 2, 4, 8, ... batches: what follows has to learn in each anew.

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
            wide = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(self.axis, -1)
            if self.training:
                self._learn(wide.detach().reshape(-1, wide.shape[-1]))
            matrix, mean = self.matrix.to(wide), self.mean.to(wide)
            return F.linear(wide, matrix, -(matrix @ mean)).movedim(-1, self.axis).to(x.dtype)

    @torch.no_grad()
    def _learn(self, rows: Tensor) -> None:
        mean = rows.mean(dim=0)
        centred = rows - mean
        covariance = centred.T @ centred / len(rows)
        if not bool(torch.isfinite(covariance).all()):
            return  # One broken row would stay in the averages; the loss names it.
        self.batches += 1
        n = int(self.batches)
        share = max(1 / n, _LEAST)
        self.mean.lerp_(mean.to(self.mean), share)
        self.covariance.lerp_(covariance.to(self.covariance), share)
        if n & (n - 1) == 0:
            self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Take the basis that the averages call for."""
        wide = self.covariance.to("cpu", torch.float64)
        variances, directions = torch.linalg.eigh(wide)
        if not bool(variances.sum() > torch.finfo(torch.float32).tiny):
            return  # Nothing varies, or nothing was seen.
        scale = (variances.clamp_min(0) + _NOISE * variances.mean()).rsqrt()
        self.matrix.copy_((directions * scale) @ directions.T)


def whiten_by(layers: Iterable[nn.Module], steps: Iterable[Sequence[Tensor]]) -> None:
    """Fit those of the layers that whiten to the maps of a few steps, one map a layer.

    They are left in evaluation mode: as they are, they stay while the rest of the head learns.
    """
    of_map = {i: layer for i, layer in enumerate(layers) if isinstance(layer, Whitening)}
    for layer in of_map.values():
        layer.batches.zero_()
        layer.train()
    with torch.no_grad():
        for maps in steps:
            for i, layer in of_map.items():
                layer(maps[i])
    for layer in of_map.values():
        layer.renew()
        layer.eval()
