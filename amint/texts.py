"""Many texts in little memory: names, hashes and notes of all submitted files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Texts"]

_NONE, _TEXT = b"\x00", b"\x01"


class Texts:
    """Texts or None, as one block of bytes and where each one ends; only ever added to."""

    def __init__(self, texts: Iterable[str | None] = ()) -> None:
        self._content, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str | None) -> None:
        """Add one at the end; with any characters, even halves of pairs, which file names can hold."""
        self._content += _NONE if text is None else _TEXT + text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str | None:
        # Without this, a negative number would give a wrong text.
        if not 0 <= number < len(self):
            raise IndexError(f"text {number} of {len(self)}")
        content = self._content[self._ends[number] : self._ends[number + 1]]
        return content[1:].decode("utf-8", "surrogatepass") if content.startswith(_TEXT) else None

    def __iter__(self) -> Iterator[str | None]:
        return (self[number] for number in range(len(self)))

    def take(self, which: Iterable[int]) -> Texts:
        """Some of them, by their numbers, in that order."""
        return Texts(self[number] for number in which)

    def present(self) -> NDArray[np.bool_]:
        """Which ones are not None, ``[n]``."""
        first = np.frombuffer(self._ends, np.int64)[:-1]
        return np.asarray(np.frombuffer(self._content, np.uint8)[first] == _TEXT[0])
