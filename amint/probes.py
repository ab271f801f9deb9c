"""What one forward pass shows besides its output: tapped maps and the input of the last linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amint.errors import StepError, UsageError
from amint.split import TapPoint, tap_modules
from amint.taps import observing, observing_calls

__all__ = ["LinearRun", "Seen", "as_half", "look"]

_MOST_CELLS = 8


@dataclass(frozen=True)
class LinearRun:
    """One run of an ``nn.Linear``: its name in the model, its input and its output."""

    name: str
    features: Tensor
    output: Tensor


@dataclass(frozen=True)
class Seen:
    """A forward pass.

    Attributes:
        output: what the model returned.
        means: channel means of the taps side by side, shallow to deep, ``[n, d]``; None without taps.
        maps: the deepest tap ``[n, c, h, w]``, averaged down to 8 x 8 cells at most, float16; None without taps.
        linears: runs of linear layers, in order.
    """

    output: Any
    means: Tensor | None = None
    maps: Tensor | None = None
    linears: Sequence[LinearRun] = field(default_factory=tuple)

    def classifier(self) -> LinearRun:
        """The last linear layer that gave ``[n, classes]``.

        Raises:
            UsageError: there is none, as in a network that ends with a convolution.
        """
        for run in reversed(self.linears):
            if run.output.shape == self.output.shape and run.features.ndim == 2:
                return run
        raise UsageError(
            f"no nn.Linear of this model gives its output {tuple(self.output.shape)}; leave out attacks that need the "
            "signals 'features' and 'gradient'"
        )


def look(model: nn.Module, x: Tensor, points: Sequence[TapPoint] = (), *, linears: bool = False) -> Seen:
    """Run a model once; the caller sees to evaluation mode and gradients.

    Args:
        points: taps, shallow to deep.
        linears: also keep what goes into and comes out of linear layers.

    Raises:
        StepError: a tap did not run.
    """
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    layouts = {point.name: point.layout for point in points}

    def read(name: str, _: nn.Module, output: Tensor) -> None:
        # At once: layers behind the tap may overwrite its output in place.
        map_ = _channels_first(output.detach(), layouts[name])
        deepest = name == points[-1].name
        found[name] = map_.mean((2, 3)), _pooled(map_) if deepest else None

    runs: list[LinearRun] = []

    def keep(name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # Only layers that can be the last one: in a large transformer the others would fill the memory.
        if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            runs.append(LinearRun(name, args[0].detach(), output.detach()))

    kept = {name: module for name, module in model.named_modules() if linears and isinstance(module, nn.Linear)}
    with observing(tap_modules(model, layouts), read), observing_calls(kept, keep):
        output = model(x)
    missing = [name for name in layouts if name not in found]
    if missing:
        raise StepError(f"the taps {missing} did not run in the model's forward pass; resolve the split again")
    if not points:
        return Seen(output, linears=runs)
    means = torch.cat([found[point.name][0] for point in points], dim=1)
    return Seen(output, means, found[points[-1].name][1], runs)


def as_half(x: Tensor) -> Tensor:
    """float16, what is too large for it at its largest number: one overflow must not become an infinite feature."""
    most = torch.finfo(torch.float16).max
    return x.clamp(-most, most).half()


def _channels_first(x: Tensor, layout: str) -> Tensor:
    """``[n, c, h, w]``; tokens on the largest square grid that they fill, without what leads them (class tokens)."""
    if layout == "channels_last":
        return x.permute(0, 3, 1, 2)
    if layout == "tokens":
        side = isqrt(x.shape[1])
        return x[:, -side * side :].transpose(1, 2).reshape(len(x), -1, side, side)
    return x if layout == "channels_first" else x.flatten(1)[:, :, None, None]


def _pooled(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return as_half(F.adaptive_avg_pool2d(x.float(), (min(_MOST_CELLS, height), min(_MOST_CELLS, width))))
