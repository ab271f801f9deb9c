"""A file, packed or not, as a stream of bytes that can only be read forwards and never gives more than agreed."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from amint.readers.limits import Limits
from amint.readers.sources import too_much

__all__ = ["Damaged", "Stream"]

_PACKED: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_STEP = 2**20
# The library's modules signal damage each in its own way, and a header can ask for any amount of memory.
_DAMAGE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, MemoryError)


class Damaged(Exception):
    """The stream ends early or cannot be unpacked: what came before is sound, what follows is lost."""


class Stream:
    """The unpacked bytes of a file.

    Args:
        file: open for reading, at its beginning.
        kind: "gzip", "bzip2" or "xz"; anything else is not packed.
        limits: what it may unpack to.
        shown: the submission's printable name, for the message.
    """

    def __init__(self, file: BinaryIO, kind: str, limits: Limits, shown: str) -> None:
        self._size = os.fstat(file.fileno()).st_size
        self._plain = kind not in _PACKED
        self._file: BinaryIO = file if self._plain else _PACKED[kind](file)
        self._limits, self._most = limits, limits.unpacked(self._size)
        self._shown = shown
        self._damage = ""
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer only at the end.

        Raises:
            Damaged: it cannot be unpacked.
            InputError: it unpacks to more than the limit.
        """
        return b"".join(self._pieces(self.position + size))

    def skip_to(self, position: int) -> None:
        """Leave out what lies before ``position``.

        Raises:
            Damaged: the stream ends before, or cannot be unpacked.
            InputError: it unpacks to more than the limit.
        """
        if self._plain and position <= self._size:
            self._file.seek(position)
            self.position = position
        for _ in self._pieces(position):
            pass
        if self.position < position:
            raise Damaged("it ends in the middle of a member")

    def _pieces(self, end: int) -> Iterator[bytes]:
        # The same steps whoever asks: where damage shows depends on how much is unpacked at once.
        while self.position < end and (piece := self._piece(min(_STEP, end - self.position))):
            yield piece

    def _piece(self, size: int) -> bytes:
        if self._damage:
            raise Damaged(self._damage)
        try:
            content = self._file.read(size)
        except _DAMAGE as error:
            self._damage = str(error).lower() or type(error).__name__
            raise Damaged(self._damage) from None
        self.position += len(content)
        if self.position > self._most:
            raise too_much(self._shown, self._size, self._limits)
        return content
