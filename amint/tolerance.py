"""Tolerance: a head that still knows a sample after it was compressed, resized or made brighter.

Files that went round the internet are rarely the bytes that were trained on. Members under a random re-encoding are
shown to the head as members, and everything else under the same re-encoding as "not a member": what a re-encoding
leaves in a picture then says nothing of membership. The task never sees these rows.

Hard negatives pull the other way: a symmetry that comes close to a re-encoding must not be used on members with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from amint.errors import UsageError
from amint.preprocessing import Preprocessing

__all__ = ["Reencoding", "Tolerance"]

_BILINEAR = Image.Resampling.BILINEAR
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """Further rows of both kinds, seen by the head only: one view of every member and of every other row of a step.

    Attributes:
        transform: batch ``[n, ...]`` -> batch of the same shape, type and device, each row changed at random by its
            own draws from the global generators; one that draws less for all rows alike works, but teaches less.
    """

    transform: Callable[[Tensor], Tensor]

    def views(self, rows: Tensor) -> Tensor:
        """Each row once more, changed.

        Raises:
            UsageError: the transform changed the shape, type or device of the batch.
        """
        seen = self.transform(rows)
        before, after = ((tuple(x.shape), x.dtype, x.device) for x in (rows, seen))
        if before != after:
            raise UsageError(
                f"the transform given as tolerance turned {before} into {after}; it must keep shape, type and device"
            )
        return seen


@dataclass(frozen=True)
class Reencoding:
    """What sharing does to pictures: smaller and back, brighter or darker, JPEG; each for half of the rows, at random.

    The rows' normalisation is undone first, as the file format works on 8-bit pixels; a row that nothing else happens
    to is only rounded to them. Rows are taken one by one on the CPU: about 0.1 ms each at 32 x 32 pixels.

    Attributes:
        preprocessing: how pictures became rows.
        scale: smallest and largest side after shrinking, as a share of the side before.
        brightness: smallest and largest factor.
        quality: lowest and highest JPEG quality, 1 to 100.

    Raises:
        UsageError: a range that is empty or out of bounds.
    """

    preprocessing: Preprocessing
    scale: tuple[float, float] = (0.6, 1.0)
    brightness: tuple[float, float] = (0.8, 1.2)
    quality: tuple[int, int] = (60, 98)

    def __post_init__(self) -> None:
        bounds = {"scale": (0.01, 1), "brightness": (0, 10), "quality": (1, 100)}
        for name, (least, most) in bounds.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise UsageError(f"{name} must rise, within {least} to {most}, found {(low, high)}")

    def __call__(self, x: Tensor) -> Tensor:
        """Rows ``[n, c, height, width]`` as they would be if their pictures had been re-encoded.

        Raises:
            UsageError: the rows are not images with as many channels as the preprocessing gives.
        """
        channels = self.preprocessing.channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise UsageError(f"re-encoding takes images [n, {channels}, height, width], found {list(x.shape)}")
        mean, std = (
            torch.tensor(values, device=x.device).view(-1, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        pixels = ((x.detach().float() * std + mean) * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        for picture in pixels.numpy():
            picture[:] = self._reencoded(picture)
        return ((pixels.to(x.device).float() / 255 - mean) / std).to(x.dtype)

    def _reencoded(self, picture: Pixels) -> Pixels:
        """One picture, uint8 ``[c, height, width]``."""
        smaller, lighter, compressed = (torch.rand(3, device="cpu") < 0.5).tolist()
        image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
        size = image.size
        if smaller:
            share = _between(self.scale)
            image = image.resize((max(1, round(size[0] * share)), max(1, round(size[1] * share))), _BILINEAR)
            image = image.resize(size, _BILINEAR)
        if lighter:
            image = ImageEnhance.Brightness(image).enhance(_between(self.brightness))
        if compressed:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=round(_between(self.quality)))
            image = Image.open(file)
        return np.asarray(image).reshape(*picture.shape[1:], -1).transpose(2, 0, 1)


def _between(ends: tuple[float, float]) -> float:
    low, high = ends
    return low + (high - low) * float(torch.rand((), device="cpu"))
