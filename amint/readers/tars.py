"""Tar archives, packed or not, read in place and in one direction; nothing is ever written to disk.

The blocks are walked here instead of by ``tarfile.open``, which follows the sizes in hostile headers: it reads a
name of any length into memory and skips for hours past the end. The format of the headers is the library's work.
Format: POSIX.1-2001, pax, "ustar Interchange Format" and "pax Header File Format", and the manual of GNU tar.
"""

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amint.errors import InputError
from amint.readers.files import open_unchanged
from amint.readers.kinds import BLOCK, tar_header
from amint.readers.limits import Limits
from amint.readers.rows import printable
from amint.readers.sources import Entry, check_members, check_size, member_name, refusal, repeated
from amint.readers.unpacking import Damaged, Stream

__all__ = ["Tar"]

_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_BESIDE = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
# Systems know no longer paths; a header that is larger is made to fill the memory.
_MOST_HEADER = 2**20
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    kind: bytes
    sparse: bool = False


class Tar:
    """The source of a tar archive. Its length is found by reading it once; it is read again for the members.

    Args:
        path: the archive.
        kind: how it is packed: "gzip", "bzip2", "xz" or "tar" for not at all.
        limits: for members, their size, and what the archive may unpack to.

    Raises:
        InputError: it cannot be read, is no tar archive, holds nothing to judge, or exceeds a limit.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, limits: Limits) -> None:
        self._path, self._kind, self._limits = os.path.realpath(path), kind, limits
        self._shown = printable(Path(path).name)
        self._before: os.stat_result | None = None
        self._lost = ""
        names = list(self._names())
        self._repeated = repeated(names)
        self._length = len(set(names)) + bool(self._lost)
        if not names:
            found = f"it is no tar archive or damaged ({self._lost})" if self._lost else "it holds no files to judge"
            raise InputError(f"{self._shown} cannot be judged: {found}")

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        done = set()
        with open_unchanged(self._path, self._before) as file:
            stream = Stream(file, self._kind, self._limits, self._shown)
            try:
                for member in _members(stream):
                    name = member_name(member.name)
                    if name is None or name in done:
                        continue
                    if name in self._repeated:
                        done.add(name)
                        yield Entry(name, refusal(self._repeated[name]))
                    else:
                        yield Entry(name, _reading(stream, member))
            except Damaged as damage:
                # Members never end in "/", so this name is free.
                reason = f"the archive is damaged or cut short here, what follows is lost: {damage}"
                yield Entry(f"{self._shown}/", refusal(reason))

    def _names(self) -> Iterator[str]:
        with open_unchanged(self._path, None) as file:
            self._before = os.fstat(file.fileno())
            stream = Stream(file, self._kind, self._limits, self._shown)
            try:
                for count, member in enumerate(_members(stream), 1):
                    check_members(count, self._limits, self._shown)
                    name = member_name(member.name)
                    if name is not None:
                        yield name
            except Damaged as damage:
                self._lost = str(damage)


def _reading(stream: Stream, member: _Member) -> Callable[[int], bytes]:
    if member.sparse:
        return refusal("stored with holes (sparse), which this reader does not fill")
    if member.kind in _LINKS:
        return refusal("a link, which is not followed")
    if member.kind in _DEVICES:
        return refusal("not a regular file but a pipe or a device")
    if member.kind not in _REGULAR:
        return refusal("a kind of member this reader does not know")

    def read(max_bytes: int) -> bytes:
        check_size(member.size, max_bytes)
        try:
            content = stream.read(member.size)
        except Damaged:
            content = b""
        if len(content) < member.size:
            raise InputError("damaged or cut short with its archive")
        return content

    return read


def _members(stream: Stream) -> Iterator[_Member]:
    """All members but folders; what is left of one is skipped when the next is asked for.

    Raises:
        Damaged: the archive ends early or holds something else than members.
        InputError: it unpacks to more than the limit.
    """
    long_name, pax = b"", dict[bytes, bytes]()
    while (block := stream.read(BLOCK)) != bytes(BLOCK):
        if not block:
            raise Damaged("the mark of its end is missing")
        info = tar_header(block)
        if info is None:
            raise Damaged("no header of a member where one must be")
        size = _whole_number(pax.get(b"size", b"%d" % info.size))
        if info.type in (tarfile.GNUTYPE_LONGNAME, *_PAX, *_BESIDE):
            header = _header(stream, size)
            if info.type in _PAX:
                pax = _pax(header)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = header.partition(b"\0")[0]
            continue
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in pax)
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_map(stream, block)
        # The library's reading: links, folders and devices have no content, whatever their size field says.
        end = stream.position + (size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0)
        if not info.isdir():
            known_as = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name
            yield _Member(os.fsdecode(known_as) if known_as else info.name, size, info.type, sparse)
        # Two steps, so that damage shows in the same place whether or not the member was read.
        stream.skip_to(end)
        stream.skip_to(end + -end % BLOCK)
        long_name, pax = b"", {}


def _header(stream: Stream, size: int) -> bytes:
    if size > _MOST_HEADER:
        raise Damaged(f"a header of {size:,} bytes")
    header = stream.read(size)
    stream.skip_to(stream.position + -size % BLOCK)
    return header


def _skip_sparse_map(stream: Stream, block: bytes) -> None:
    more = block[482]
    while more:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise Damaged("it ends in the middle of a member")
        more = block[504]


def _pax(header: bytes) -> dict[bytes, bytes]:
    records, position = {}, 0
    while position < len(header):
        record = _PAX_RECORD.match(header, position)
        end = position + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(header) or header[end - 1 : end] != b"\n":
            raise Damaged("a header of a member that cannot be read")
        records[record[2]] = header[record.end() : end - 1]
        position = end
    return records


def _whole_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Damaged(f"a member of {printable(text[:20].decode('latin-1'))} bytes")
    return int(text)
