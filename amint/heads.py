"""MINT heads: tapped maps -> one membership logit a sample; higher means more likely a member.

One branch a tap (convolution or dense layer, adaptive max pooling, batch normalisation and a dense layer), the branches
joined by two dense layers. Max pooling asks "is this detail anywhere near here?", which is what recognising one image
needs; a head that flattens the maps instead was far worse. What all images have in common is most of what a map holds,
and of what is pooled: whitened and normalised, what tells one from the next is as large. Two rows, a member and
another, are too few to normalise over.

Several heads that learn apart agree on what they were taught and differ on what they were not, so that their mean knows
strangers better than one of them does.

Source: aMINT (arXiv 2509.07879), section 3 and its published setups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amint.errors import UsageError
from amint.split import Layout, TapPoint, resolve_split
from amint.whitening import Whitening

__all__ = [
    "HeadConfig",
    "HeadSize",
    "MintHead",
    "TapSpec",
    "head_config",
    "head_weights",
    "load_head_weights",
    "new_head",
    "parameter_share",
]


_POSITION_AXES: dict[Layout, int] = {"channels_first": 2, "channels_last": 2, "tokens": 1, "vector": 0}
_MOST_UNITS = 65_536
_MOST_HEADS = 64
_MOST_WHITENED = 2_048
_MOST_PARAMETERS = 2**28


@dataclass(frozen=True)
class HeadSize:
    """How large a head is: more units know more members, and cost more.

    Attributes:
        width: channels after a branch's first layer; None for as many as the tap has, between 32 and 128.
        pool: side of the pooled map (maps: pool x pool cells; tokens: pool**2 cells).
        hidden: units of the dense layers.
        ensemble: so many heads of that size learn apart, each from initial weights of its own; the score is the mean of
            their logits.

    Raises:
        UsageError: a size is no whole number from 1 to 65,536, or the ensemble none from 1 to 64.
    """

    width: int | None = None
    pool: int = 4
    hidden: int = 128
    ensemble: int = 1

    def __post_init__(self) -> None:
        sizes = {name: size for name, size in asdict(self).items() if size is not None}
        wrong = {name: size for name, size in sizes.items() if type(size) is not int or not 0 < size <= _MOST_UNITS}
        if wrong:
            raise UsageError(f"the sizes of a head are whole numbers from 1 to {_MOST_UNITS:,}, got {wrong}")
        if self.ensemble > _MOST_HEADS:
            raise UsageError(f"an ensemble has at most {_MOST_HEADS} heads, got {self.ensemble}")


@dataclass(frozen=True)
class TapSpec:
    """What one branch reads: the layout of a tapped map, its channels and its positions (height x width, or tokens)."""

    layout: Layout
    channels: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class HeadConfig:
    """Everything needed to build a head again.

    Attributes:
        taps: what each branch reads, shallow to deep.
        width, pool, hidden, ensemble: as in :class:`HeadSize`; the width has one entry a tap.
        normalised: whether what is pooled is normalised over the batch, while training, or by what it was then.
        whitened: whether maps are whitened first (:mod:`amint.whitening`), unless they have too many channels for that.
    """

    taps: tuple[TapSpec, ...]
    width: tuple[int, ...]
    pool: int
    hidden: int
    ensemble: int = 1
    normalised: bool = True
    whitened: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> HeadConfig:
        """The inverse of :meth:`to_json`; what descriptions did not say at first, no head did.

        Raises:
            UsageError: a field is missing, unknown or of the wrong type, or the head would be absurdly large.
        """
        try:
            data = {"ensemble": 1, "normalised": False, "whitened": False, **data}
            taps = tuple(TapSpec(**{**tap, "positions": tuple(tap["positions"])}) for tap in data["taps"])
            config = HeadConfig(**{**data, "taps": taps, "width": tuple(data["width"])})
            axes = all(len(tap.positions) == _POSITION_AXES[tap.layout] for tap in taps)
            sizes = [*config.width, config.pool, config.hidden, config.ensemble]
            sizes += [size for tap in taps for size in (tap.channels, *tap.positions)]
            sound = all(type(size) is int and 0 < size <= _MOST_UNITS for size in sizes)
            sound = sound and config.ensemble <= _MOST_HEADS
            sound = sound and type(config.normalised) is type(config.whitened) is bool
            if not (taps and axes and sound and set(data) == set(asdict(config))):
                raise ValueError(data)
            with torch.device("meta"):
                size = sum(value.numel() for value in _own(MintHead(config)).values())
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"not a description of a MINT head: {error!r}") from error
        if size > _MOST_PARAMETERS:
            raise UsageError(f"not a description of a MINT head: it would hold {size:,} numbers")
        return config


def head_config(points: Sequence[TapPoint], size: HeadSize | None = None) -> HeadConfig:
    """The head for these taps, of the default size unless told otherwise.

    Raises:
        UsageError: a tap's output has a shape no head can read.
    """
    size, taps = size or HeadSize(), []
    for point in points:
        if len(point.shape) > 3:
            raise UsageError(
                f"the tap {point.name!r} gives {len(point.shape)}-dimensional samples {point.shape}; "
                "heads read vectors, tokens and maps of two dimensions. Choose another module"
            )
        channel_axis = 0 if point.layout == "channels_first" else -1
        positions = point.shape[1:] if point.layout == "channels_first" else point.shape[:-1]
        taps.append(TapSpec(point.layout, point.shape[channel_axis], positions))
    width = tuple(size.width or min(128, max(32, tap.channels)) for tap in taps)
    return HeadConfig(tuple(taps), width, size.pool, size.hidden, size.ensemble)


def new_head(
    model: nn.Module, split: str | Sequence[str], example: Tensor, seed: int, size: HeadSize | None = None
) -> tuple[tuple[TapPoint, ...], MintHead, tuple[int, ...]]:
    """Resolve a split and make an untrained head for it, on the model's device and in its precision.

    Args:
        model: the audited model.
        split: see :func:`amint.split.resolve_split`.
        example: a small input batch ``[n, ...]``.
        seed: of the head's weights; the global random state is left alone.
        size: None for the default.

    Returns:
        The tap points, the head, and the shape of one input.
    """
    parameter = next(model.parameters(), torch.empty(0))
    example = example.to(parameter.device)
    example = example.to(parameter.dtype) if example.is_floating_point() else example
    points = resolve_split(model, split, example)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = MintHead(head_config(points, size))
    return points, head.to(parameter.device, parameter.dtype), tuple(example.shape[1:])


class MintHead(nn.Module):
    """Tapped maps, shallow to deep, each ``[n, ...]`` -> membership logits ``[n]`` in float32."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.whitening = nn.ModuleList(_whitening(tap) if config.whitened else nn.Identity() for tap in config.taps)
        branches = zip(config.taps, config.width, strict=True)
        self.branches = nn.ModuleList(_Branch(tap, width, config) for tap, width in branches)
        joined = config.hidden * len(config.taps)
        self.join = nn.Sequential(nn.Linear(joined, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
        one = replace(config, ensemble=1, whitened=False)
        self.others = nn.ModuleList(MintHead(one) for _ in range(config.ensemble - 1))

    def each(self, maps: Sequence[Tensor]) -> Tensor:
        """One logit a sample and head, ``[n, ensemble]``: each head has to answer for itself while it learns."""
        maps = [white(x) for white, x in zip(self.whitening, maps, strict=True)]
        features = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        logits: Tensor = self.join(torch.cat(features, dim=1)).squeeze(1)
        return torch.stack([logits.float(), *(head(maps) for head in self.others)], dim=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One logit a sample, ``[n]``: the mean of the ensemble's."""
        return self.each(maps).mean(dim=1)


def _whitening(tap: TapSpec) -> nn.Module:
    if tap.channels > _MOST_WHITENED:
        return nn.Identity()
    return Whitening(tap.channels, 1 if tap.layout == "channels_first" else -1)


class _Branch(nn.Module):
    """One tap's map -> ``[n, hidden]``."""

    def __init__(self, tap: TapSpec, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.layout = tap.layout
        self.norm = nn.GroupNorm(1, tap.channels)
        cells = 1
        if tap.layout in ("channels_first", "channels_last"):
            # Large maps cost most of a step, so about twice the pooled side is kept; windows of 3 leave out at most the
            # last row and column, and only at stride 3.
            stride = tuple(min(3, max(1, p // (2 * config.pool))) for p in tap.positions)
            self.first: nn.Module = nn.Conv2d(tap.channels, width, 3, (stride[0], stride[1]), padding=1)
            side = tuple(min(config.pool, (p - 1) // s + 1) for p, s in zip(tap.positions, stride, strict=True))
            self.pool: nn.Module = nn.AdaptiveMaxPool2d((side[0], side[1]))
            cells = side[0] * side[1]
        elif tap.layout == "tokens":
            self.first = nn.Conv1d(tap.channels, width, 1)
            cells = min(config.pool**2, tap.positions[0])
            self.pool = nn.AdaptiveMaxPool1d(cells)
        else:
            self.first, self.pool = nn.Linear(tap.channels, width), nn.Identity()
        self.common: nn.Module = nn.Identity()
        if config.normalised:
            self.common = nn.BatchNorm1d(width * cells)
            # About as large as without it: from 1 on, SGD at the usual rates of networks diverges.
            nn.init.constant_(self.common.weight, 0.3)
        self.dense = nn.Linear(width * cells, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "channels_last":
            x = x.permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            x = x.transpose(1, 2)
        pooled = self.pool(torch.relu(self.first(self.norm(x))))
        return torch.relu(self.dense(self.common(pooled.flatten(1))))


def parameter_share(head: nn.Module, backbone: nn.Module) -> float:
    """The head's parameters as a share of the audited model's, 0.05 meaning 5 %."""
    own = {id(p) for p in head.parameters()}
    rest = sum(p.numel() for p in backbone.parameters() if id(p) not in own)
    return sum(p.numel() for p in head.parameters()) / max(rest, 1)


def head_weights(head: MintHead) -> dict[str, Tensor]:
    """A copy of the head's weights and statistics by name (while attached, it keeps out of every state dict)."""
    return {name: value.detach().clone() for name, value in _own(head).items()}


def load_head_weights(head: MintHead, weights: Mapping[str, Tensor]) -> None:
    """Fill a head with :func:`head_weights`.

    Raises:
        UsageError: names or shapes differ.
    """
    own = _own(head)
    differing = [n for n in {*own, *weights} if n not in own or n not in weights or own[n].shape != weights[n].shape]
    if differing:
        raise UsageError(f"these weights are of another MINT head; they differ in {sorted(differing)[:4]}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(weights[name])


def _own(head: MintHead) -> dict[str, Tensor]:
    return {**dict(head.named_parameters()), **dict(head.named_buffers())}
