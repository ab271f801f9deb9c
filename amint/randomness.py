"""The state of every random number generator that a training run draws from, for exact restarts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["Randomness"]


@dataclass(frozen=True)
class Randomness:
    """A snapshot.

    Attributes:
        cpu: torch's default generator.
        cuda: one state a CUDA device.
        python: ``random.getstate()``.
        numpy: numpy's global state, as plain values.
        loaders: the generators that the training loaders and their samplers bring along, in order.
    """

    cpu: Tensor
    cuda: list[Tensor]
    python: Any
    numpy: list[Any]
    loaders: list[Tensor]

    @staticmethod
    def now(loaders: Any) -> Randomness:
        """Take a snapshot; ``loaders`` is one training loader or a collection of them."""
        name, keys, *rest = np.random.get_state()  # noqa: NPY002  (users' transforms draw from it)
        return Randomness(
            cpu=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            python=random.getstate(),
            numpy=[name, [int(key) for key in keys], *rest],
            loaders=[generator.get_state() for generator in _generators(loaders)],
        )

    def restore(self, loaders: Any) -> None:
        """Set everything back to the snapshot; ``loaders`` are those of :meth:`now`, made again."""
        torch.set_rng_state(self.cpu)
        if self.cuda and len(self.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(_tuples(self.python))
        name, keys, *rest = self.numpy
        np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
        for generator, state in zip(_generators(loaders), self.loaders, strict=False):
            generator.set_state(state)

    def to_state(self) -> dict[str, Any]:
        """Tensors and plain values only, so that a checkpoint with it loads with ``weights_only=True``."""
        return dict(vars(self))

    @staticmethod
    def from_state(state: dict[str, Any]) -> Randomness:
        """The inverse of :meth:`to_state`."""
        return Randomness(**state)


def _generators(loaders: Any) -> list[torch.Generator]:
    found = {}
    for loader in tree_leaves(loaders):
        batches = getattr(loader, "batch_sampler", None)
        for holder in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
