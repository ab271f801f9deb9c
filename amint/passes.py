"""External data that can only be iterated over, as an endless stream of rows that can be entered anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from amint.batches import Source, batches_of, inputs_of
from amint.errors import UsageError
from amint.seeding import seed_generators

__all__ = ["passes"]


def passes(source: Source, chunk: int, taken: int, key: tuple[int, int, int]) -> Iterator[Tensor]:
    """A plain iterable again and again, from a position on, every ``world``-th row of it."""
    seed, rank, world = key
    number, drop = 0, taken
    while True:
        rows_of_pass = mine_of_pass = 0
        for batch in _one_pass(source, chunk, seed, number):
            rows = inputs_of(batch)
            mine = rows[(rank - rows_of_pass) % world :: world]
            rows_of_pass += len(rows)
            mine_of_pass += len(mine)
            skip = min(drop, len(mine))
            drop -= skip
            if len(mine) > skip:
                yield mine[skip:]
        if mine_of_pass == 0:
            raise UsageError(
                "the external loader yielded nothing; it must give rows each time it is iterated over "
                "(a generator gives them once: pass a DataLoader or a dataset)"
            )
        passed, drop = divmod(drop, mine_of_pass)
        number += 1 + passed


def _one_pass(source: Source, chunk: int, seed: int, number: int) -> Iterator[Any]:
    """One pass over a plain iterable; each batch draws its random transforms from a seed of its own."""
    seed_generators(seed, number, 0)
    batches = iter(batches_of(source, chunk))
    for position in itertools.count(1):
        seed_generators(seed, number, position)
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch
