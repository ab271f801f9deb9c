"""Which files of a submission on disk may be read, and their bytes. Nothing here knows what the bytes mean.

A submission is written by a stranger: it may hold pipes that block for ever, devices, links that lead out of
the folder or in a circle, and names that would take over a terminal.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, overload

from amint.errors import InputError
from amint.readers.limits import Limits
from amint.readers.rows import is_litter, printable
from amint.readers.sources import Entry, check_members, check_size

__all__ = ["Candidate", "Files", "list_candidates", "open_regular", "open_unchanged", "read_bytes", "stamp_of", "why"]

# Non-blocking and not following links, where the system knows these: what was checked may be swapped before
# it is opened.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry: its printable name, where it lies and, if that is known, why it cannot be read."""

    name: str
    location: str
    reason: str = ""


class Files(Sequence[Candidate]):
    """Entries of one folder, kept as nothing but the bytes of their relative paths.

    Args:
        folder: the real path that the others are relative to.
        paths: relative paths as the file system spells them.
        reasons: why some of these cannot be read.
    """

    def __init__(self, folder: str, paths: list[bytes], reasons: Mapping[bytes, str]) -> None:
        self._folder, self._paths, self._reasons = folder, paths, reasons

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...

    @overload
    def __getitem__(self, index: slice) -> "Files": ...

    def __getitem__(self, index: int | slice) -> "Candidate | Files":
        if isinstance(index, slice):
            return Files(self._folder, self._paths[index], self._reasons)
        path = os.fsdecode(self._paths[index])
        location = str(Path(self._folder) / path)
        return Candidate(printable(path), location, self._reasons.get(self._paths[index], ""))


class Folder:
    """The source of a folder, or of a single file.

    Raises:
        InputError: nothing at ``path``, a folder that cannot be listed, one without files, or with too many.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self._folder, self._candidates = list_candidates(path, limits)

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Entry]:
        for candidate in self._candidates:
            yield Entry(candidate.name, partial(read_bytes, candidate, self._folder), stamp=stamp_of(candidate))


def list_candidates(path: str | os.PathLike[str], limits: Limits) -> tuple[str, Sequence[Candidate]]:
    """The real folder of a submission and its entries, sorted by the bytes of their relative paths.

    Hidden files and the litter of operating systems are left out. A single file is a submission of one.

    Raises:
        InputError: nothing at ``path``, a folder that cannot be listed, one without files, or with too many.
    """
    shown = printable(os.fspath(path))
    try:
        top = os.path.realpath(path, strict=True)
        is_folder = stat.S_ISDIR(os.lstat(top).st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {shown}: {why(error)}; pass a folder of files or one file") from None
    if not is_folder:
        return str(Path(top).parent), (Candidate(printable(Path(path).name), top),)
    candidates = _walk(top, limits, f"the folder {shown}")
    if not candidates:
        raise InputError(f"the folder {shown} holds no files to judge (hidden files do not count)")
    return top, candidates


def read_bytes(candidate: Candidate, folder: str, max_bytes: int) -> bytes:
    """The bytes of a candidate that is a regular file inside ``folder``; never blocks on anything else.

    Raises:
        InputError: the reason, in plain words, why this file cannot be read.
    """
    if candidate.reason:
        raise InputError(candidate.reason)
    real = _resolve(candidate.location, folder)
    try:
        with open_regular(real) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(size, max_bytes)
            content = file.read(size + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {why(error)}") from None
    if len(content) != size:
        raise InputError("its size changed while it was read")
    return content


def stamp_of(candidate: Candidate) -> str:
    """Size and time of change of what would be read; "" where nothing would be."""
    # Not even looked at: a manifest can name any path of the machine.
    if candidate.reason:
        return ""
    try:
        status = Path(candidate.location).stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def open_regular(real: str) -> BinaryIO:
    """A regular file, open for reading; never blocks on anything else.

    Raises:
        InputError: not a regular file.
        OSError: it cannot be opened.
    """
    # Before opening, because opening a device can already set it in motion.
    _check_regular(os.lstat(real))
    file = os.fdopen(os.open(real, _OPEN_FLAGS), "rb")
    try:
        _check_regular(os.fstat(file.fileno()))
    except InputError:
        file.close()
        raise
    return file


def open_unchanged(path: str, before: os.stat_result | None) -> BinaryIO:
    """A regular file that is still what it was when it was listed, where ``before`` says what that is.

    Raises:
        InputError: it cannot be opened, or was changed or exchanged meanwhile.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {why(error)}") from None
    after = os.fstat(file.fileno())
    if before is not None and any(
        getattr(before, name) != getattr(after, name) for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    ):
        file.close()
        raise InputError(f"{printable(path)} was changed while it was judged; judge it again")
    return file


def why(error: OSError | ValueError) -> str:
    """The reason for an error of the system, in its words."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return (reason or type(error).__name__).lower()


def _walk(top: str, limits: Limits, shown: str) -> Files:
    found: list[bytes] = []
    reasons: dict[bytes, str] = {}
    # A list instead of recursion: nested folders can be deeper than Python's stack.
    folders = [""]
    while folders:
        prefix = folders.pop()
        check_members(len(found) + len(folders), limits, shown)
        try:
            with os.scandir(Path(top, prefix)) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if is_litter(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name + "/")
                        continue
                    check_members(len(found) + 1, limits, shown)
                    found.append(os.fsencode(name))
                    if entry.is_symlink() and (reason := _why_not_followed(str(entry.path), top)):
                        reasons[found[-1]] = reason
        except OSError as error:
            if not prefix:
                raise InputError(f"cannot list the folder {printable(top)}: {why(error)}") from None
            found.append(os.fsencode(prefix))
            reasons[found[-1]] = f"a folder that cannot be listed: {why(error)}"
    found.sort()
    return Files(top, found, reasons)


def _why_not_followed(location: str, top: str) -> str:
    try:
        real = _resolve(location, top)
    except InputError as problem:
        return str(problem)
    # Their files are read where they lie; following would read them twice, or for ever.
    return "a link to a folder, which is not followed" if Path(real).is_dir() else ""


def _resolve(location: str, folder: str) -> str:
    try:
        real = os.path.realpath(location, strict=True)
    except ValueError as error:
        raise InputError(f"cannot be reached: {why(error)}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("a link that leads in a circle") from None
        raise InputError(f"cannot be reached: {why(error)}") from None
    if not Path(real).is_relative_to(folder):
        raise InputError("a link that leaves the submitted folder")
    return real


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError("not a regular file but a pipe, a socket, a device or a folder")
