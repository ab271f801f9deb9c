"""Does every change of the audited model's weights follow a training pass that the MINT head saw?

Three counts are kept among the facts of an audit:

* ``accounted_updates``: changes that follow an ``audit.loss()``, one a loss at most;
* ``unaccounted_updates``: changes that follow none: training under ``paused()``, after ``detach()``, or past the hooks;
* ``replaced_weights``: times that weights came from elsewhere: ``load_state_dict``, averaged weights that a Lightning
  callback puts in place between epochs or at the end, other weights after ``detach()``, or a resumed run whose
  weights are not those its checkpoint was accounted for.

An update is a step of a torch optimizer that holds gradients of the audited model, or weights that are found changed
in another way at the next hooked pass; many such changes between two passes count as one. Version counters of
tensors are of no use here: fused optimizers, ``.data``, ``numpy()`` and ``vector_to_parameters`` write past them, and
weights that are swapped out and back again raise them. So the bits of all weights are summed twice a step.

Clipping weights after a step is a change of its own; do it in a hook of the optimizer, and it belongs to the step.

What is not seen: further data in the loss of a step that the head saw, batch statistics, other processes, and
somebody who edits the counts.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from amint.placement import HEAD_NAME

__all__ = ["Accounting", "sum_of_bits"]

_COUNTS = ("accounted_updates", "unaccounted_updates", "replaced_weights")


class Accounting:
    """Watches the weights of one model from the first hooked pass, or the first optimizer step, on.

    Args:
        model: the audited model; a MINT head in it is not watched.
        counts: where the three counts are kept.

    Attributes:
        model: the audited model.
    """

    def __init__(self, model: nn.Module, counts: MutableMapping[str, Any]) -> None:
        self.model, self._counts = model, counts
        counts.update(dict.fromkeys(_COUNTS, 0))
        # The sums after the last event, and whether the weights had changed between it and the pass that follows.
        self._known: dict[str, Tensor] | None = None
        self._changed: Tensor | None = None
        # A loss the head saw, and the weights that moved since.
        self._due = False
        self._moved: set[str] = set()
        self._resumed = False
        self._steps = 0
        self._entered: dict[int, int] = {}
        self._hooks = [
            model.register_load_state_dict_pre_hook(_before_loading),
            model.register_load_state_dict_post_hook(_after_loading),
        ]
        _watch_optimizers()
        _ALL.add(self)

    def forward(self) -> None:
        """A training pass begins that the head sees."""
        if self._resumed:
            self.replaced()
            return
        self._resolve()
        now = self._sums()
        if self._known is not None:
            # Looked at later: to wait for the device here would leave it idle.
            self._changed = _differ(self._known, now)
        self._known = now

    def loss(self) -> None:
        """The head's loss of that pass enters the loss of the step."""
        self._resolve()
        self._due, self._moved = True, set()

    def settle(self) -> None:
        """Count what has changed up to now."""
        self._resolve()
        if self._resumed or not self._hooks:
            self.replaced()
        elif self._known is not None:
            now = self._sums()
            self._changed, self._known = _differ(self._known, now), now
            self._resolve()

    def replaced(self) -> None:
        """If the weights have changed since the last event, they came from elsewhere."""
        self._resolve()
        if self._known is not None:
            now = self._sums()
            self._counts["replaced_weights"] += bool(_differ(self._known, now))
            self._known, self._resumed = now, False

    def loading(self) -> None:
        """``load_state_dict`` begins."""
        if not self._resumed:
            self.settle()

    def loaded(self) -> None:
        """``load_state_dict`` is done."""
        # The weights of a resumed run may be loaded before or after its counts, and are compared when it goes on.
        if not self._resumed:
            self.replaced()

    def close(self) -> None:
        """Take the hooks off the model; from here on only steps of optimizers are unaccounted updates."""
        self.settle()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the weights they hold for, as plain values."""
        if self._due and not self._moved:
            self.settle()
        known = self._known
        weights = None if known is None else {name: int(value) for name, value in known.items()}
        return {**{name: self._counts[name] for name in _COUNTS}, "weights": weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting; weights that are not those of the state when training goes on were replaced."""
        self._counts.update({name: state[name] for name in _COUNTS})
        weights = state["weights"]
        self._known = None if weights is None else {name: torch.tensor(value) for name, value in weights.items()}
        self._resumed, self._changed, self._due, self._moved = weights is not None, None, False, set()

    def entered(self, optimizer: Optimizer) -> None:
        """A step of any optimizer begins."""
        self._entered[id(optimizer)] = self._steps

    def stepped(self, optimizer: Optimizer) -> None:
        """A step of any optimizer is done."""
        # A step around another optimizer's step is one and the same update.
        inner = self._steps > self._entered.pop(id(optimizer), self._steps)
        names = {id(p): name for name, p in self._weights().items() if p.grad is not None}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        moved = {name for key, name in names.items() if key in held}
        if not moved:
            return
        self._resolve()
        self._steps += 1
        if not inner:
            self._update(moved)
        self._known = self._sums() if self._known is None else self._known | self._sums(moved)

    def _update(self, moved: set[str]) -> None:
        if not self._due or self._moved & moved:
            self._counts["unaccounted_updates"] += 1
            return
        # Several optimizers may share the weights among them.
        self._counts["accounted_updates"] += not self._moved
        self._moved |= moved

    def _resolve(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and bool(changed):
            self._update(set(self._weights()))

    def _weights(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if HEAD_NAME not in name.split(".")}

    @torch.no_grad()
    def _sums(self, names: set[str] | None = None) -> dict[str, Tensor]:
        return {name: sum_of_bits(p) for name, p in self._weights().items() if names is None or name in names}


def sum_of_bits(weight: Tensor) -> Tensor:
    """A scalar on the weight's device; any training step changes it, but for accidents like one in 2**64."""
    flat = weight.detach()
    dense = flat.is_contiguous() or flat.is_contiguous(memory_format=torch.channels_last)
    flat = flat.as_strided((flat.numel(),), (1,)) if dense else flat.reshape(-1)
    size = flat.element_size()
    # Eight bytes at a time is three times as fast; they must be aligned, wherever the weight lies.
    whole = (flat.numel() * size) % 8 == 0
    if whole and (flat.storage_offset() * size) % 8:
        flat = flat.clone()
    words = torch.int64 if whole else {1: torch.int8, 2: torch.int16, 4: torch.int32}[size]
    return flat.view(words).sum(dtype=torch.int64)


def _differ(known: dict[str, Tensor], now: dict[str, Tensor]) -> Tensor:
    if list(known) != list(now) or not now:
        return torch.tensor(list(known) != list(now))
    device = next(iter(now.values())).device
    a, b = (torch.stack([value.to(device) for value in sums.values()]) for sums in (known, now))
    return torch.any(a != b)


# Hooks are plain functions that look up who is concerned: a copied or pickled model takes them along, and nobody's
# books with it.
_ALL: weakref.WeakSet[Accounting] = weakref.WeakSet()


@lru_cache(maxsize=1)
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for accounting in list(_ALL):
        accounting.entered(optimizer)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    for accounting in list(_ALL):
        accounting.stepped(optimizer)


def _before_loading(module: nn.Module, *_: Any) -> None:
    for accounting in _of(module):
        accounting.loading()


def _after_loading(module: nn.Module, _incompatible: Any) -> None:
    for accounting in _of(module):
        accounting.loaded()


def _of(module: nn.Module) -> Iterable[Accounting]:
    return [accounting for accounting in _ALL if accounting.model is module]
