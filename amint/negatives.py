"""Hard negatives: near-copies that are not members, so that the head learns the very sample and not its kind.

A symmetry of the domain turns a row into another plausible row. External rows under it are further
"not a member" rows at no cost of data; members under it are the hardest negatives there are. Where the task's own
augmentation applies the same symmetry to members, those views *are* trained on: turn members only if the question is
whether this very picture was a member, and take "no member" said of a turned copy for nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amint.errors import UsageError

__all__ = ["HardNegatives", "Moved", "horizontal_flip", "one_pixel_shift"]


@dataclass(frozen=True)
class HardNegatives:
    """Further rows labelled "not a member", seen by the head only.

    Attributes:
        symmetry: batch ``[n, ...]`` -> batch of the same shape.
        members: also turn members into negatives.
    """

    symmetry: Callable[[Tensor], Tensor]
    members: bool = False

    def rows(self, members: Tensor, external: Tensor) -> list[Tensor]:
        """The further rows, every one "not a member".

        Raises:
            UsageError: the symmetry changed the shape of the batch.
        """
        sources = [external, members] if self.members else [external]
        turned = [self.symmetry(source) for source in sources]
        for before, after in zip(sources, turned, strict=True):
            if after.shape != before.shape:
                raise UsageError(
                    f"the symmetry given as negatives turned {tuple(before.shape)} into {tuple(after.shape)}; "
                    "it must keep the batch's shape"
                )
        return turned


def horizontal_flip(x: Tensor) -> Tensor:
    """Mirror images ``[n, c, h, w]`` left to right (natural images; not digits or text)."""
    return x.flip(-1)


def one_pixel_shift(x: Tensor) -> Tensor:
    """Move each image ``[n, c, h, w]`` by one pixel up, down, left or right at random; the border is repeated."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[-2:]
    moved = torch.stack([padded[..., i : i + height, j : j + width] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))])
    choice = torch.randint(4, (len(x),), device="cpu").to(x.device)
    return moved[choice, torch.arange(len(x), device=x.device)]


@dataclass(frozen=True)
class Moved:
    """Move each image ``[n, c, h, w]`` by whole pixels, at random; the border is repeated. No image stays as it is.

    A fixed symmetry gives one near-copy a row, which a head soon knows by heart like the row itself. Of moved images
    there is no end: it must find everything a stranger that it does not know to the pixel.

    Attributes:
        pixels: by up to so many along either axis.
        mirror: also mirror half of the images left to right, and leave half of those in place (natural images; not
            digits or text).

    Raises:
        UsageError: ``pixels`` is no whole number from 1 on; at the call, if images are no larger than that.
    """

    pixels: int = 4
    mirror: bool = False

    def __post_init__(self) -> None:
        if type(self.pixels) is not int or self.pixels < 1:
            raise UsageError(f"pixels is a whole number from 1 on, got {self.pixels!r}")

    def __call__(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        most = self.pixels
        if x.dim() != 4 or min(x.shape[-2:]) <= most:
            raise UsageError(
                f"expected images [n, c, h, w] larger than {most} pixels to move them by as much, got {tuple(x.shape)}"
            )
        n, _, height, width = x.shape
        # Drawn in main memory: the same rows on every device. The middle one of the places is where the image is.
        side = 2 * most + 1
        place = torch.randint(side**2 - 1, (n,), device="cpu")
        place += place >= side**2 // 2
        turned, stays = torch.rand(2, n, device="cpu") < 0.5
        if self.mirror:
            place[turned & stays] = side**2 // 2
            x = torch.where(turned.to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
        down, right = (place // side).to(x.device), (place % side).to(x.device)
        rows = (down[:, None] - most + torch.arange(height, device=x.device)).clamp(0, height - 1)
        columns = (right[:, None] - most + torch.arange(width, device=x.device)).clamp(0, width - 1)
        x = x.gather(2, rows[:, None, :, None].expand_as(x))
        return x.gather(3, columns[:, None, None, :].expand_as(x))
