"""The external rows as an endless stream: shuffled, seeded, sharded, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from amint.batches import Source, inputs_of, is_map_style, refuse_generator
from amint.errors import AmintError, UsageError
from amint.passes import passes
from amint.seeding import isolated, seed_generators, seeded

__all__ = ["ExternalStream"]


class ExternalStream:
    """An endless stream of external rows, independent of the member loader's length and batch size.

    Args:
        source: a DataLoader, a dataset, a tensor of rows, or any iterable of batches that can be iterated again. Labels
            are ignored. Datasets with an index are shuffled anew each pass; a plain iterable, and a loader with a
            sampler of its own choosing, keep their order.
        seed: orders the passes and feeds random transforms; the global random state is neither read nor changed.
        rank, world: this process takes every ``world``-th row, starting at ``rank``.
        reserve: rows kept out of the stream, for measuring on rows the head never sees (indexed datasets only).

    Attributes:
        reserved: the rows kept out, in batches, or None.
        n_reserved: how many they are.

    Raises:
        UsageError: the source yields nothing, or can be iterated over only once.
    """

    def __init__(self, source: Source, seed: int = 0, rank: int = 0, world: int = 1, reserve: int = 0) -> None:
        refuse_generator("external", source)
        if not 0 <= rank < world or reserve < 0:
            raise UsageError(
                f"need 0 <= rank < world and no negative number of rows to keep, got {rank=}, {world=}, {reserve=}"
            )
        self._seed, self._rank, self._world = seed, rank, world
        self._loader = source if isinstance(source, DataLoader) and _may_draw_any_row(source) else None
        self._dataset: Any = TensorDataset(source) if isinstance(source, Tensor) else source
        self._dataset = self._loader.dataset if self._loader is not None else self._dataset
        self._source, self._indexed = source, is_map_style(self._dataset)
        self._chunk = (self._loader.batch_size if self._loader is not None else None) or 64
        self.reserved: DataLoader[Any] | None = None
        self.n_reserved = 0
        self._pool: list[int] = []
        if self._indexed:
            order = torch.randperm(len(self._dataset), generator=seeded(seed, -1)).tolist()
            self.n_reserved = min(reserve, len(order) // 2)
            self._pool = sorted(order[self.n_reserved :])
            if len(self._pool) < world:
                raise UsageError(
                    f"the external data is empty or holds fewer rows than there are processes: {len(self._pool)} rows "
                    f"for {world}; pass rows that are not members of the training data"
                )
        if self.n_reserved:
            kept = Subset(self._dataset, sorted(order[: self.n_reserved]))
            self.reserved = DataLoader(kept, self._chunk, generator=seeded(seed, -1), **self._options())
        self._taken = 0
        self._buffer: list[Tensor] = []
        self._batches: Iterator[Tensor] | None = None

    def example(self, k: int = 2) -> Tensor:
        """The first rows ``[at most k, ...]``, without advancing the stream."""
        fresh = ExternalStream(self._source, self._seed)
        return fresh.take(min(k, len(fresh._pool)) if fresh._indexed else 1)

    def take(self, k: int) -> Tensor:
        """The next ``k`` rows, ``[k, ...]``.

        Raises:
            UsageError: the source failed, ran dry, or yielded rows of different shapes.
        """
        with self.own_randomness():
            while sum(map(len, self._buffer)) < k:
                self._buffer.append(self._next())
        shapes = {tuple(rows.shape[1:]) for rows in self._buffer}
        if len(shapes) > 1:
            raise UsageError(f"the external data holds rows of different shapes {sorted(shapes)}; resize them alike")
        rows = torch.cat(self._buffer)
        self._buffer = [rows[k:]]
        self._taken += k
        return rows[:k]

    def own_randomness(self, *use: int) -> AbstractContextManager[None]:
        """Random draws inside follow this stream's seed and position, and leave the audited model's training alone."""
        return isolated(self._seed, self._taken, *use)

    def state_dict(self) -> dict[str, int]:
        """How far the stream has come."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a stream of the same source and seed had stopped."""
        self._taken, self._buffer, self._batches = int(state["taken"]), [], None

    def release(self) -> None:
        """Let worker processes go; the stream goes on as if nothing had happened when rows are next taken from it."""
        self.load_state_dict(self.state_dict())

    def _next(self) -> Tensor:
        if self._batches is None:
            self._batches = self._open()
        try:
            return next(self._batches)
        except Exception as error:
            # A generator that failed is spent; the next attempt starts from a new one.
            self.release()
            if isinstance(error, AmintError):
                raise
            raise UsageError(
                f"reading the external data failed: {error}. Its rows must be tensors of one shape; see the cause above"
            ) from error

    def _open(self) -> Iterator[Tensor]:
        # What is returned must not refer to this stream: worker processes of an iterator that is part of a reference
        # cycle end only after a timeout.
        if not self._indexed:
            return passes(self._source, self._chunk, self._taken, (self._seed, self._rank, self._world))
        start, drop = divmod(self._taken, self._chunk)
        sampler = _Endless(self._pool, self._chunk, start, (self._seed, self._rank, self._world))
        dataset = _Repeatable(self._dataset, self._seed)
        generator = torch.Generator().manual_seed(self._seed)
        loader = DataLoader(dataset, batch_sampler=sampler, generator=generator, **self._options())
        return (rows[drop:] if i == 0 else rows for i, rows in enumerate(map(inputs_of, loader)))

    def _options(self) -> dict[str, Any]:
        names = ("collate_fn", "num_workers", "pin_memory", "worker_init_fn", "multiprocessing_context")
        return {name: getattr(self._loader, name) for name in names} if self._loader is not None else {}


class _Endless(Sampler[list[int]]):
    """Batches without end, each its number and its indices: one permutation a pass, every ``world``-th index of it."""

    def __init__(self, pool: list[int], chunk: int, start: int, key: tuple[int, int, int]) -> None:
        self._pool, self._chunk, self._start = pool, chunk, start
        self._seed, self._rank, self._world = key

    def __iter__(self) -> Iterator[list[int]]:
        a_pass = len(range(self._rank, len(self._pool), self._world))
        number, offset = divmod(self._start * self._chunk, a_pass)
        batch = [self._start]
        while True:
            order = torch.randperm(len(self._pool), generator=seeded(self._seed, number)).tolist()
            for i in order[self._rank :: self._world][offset:]:
                batch.append(self._pool[i])
                if len(batch) > self._chunk:
                    yield batch
                    batch = [batch[0] + 1]
            number, offset = number + 1, 0


class _Repeatable(Dataset[Any]):
    """Each batch draws its random transforms from a seed of its own, so that a resumed stream repeats them."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitems__(self, batch: list[int]) -> list[Any]:
        number, *indices = batch
        # In a worker process this is the only place that knows which batch is being made.
        seed_generators(self._seed, number)
        fetch = getattr(self._dataset, "__getitems__", None)
        return list(fetch(indices)) if fetch else [self._dataset[i] for i in indices]


def _may_draw_any_row(loader: DataLoader[Any]) -> bool:
    """Whether the loader is a dataset cut into batches, as opposed to a choice of its rows made by a sampler."""
    whole = isinstance(loader.sampler, RandomSampler | SequentialSampler | DistributedSampler)
    return whole and loader.batch_size is not None and is_map_style(loader.dataset)
