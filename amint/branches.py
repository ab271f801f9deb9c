"""What a MINT head does with one tap: how the map is read, whitened and made a vector of features.

Max pooling asks "is this detail anywhere near here?", which is what recognising one image needs; a head that flattens
large maps instead was far worse. A map of so few places that there is nothing to pool is read whole, as the vector that
it is: what tells one image from the next lies across places and channels there, and only whitened together do they show
it. One with too many values for that is averaged to fewer places first. What all images have in common is most of what
is pooled: normalised, what tells one from the next is as large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amint.errors import UsageError
from amint.split import Layout, TapPoint
from amint.whitening import Whitening

__all__ = ["Branch", "TapSpec", "fits", "tap_spec", "whitening_of"]

_MOST_WHITENED = 2_048
# Places in each direction of a map that is small, and the square of it in tokens.
_FEW = 4


@dataclass(frozen=True)
class TapSpec:
    """What one branch reads.

    Attributes:
        layout: of the tapped map.
        channels: of the tapped map.
        positions: height and width, or tokens, as they are read; none for a vector.
        whole: whether the map is read as one vector of ``values``, its place in the picture part of what a value means.
    """

    layout: Layout
    channels: int
    positions: tuple[int, ...]
    whole: bool = False

    @property
    def seen_as(self) -> Layout:
        """The layout of what is read."""
        return "vector" if self.whole else self.layout

    @property
    def values(self) -> int:
        """How many numbers of one sample are whitened together: of a place, or of the whole map."""
        return self.channels * (prod(self.positions) if self.whole else 1)

    @property
    def width(self) -> int:
        """How many channels a branch makes of it unless told otherwise: all that is read of a vector at one place."""
        most = 256 if self.seen_as == "vector" else 128
        return min(most, max(32, self.values))

    def read(self, x: Tensor) -> Tensor:
        """The map ``[n, ...]`` as it is, or ``[n, values]``; a map of another size is averaged to the known one."""
        if not self.whole:
            return x
        x = x if self.layout == "channels_first" else x.movedim(-1, 1)
        if x.shape[2:] != self.positions:
            pooled: Callable[..., Tensor] = F.adaptive_avg_pool1d if x.dim() == 3 else F.adaptive_avg_pool2d
            x = pooled(x, self.positions)
        return x.flatten(1)


def _geometry(point: TapPoint) -> TapSpec:
    """What a tap gives, not to be read whole.

    Raises:
        UsageError: the tap's output has a shape no head can read.
    """
    if len(point.shape) > 3:
        raise UsageError(
            f"the tap {point.name!r} gives {len(point.shape)}-dimensional samples {point.shape}; "
            "heads read vectors, tokens and maps of two dimensions. Choose another module"
        )
    channel_axis = 0 if point.layout == "channels_first" else -1
    positions = point.shape[1:] if point.layout == "channels_first" else point.shape[:-1]
    return TapSpec(point.layout, point.shape[channel_axis], positions)


def tap_spec(point: TapPoint, pool: int) -> TapSpec:
    """What a branch reads of a tap, whole where there is nothing to pool.

    Raises:
        UsageError: the tap's output has a shape no head can read.
    """
    tap, most = _geometry(point), min(pool, _FEW)
    small = max(tap.positions, default=0) <= (most if len(tap.positions) == 2 else most**2)
    return replace(tap, whole=True, positions=_coarse(tap)) if tap.positions and small else tap


def _coarse(tap: TapSpec) -> tuple[int, ...]:
    """As many places of a map as can be whitened together with all their channels, one if not even that."""
    places = list(tap.positions)
    while tap.channels * prod(places) > _MOST_WHITENED and max(places) > 1:
        places[places.index(max(places))] -= 1
    return tuple(places)


def fits(tap: TapSpec, point: TapPoint) -> bool:
    """Whether a branch reads what a tap gives: whether it reads it whole, and how finely, is up to the head.

    Raises:
        UsageError: the tap's output has a shape no head can read.
    """
    own = _geometry(point)
    if not tap.whole or len(tap.positions) != len(own.positions):
        return tap == own
    finer = all(read <= given for read, given in zip(tap.positions, own.positions, strict=True))
    return finer and replace(tap, whole=False, positions=own.positions) == own


def whitening_of(tap: TapSpec) -> nn.Module:
    """What whitens a map as the branch reads it; too many channels stay as they are."""
    if tap.values > _MOST_WHITENED:
        return nn.Identity()
    return Whitening(tap.values, 1 if tap.seen_as == "channels_first" else -1)


class Branch(nn.Module):
    """One tap's map -> ``[n, hidden]``."""

    def __init__(self, tap: TapSpec, width: int, *, pool: int, hidden: int, normalised: bool) -> None:
        super().__init__()
        self.layout = tap.seen_as
        # Of one or two values nothing but a sign would be left, normalised by one another.
        few = self.layout == "vector" and tap.values < 3
        self.norm: nn.Module = nn.Identity() if few else nn.GroupNorm(1, tap.values)
        cells = 1
        if self.layout in ("channels_first", "channels_last"):
            # Large maps cost most of a step, so about twice the pooled side is kept; windows of 3 leave out at most the
            # last row and column, and only at stride 3.
            stride = tuple(min(3, max(1, p // (2 * pool))) for p in tap.positions)
            self.first: nn.Module = nn.Conv2d(tap.channels, width, 3, (stride[0], stride[1]), padding=1)
            side = tuple(min(pool, (p - 1) // s + 1) for p, s in zip(tap.positions, stride, strict=True))
            self.pool: nn.Module = nn.AdaptiveMaxPool2d((side[0], side[1]))
            cells = side[0] * side[1]
        elif self.layout == "tokens":
            self.first = nn.Conv1d(tap.channels, width, 1)
            cells = min(pool**2, tap.positions[0])
            self.pool = nn.AdaptiveMaxPool1d(cells)
        else:
            self.first, self.pool = nn.Linear(tap.values, width), nn.Identity()
        self.common: nn.Module = nn.Identity()
        if normalised:
            self.common = nn.BatchNorm1d(width * cells)
            # About as large as without it: from 1 on, SGD at the usual rates of networks diverges.
            nn.init.constant_(self.common.weight, 0.3)
        self.dense = nn.Linear(width * cells, hidden)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "channels_last":
            x = x.permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            x = x.transpose(1, 2)
        pooled = self.pool(torch.relu(self.first(self.norm(x))))
        return torch.relu(self.dense(self.common(pooled.flatten(1))))
