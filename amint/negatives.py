"""Hard negatives: near-copies that are not members, so that the head learns the very sample and not its kind.

A symmetry of the domain turns a row into another plausible row. External rows under it are further
"not a member" rows at no cost of data; members under it are the hardest negatives there are. A symmetry that the
task's own augmentation applies to members must not be used on members: those views *are* trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from amint.errors import UsageError

__all__ = ["HardNegatives", "horizontal_flip", "one_pixel_shift"]


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
