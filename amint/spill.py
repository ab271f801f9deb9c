"""Rows of numbers of which only a few are ever looked at again: kept on disk once they are many."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spill", "Table"]

_IN_MEMORY = 2**20


class Table(Protocol):
    """Numbers ``[m, f]`` that give some of their rows by number; an array is one."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]: ...


class Spill:
    """Rows of numbers, in a temporary file from a mebibyte on, which goes when this object does.

    Args:
        kind: of the numbers.
    """

    def __init__(self, kind: type[np.float32 | np.float64]) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (open as long as this object)
        self._kind, self._width = np.dtype(kind), 0
        self._order: NDArray[np.int64] | None = None
        weakref.finalize(self, self._file.close)

    def append(self, row: bytes) -> None:
        """Add a row at the end: the bytes of its numbers, as many as in the first one."""
        self._width = self._width or len(row)
        if len(row) != self._width:
            raise ValueError(f"a row of {len(row)} bytes among rows of {self._width}")
        self._file.write(row)

    def reorder(self, order: NDArray[np.int64]) -> None:
        """From now on row ``i`` means what was added as number ``order[i]``; nothing may be added any more."""
        self._order = order

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Some rows by number, ``[n, f]``."""
        found = np.empty((len(rows), self._width // self._kind.itemsize), self._kind)
        for i, row in enumerate((rows if self._order is None else self._order[rows]).tolist()):
            self._file.seek(row * self._width)
            found[i] = np.frombuffer(self._file.read(self._width), self._kind)
        return found
