"""Where to tap a network: entry, middle, output, or module names, resolved once and proved by a dry run.

A network can be cut behind a module if every path from the input to the output runs through that module's
output. One forward pass with autograd shows all such modules: a node of the graph lies on every path exactly
when (paths from the input to it) x (paths from it to the output) equals the number of all paths.

Source: aMINT (arXiv 2509.07879), section 3: two taps at consecutive depths; entry = early stages, middle,
output = last stages.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from amint.errors import SplitError
from amint.graph import on_every_path
from amint.taps import evaluating, observing

__all__ = ["Layout", "TapPoint", "prove_cut", "resolve_split", "tap_modules", "tap_points"]

Layout = Literal["channels_first", "channels_last", "tokens", "vector"]

# Fewer distinct shapes than this and the network has no stages: its blocks are counted one by one (ViT).
_STAGED = 4

# A module below this share of the forward cost counts as one block.
_BLOCK_COST = 0.25

# A first block that ends above this share holds the stages, and is none itself (VGG's ``features``).
_LATE = 0.5


@dataclass(frozen=True)
class TapPoint:
    """A module behind which the network can be cut.

    Attributes:
        name: the module's name in ``model.named_modules()``.
        shape: shape of its output without the batch dimension.
        layout: what the dimensions mean.
        cost: share of the whole forward pass (multiply-adds) done up to and including this module, 0 to 1.
        setups: which of "entry", "middle", "output" tap it.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    cost: float
    setups: tuple[str, ...] = ()


def tap_points(model: nn.Module, example: Tensor) -> tuple[TapPoint, ...]:
    """List the places where the network can be tapped, in the order of execution, setups marked.

    Args:
        model: any classifier; left as it was.
        example: a small input batch ``[n, ...]``, on the model's device.

    Raises:
        SplitError: the network has no module behind which it can be cut.
    """
    stages = _stages(_trace(model, example))
    if not stages:
        raise SplitError(
            "no module of this network can be tapped: behind each of them some other path reaches the output. "
            "Pass module names with split=(...), or restructure the forward pass into blocks"
        )
    setups = {
        "entry": stages[:2],
        "middle": stages[max(0, (len(stages) - 2) // 2) :][:2],
        "output": stages[-2:],
    }
    return tuple(replace(point, setups=tuple(k for k, chosen in setups.items() if point in chosen)) for point in stages)


def resolve_split(model: nn.Module, split: str | Sequence[str], example: Tensor) -> tuple[TapPoint, ...]:
    """Turn "entry", "middle", "output" or module names into tap points, shallow to deep, proved by a dry run.

    Args:
        model: any classifier; left as it was.
        split: a setup's name, one module name, or several.
        example: a small input batch ``[n, ...]``, on the model's device.

    Raises:
        SplitError: unknown name, a module inside a residual block, or a cut that changes the outputs.
    """
    if split in ("entry", "middle", "output"):
        points: tuple[TapPoint, ...] = tuple(p for p in tap_points(model, example) if split in p.setups)
    else:
        names = [split] if isinstance(split, str) else list(split)
        points = _by_name(model, names, example)
    prove_cut(model, points, example)
    return points


def tap_modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Name -> module, in the given order; raises SplitError for a name the model does not have."""
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            near = difflib.get_close_matches(name, modules, 3, 0.3)
            raise SplitError(
                f"the model has no module {name!r}; near names: {near or list(modules)[1:6]}. A split is a list of "
                'module names, or "entry", "middle" or "output"'
            )
    return {name: modules[name] for name in names}


def prove_cut(model: nn.Module, points: Sequence[TapPoint], example: Tensor) -> None:
    """Show on real rows that dropping the additional rows behind the deepest tap leaves the outputs as they were.

    Raises:
        SplitError: the outputs differ, or the network fails when rows are dropped there.
    """
    members, deepest = len(example), points[-1].name
    taps = tap_modules(model, [point.name for point in points])
    maps: dict[str, Tensor] = {}

    def cut(name: str, _module: nn.Module, output: Tensor) -> Tensor | None:
        maps[name] = output
        return output[:members].clone() if name == deepest else None

    def as_if_cut(*_: Any) -> Tensor:
        return maps[deepest][:members].clone()

    with evaluating(model), torch.no_grad():
        try:
            with observing(taps, cut):
                shortened = model(torch.cat([example, example / 2]))
        except Exception as error:
            raise SplitError(
                f"the network fails when rows are dropped behind {deepest!r} ({error}); it uses the batch size it saw "
                "before. Choose another split"
            ) from error
        for name, output in maps.items():
            if len(output) != 2 * members:
                raise SplitError(f"the first dimension of what {name!r} returns is not the batch. Choose another split")
        # The same map goes on from the tap in both passes: batch sizes change the last digits of what leads to it, and
        # an untrained network can magnify those without bound.
        with observing({deepest: taps[deepest]}, as_if_cut):
            plain = _run(model, example)
    for a, b in zip(tree_leaves(plain), tree_leaves(shortened), strict=False):
        if isinstance(a, Tensor) and (a.shape != b.shape or not _close(a, b)):
            raise SplitError(
                f"cutting behind {deepest!r} changes the network's output; something else than this module's output "
                "carries rows past it. Choose another split"
            )


def _run(model: nn.Module, x: Tensor) -> Any:
    try:
        return model(x)
    except Exception as error:
        raise SplitError(
            f"the network does not run on inputs of shape {tuple(x.shape)} and type {x.dtype}: "
            f"{str(error).rstrip('.')}. Examples and external rows must look like the model's own inputs"
        ) from error


def _close(a: Tensor, b: Tensor) -> bool:
    # Kernels need not give the same last digits twice.
    rtol = {torch.float64: 1e-9, torch.float32: 1e-3}.get(a.dtype, 3e-2)
    scale = float(a.nan_to_num(0, 0, 0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=rtol, atol=rtol / 10 * max(scale, 1e-6), equal_nan=True)


@dataclass(frozen=True)
class _Seen:
    point: TapPoint
    node: Any
    cuts: bool
    block: bool


def _trace(model: nn.Module, example: Tensor) -> list[_Seen]:
    """Every module that ran once and returned one tensor, in order, with the answer: can it be cut here?"""
    modules = {name: module for name, module in model.named_modules() if name}
    runs: dict[str, int] = {}
    ran: list[tuple[str, nn.Module, Tensor, Any, int]] = []
    if not example.is_floating_point():
        raise SplitError(
            f"only floating-point inputs can be traced to the taps, got {example.dtype}; pass external rows as the "
            "model takes them, images as amint.Preprocessing makes them"
        )
    leaf = example.detach().clone().requires_grad_(True)
    with evaluating(model), torch.enable_grad(), FlopCounterMode(display=False) as flops:
        source = leaf.clone()

        def record(name: str, module: nn.Module, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.grad_fn is not None and output.ndim >= 2:
                ran.append((name, module, output, output.grad_fn, flops.get_total_flops()))

        with observing(modules, record):
            output = _run(model, source)
        total = max(flops.get_total_flops(), 1)
    ends = [end.grad_fn for end in tree_leaves(output) if isinstance(end, Tensor) and end.grad_fn is not None]
    if not ends:
        raise SplitError("the model's output does not depend on its input; nothing can be tapped")
    cuts = on_every_path(source.grad_fn, ends)
    side = tuple(example.shape[-2:]) if example.ndim == 4 else None
    seen: list[_Seen] = []
    for name, module, out, node, count in ran:
        first = next(j for j, other in enumerate(ran) if f"{other[0]}.".startswith(f"{name}."))
        share = (count - (ran[first - 1][-1] if first else 0)) / total
        shape = tuple(out.shape[1:])
        cut = node in cuts and node not in ends and len(out) == len(example) and runs[name] == 1
        # A small module of its own kind is one block, whatever it holds; a Sequential only lists blocks.
        if cut and share < _BLOCK_COST and not isinstance(module, nn.Sequential):
            seen = [replace(s, block=s.block and not s.point.name.startswith(f"{name}.")) for s in seen]
        block = any(True for child in module.children() for _ in child.parameters())
        seen.append(_Seen(TapPoint(name, shape, _layout(shape, side), count / total), node, cut, block))
    return [s for s in seen if runs[s.point.name] == 1]


def _layout(shape: tuple[int, ...], side: tuple[int, ...] | None) -> Layout:
    if len(shape) == 2:
        return "tokens"
    if len(shape) != 3:
        return "vector"
    first, last = _likeness(shape[1:], side), _likeness(shape[:2], side)
    return "channels_first" if first >= last else "channels_last"


def _likeness(hw: tuple[int, ...], side: tuple[int, ...] | None) -> float:
    """How well two dimensions look like a shrunken image: 1 for the same aspect ratio, less otherwise."""
    height, width = side or (1, 1)
    ratio = (hw[0] * width) / (hw[1] * height)
    return min(ratio, 1 / ratio) if side is None or (hw[0] <= height and hw[1] <= width) else 0.0


def _stages(seen: list[_Seen]) -> list[TapPoint]:
    """The last block of each stage where shapes change often enough, else the repeated blocks themselves."""
    cuts = [s for s in seen if s.cuts]
    cuts = [s for s in cuts if s.point.layout != "vector"] or cuts
    blocks = [s for s in cuts if s.block]
    if len({s.node for s in blocks}) < 2 or blocks[0].point.cost > _LATE:
        blocks = cuts
    runs = _runs(_named(blocks, lambda outer, inner: outer.point.shape == inner.point.shape))
    if len(runs) >= _STAGED:
        return [run[-1] for run in runs]
    runs = _runs(_named(blocks, lambda outer, inner: outer.node is inner.node))
    longest = max(runs, key=len, default=[])
    return longest if len(longest) > 2 else list(itertools.chain.from_iterable(runs))


def _named(blocks: list[_Seen], may_hold: Callable[[_Seen, _Seen], bool]) -> list[TapPoint]:
    """One name an output: nested modules may return the same tensor, as ``layer1`` and ``layer1.2`` do.

    The outermost name stands, of those whose inner blocks ``may_hold`` allows.
    """
    groups: dict[Any, list[_Seen]] = {}
    for s in blocks:
        inner = [b for b in blocks if b.point.name.startswith(f"{s.point.name}.")]
        if all(may_hold(s, b) for b in inner):
            groups.setdefault(s.node, []).append(s)
    return [group[-1].point for group in groups.values()]


def _runs(points: list[TapPoint]) -> list[list[TapPoint]]:
    return [list(run) for _, run in itertools.groupby(points, key=lambda point: point.shape)]


def _by_name(model: nn.Module, names: list[str], example: Tensor) -> tuple[TapPoint, ...]:
    tap_modules(model, names)
    if not names or len(set(names)) < len(names):
        raise SplitError(f"split needs one or more different module names, got {names}")
    seen = _trace(model, example)
    order = {s.point.name: i for i, s in enumerate(seen)}
    for name in names:
        if name not in order:
            raise SplitError(
                f"the module {name!r} does not run exactly once a forward pass, or does not return one tensor; "
                f"modules that can be tapped: {[p.name for p in _stages(seen)]}"
            )
        if not seen[order[name]].cuts:
            good = [i for i, s in enumerate(seen) if s.cuts and s.point.name not in names]
            nearest = (seen[i].point for i in sorted(good, key=lambda i: abs(i - order[name])))
            works = next((point for point in nearest if _can_be_cut(model, point, example)), None)
            if works is None:
                raise SplitError(f"the network cannot be cut behind {name!r}, nor behind any other module")
            raise SplitError(
                f"the network cannot be cut behind {name!r}: it lies inside a residual block, beside the main "
                f"path or at the very end. The nearest module that works is {works.name!r}"
            )
    return tuple(seen[i].point for i in sorted(order[name] for name in names))


def _can_be_cut(model: nn.Module, point: TapPoint, example: Tensor) -> bool:
    try:
        prove_cut(model, [point], example)
    except SplitError:
        return False
    return True
