"""Signals kept on disk, found again by what they were computed from.

One file a batch, named by a hash of everything that its numbers depend on: the model, the probes' parameters, the
batch's inputs and labels, the names of the signals and the version of their definition. Whatever changes leads to
another file; nothing is ever looked up by a name or a date. A pass that was interrupted goes on where it stopped, as
long as the batches are cut in the same way.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from amint.batches import inputs_of
from amint.identity import tensor_digest
from amint.signals import VERSION, Signals, extract
from amint.targets import Columns, Target, labels_of

__all__ = ["Identified", "extract_cached", "whole_file"]


class Identified(Target, Protocol):
    """A target that knows what it is."""

    def identity(self) -> str:
        """A hash that changes with whatever changes the signals."""
        ...


def extract_cached(target: Identified, batches: Iterable[Any], needs: Set[str], folder: str | Path) -> Signals:
    """What :func:`amint.signals.extract` gives, without running the model on batches it has seen before.

    A target whose identity comes out another each time it is asked for (:mod:`amint.identity`) is measured each time,
    and nothing is written, as nothing could be found again. Any number of processes may share the folder: files appear
    whole or not at all, and a damaged one is made again. Nothing in it is code. It only grows; delete it whenever you
    like.

    Args:
        target, batches, needs: as in :func:`amint.signals.extract`.
        folder: where the files are kept; made if it is not there.
    """
    return extract(_Remembering(target, Path(folder)), batches, needs)


class _Remembering:
    """A target that looks into the folder first; it must not outlive a change of the model."""

    def __init__(self, target: Identified, folder: Path) -> None:
        self.provides = target.provides
        self._target, self._folder, self._identity = target, folder, target.identity()
        self._is_known = target.identity() == self._identity
        if self._is_known:
            folder.mkdir(parents=True, exist_ok=True)

    def measure(self, batch: Any, needs: Set[str]) -> Columns:
        if not self._is_known:
            return self._target.measure(batch, needs)
        x = inputs_of(batch)
        parts = (VERSION, type(self._target).__qualname__, self._identity, sorted(needs))
        content = tensor_digest(x, labels_of(batch))
        path = self._folder / f"{hashlib.sha256(repr((*parts, content)).encode()).hexdigest()}.npz"
        columns = _read(path)
        if columns is None or set(columns) != set(needs) or {len(column) for column in columns.values()} - {len(x)}:
            columns = self._target.measure(batch, needs)
            _write(path, columns)
        return columns


def _read(path: Path) -> Columns | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files}
    # Besides a file that is not there: a damaged one makes zipfile and numpy raise nearly anything.
    except Exception:
        return None


def _write(path: Path, columns: Columns) -> None:
    with whole_file(path) as file:
        np.savez(file, **cast(Any, {name: columns[name] for name in sorted(columns)}))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that gets its name when it is complete; after an error, or a kill, nothing has that name."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
