"""Random draws that follow seeds of their own and leave everybody else's draws alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["isolated", "seed_generators", "seeded", "undisturbed"]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn inside, the generators of torch (CPU), numpy and Python end as they began."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002  (users' transforms draw from it)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def isolated(*seeds: int) -> Iterator[None]:
    """Random draws inside follow the seeds; the generators of torch (CPU), numpy and Python stay as they were."""
    with undisturbed():
        seed_generators(*seeds)
        yield


def seed_generators(*seeds: int) -> None:
    """Set the global generators of torch (CPU), numpy and Python by these seeds."""
    words = np.random.SeedSequence([seed % 2**64 for seed in seeds]).generate_state(3)
    torch.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    random.seed(int(words[2]))


def seeded(seed: int, number: int) -> torch.Generator:
    """A generator of its own for the ``number``-th use of a seed."""
    return torch.Generator().manual_seed((seed * 2_654_435_761 + number + 1) % 2**63)
