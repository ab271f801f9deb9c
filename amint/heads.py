"""MINT heads: tapped maps -> one membership score a sample; higher means more likely a member.

One branch a tap (convolution or dense layer, adaptive max pooling, batch normalisation and a dense layer), the branches
joined by two dense layers. What all images have in common is most of what a map holds, and of what is pooled: whitened
and normalised, what tells one from the next is as large. Two rows, a member and another, are too few to normalise over.

Several heads that learn apart agree on what they were taught and differ on what they were not, so that their mean knows
strangers better than one of them does. Of all answers the one that members are told speaks most for a
member (:mod:`amint.nearness`).

Source: aMINT (arXiv 2509.07879), section 3 and its published setups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from amint.branches import Branch, TapSpec, tap_spec, whitening_of
from amint.errors import UsageError
from amint.nearness import nearness
from amint.split import Layout, TapPoint, resolve_split
from amint.whitening import whiten_by

__all__ = [
    "HeadConfig",
    "HeadSize",
    "MintHead",
    "head_config",
    "head_weights",
    "load_head_weights",
    "new_head",
    "parameter_share",
    "start_anew",
]


_POSITION_AXES: dict[Layout, int] = {"channels_first": 2, "channels_last": 2, "tokens": 1, "vector": 0}
_MOST_UNITS = 65_536
_MOST_HEADS = 64
_MOST_PARAMETERS = 2**28
# Rows that a head knows by heart have a loss and a gradient of next to nothing. Muon's steps are as long then as ever,
# only into directions that mean nothing, and unseen rows get any score. With smoothed truth there is always an answer
# to come nearer to.
_SMOOTHING = 0.2


@dataclass(frozen=True)
class HeadSize:
    """How large a head is: more units know more members, and cost more.

    Attributes:
        width: channels after a branch's first layer; None for as many as the tap has, between 32 and 128, or for a
            vector, or a map read as one, as many as it has values, between 32 and 256.
        pool: side of the pooled map (maps: pool x pool cells; tokens: pool**2 cells).
        hidden: units of the dense layers.
        ensemble: so many heads of that size learn apart, each from initial weights of its own; the score is the mean of
            theirs.

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
class HeadConfig:
    """Everything needed to build a head again.

    Attributes:
        taps: what each branch reads, shallow to deep.
        width, pool, hidden, ensemble: as in :class:`HeadSize`; the width has one entry a tap.
        normalised: whether what is pooled is normalised over the batch, while training, or by what it was then.
        whitened: whether maps are whitened first (:mod:`amint.whitening`), unless that would be of too many values.
        smoothing: how much the truth that the head is told is smoothed (:func:`amint.losses.membership_loss`).
    """

    taps: tuple[TapSpec, ...]
    width: tuple[int, ...]
    pool: int
    hidden: int
    ensemble: int = 1
    normalised: bool = True
    whitened: bool = True
    smoothing: float = _SMOOTHING

    def refuse_huge(self) -> None:
        """Refuse to fill the memory.

        Raises:
            UsageError: the head would hold more than 2**28 numbers, statistics included.
        """
        with torch.device("meta"):
            size = sum(value.numel() for value in _own(MintHead(self)).values())
        if size > _MOST_PARAMETERS:
            raise UsageError(
                f"the MINT head would hold {size:,} numbers, and may hold {_MOST_PARAMETERS:,}; tap fewer modules, or "
                "choose a smaller amint.HeadSize"
            )

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
            data = {"ensemble": 1, "normalised": False, "whitened": False, "smoothing": 0.0, **data}
            taps = tuple(TapSpec(**{**tap, "positions": tuple(tap["positions"])}) for tap in data["taps"])
            config = HeadConfig(**{**data, "taps": taps, "width": tuple(data["width"])})
            axes = all(len(tap.positions) == _POSITION_AXES[tap.layout] for tap in taps)
            sizes = [*config.width, config.pool, config.hidden, config.ensemble]
            sizes += [size for tap in taps for size in (tap.channels, *tap.positions)]
            sound = all(type(size) is int and 0 < size <= _MOST_UNITS for size in sizes)
            sound = sound and config.ensemble <= _MOST_HEADS
            flags = [config.normalised, config.whitened, *(tap.whole for tap in taps)]
            sound = sound and all(type(flag) is bool for flag in flags)
            sound = sound and type(config.smoothing) is float and 0 <= config.smoothing < 1
            if not (taps and axes and sound and set(data) == set(asdict(config))):
                raise ValueError(data)
            config.refuse_huge()
        except UsageError as error:
            raise UsageError(f"not a description of a MINT head: {error}") from error
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"not a description of a MINT head: {error!r}") from error
        return config


def head_config(points: Sequence[TapPoint], size: HeadSize | None = None) -> HeadConfig:
    """The head for these taps, of the default size unless told otherwise.

    Raises:
        UsageError: a tap's output has a shape no head can read, or the head would fill the memory.
    """
    size = size or HeadSize()
    taps = tuple(tap_spec(point, size.pool) for point in points)
    width = tuple(size.width or tap.width for tap in taps)
    config = HeadConfig(taps, width, size.pool, size.hidden, size.ensemble)
    config.refuse_huge()
    return config


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
    head = _untrained(head_config(points, size), seed)
    return points, head.to(parameter.device, parameter.dtype), tuple(example.shape[1:])


def start_anew(head: MintHead, seed: int) -> None:
    """Give a head the weights and statistics that a new one has; ``seed`` as in :func:`new_head`."""
    load_head_weights(head, _own(_untrained(head.config, seed)))


def _untrained(config: HeadConfig, seed: int) -> MintHead:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MintHead(config)


class MintHead(nn.Module):
    """Tapped maps, shallow to deep, each ``[n, ...]`` -> membership scores ``[n]`` in float32."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.whitening = nn.ModuleList(whitening_of(tap) if config.whitened else nn.Identity() for tap in config.taps)
        branches = zip(config.taps, config.width, strict=True)
        shared: dict[str, Any] = {"pool": config.pool, "hidden": config.hidden, "normalised": config.normalised}
        self.branches = nn.ModuleList(Branch(tap, width, **shared) for tap, width in branches)
        joined = config.hidden * len(config.taps)
        self.join = nn.Sequential(nn.Linear(joined, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
        one = replace(config, ensemble=1, whitened=False)
        self.others = nn.ModuleList(MintHead(one) for _ in range(config.ensemble - 1))

    def each(self, maps: Sequence[Tensor]) -> Tensor:
        """One logit a sample and head, ``[n, ensemble]``: each head has to answer for itself while it learns."""
        maps = [white(x) for white, x in zip(self.whitening, self._read(maps), strict=True)]
        return torch.stack([head._answer(maps) for head in (self, *self.others)], dim=1)

    def whiten(self, steps: Iterable[Sequence[Tensor]]) -> None:
        """Fit the whitening to the maps of a few steps and keep it (:func:`amint.whitening.whiten_by`)."""
        whiten_by(self.whitening, (self._read(maps) for maps in steps))

    def _read(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [tap.read(x) for tap, x in zip(self.config.taps, maps, strict=True)]

    def _answer(self, maps: Sequence[Tensor]) -> Tensor:
        features = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        logits: Tensor = self.join(torch.cat(features, dim=1)).squeeze(1)
        return logits.float()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One score a sample, ``[n]``: how near the ensemble's answers are to what members are told, on average."""
        return nearness(self.each(maps), self.config.smoothing).mean(dim=1)


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
