"""Zip archives, read in place; nothing is ever written to disk.

The library reads the directory of contents. The members are unpacked here, because what a header says of their size
is only a claim: unpacking stops at the limit whatever the header says, and one byte after the claim.
Format: PKWARE APPNOTE.TXT 6.3, sections 4.3.7 (local headers), 4.4.4 (flags) and 4.4.5 (methods).
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from amint.errors import InputError
from amint.readers.files import open_unchanged
from amint.readers.limits import Limits
from amint.readers.rows import printable
from amint.readers.sources import Entry, check_members, check_size, member_name, refusal, repeated, too_much

__all__ = ["Zip"]

_STEP = 2**16
_ENTRY = b"PK\x01\x02"
# Sign, 22 bytes that the directory holds as well, lengths of the name and of extra fields.
_LOCAL = struct.Struct("<4s22xHH")
_LOCAL_SIGN = b"PK\x03\x04"
_DAMAGED = "damaged: what the archive says of it and its content do not fit"
# Traditional and strong encryption, and an encrypted directory.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
# Where a member begins, its packed and unpacked size, checksum and method: all that reading it takes.
_PLACE = struct.Struct("<QQQIH")


class Zip:
    """The source of a zip archive, its members in the order of its directory.

    Args:
        path: the archive.
        limits: for members, their size, and what the archive may unpack to.

    Raises:
        InputError: it cannot be read, is no zip archive, holds nothing to judge, or exceeds a limit.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self._path = os.path.realpath(path)
        shown = printable(Path(path).name)
        with open_unchanged(self._path, None) as file:
            self._before = os.fstat(file.fileno())
            found = _contents(file, limits, shown)
        kept = [(name, info) for info in found if (name := _name(info)) is not None]
        if not kept:
            raise InputError(f"{shown} cannot be judged: it holds no files to judge")
        twice = repeated(name for name, _ in kept)
        # The library's records take far more memory than what is kept of them here.
        self._names: list[str] = []
        self._places = bytearray()
        self._reasons: dict[int, str] = {}
        for name, info in dict(kept).items():
            reason = twice.get(name) or _why_not(info)
            if reason:
                self._reasons[len(self._names)] = reason
            self._places += bytes(_PLACE.size) if reason else _place(info)
            self._names.append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Entry]:
        with open_unchanged(self._path, self._before) as file:
            for number, name in enumerate(self._names):
                if number in self._reasons:
                    yield Entry(name, refusal(self._reasons[number]))
                else:
                    yield Entry(name, partial(_read, file, _PLACE.unpack_from(self._places, number * _PLACE.size)))


class _Guarded:
    """Lets the library read a directory of contents only if that does not fill the memory."""

    def __init__(self, file: BinaryIO, limits: Limits, shown: str) -> None:
        self._file, self._limits, self._shown = file, limits, shown
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        # Every entry that the library will make begins with this.
        check_members(content.count(_ENTRY), self._limits, self._shown)
        return content


def _contents(file: BinaryIO, limits: Limits, shown: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(cast(BinaryIO, _Guarded(file, limits, shown))) as archive:
            found = archive.infolist()
    except InputError:
        raise
    # A damaged directory makes zipfile raise nearly anything: its own errors, struct, key, value and unicode errors.
    except Exception:
        raise InputError(f"{shown} is no zip archive, or its directory of contents is damaged or cut off") from None
    size = os.fstat(file.fileno()).st_size
    if sum(info.file_size for info in found) > limits.unpacked(size):
        raise too_much(shown, size, limits)
    return found


def _name(info: zipfile.ZipInfo) -> str | None:
    # The library cuts other names that it gives at the first NUL.
    name = info.orig_filename
    return None if name.endswith("/") and info.file_size == 0 else member_name(name)


def _why_not(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if stat.S_ISLNK(mode):
        return "a link, which is not followed"
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        return "not a regular file but a pipe, a socket, a device or a folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed by a method (number {info.compress_type}) this reader does not know; pack it again with deflate"
    stored_otherwise = info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size
    if stored_otherwise or not all(
        0 <= value < 2**63 for value in (info.header_offset, info.compress_size, info.file_size)
    ):
        return _DAMAGED
    return ""


def _place(info: zipfile.ZipInfo) -> bytes:
    return _PLACE.pack(info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)


def _read(file: BinaryIO, place: tuple[int, int, int, int, int], max_bytes: int) -> bytes:
    offset, packed, size, checksum, method = place
    check_size(size, max_bytes)
    try:
        file.seek(offset)
        sign, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        if sign != _LOCAL_SIGN:
            raise InputError(_DAMAGED)
        file.seek(name_length + extra_length, os.SEEK_CUR)
        content = file.read(size) if method == zipfile.ZIP_STORED else _inflated(file, packed, size)
    except (OSError, ValueError, struct.error, zlib.error):
        raise InputError(_DAMAGED) from None
    if len(content) != size or zlib.crc32(content) != checksum:
        raise InputError(_DAMAGED)
    return content


def _inflated(file: BinaryIO, packed: int, size: int) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, left = [], size
    while packed > 0 and not unpacker.eof and (step := file.read(min(_STEP, packed))):
        packed -= len(step)
        pieces.append(unpacker.decompress(step, left + 1))
        left -= len(pieces[-1])
        if left < 0:
            raise InputError("unpacks to more than its header says")
    return b"".join(pieces)
