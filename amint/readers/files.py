"""Which files of a submission may be read, and their bytes. Nothing here knows what the bytes mean.

A submission is written by a stranger: it may hold pipes that block for ever, devices, links that lead out of
the folder or in a circle, and names that would take over a terminal.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from amint.errors import InputError

__all__ = ["Candidate", "Rejected", "Row", "list_candidates", "printable", "read_bytes"]

_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"})
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
class Row:
    """One file that can be judged.

    ``path`` is relative to the submission, with "/" between folders and every character that is not safe to
    print escaped; ``sha256`` is the lower-case hex digest of the file's bytes; ``note`` says in plain words
    what was lost or changed on the way to the model ("" where nothing was).
    """

    path: str
    sha256: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """One file or folder that cannot be judged: ``path`` as in ``Row``, and the reason in plain words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One entry: its printable name, where it lies and, if that is known, why it cannot be read."""

    name: str
    location: str
    reason: str = ""


def printable(text: str) -> str:
    r"""``text`` with backslashes and all that is not safe to print escaped; distinct names stay distinct.

    >>> print(printable("caf\u00e9 \n.png"))
    café \n.png
    """
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def list_candidates(path: str | os.PathLike[str]) -> tuple[str, tuple[Candidate, ...]]:
    """The real folder of a submission and its entries, sorted by the bytes of their relative paths.

    Hidden files and the litter of operating systems are left out. A single file is a submission of one.

    Raises:
        InputError: nothing at ``path``, a folder that cannot be listed, or one without files.
    """
    shown = printable(os.fspath(path))
    try:
        top = os.path.realpath(path, strict=True)
        is_folder = stat.S_ISDIR(os.lstat(top).st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {shown}: {_why(error)}; pass a folder of files or one file") from None
    if not is_folder:
        return str(Path(top).parent), (Candidate(printable(Path(path).name), top),)
    candidates = _walk(top)
    if not candidates:
        raise InputError(f"the folder {shown} holds no files to judge (hidden files do not count)")
    return top, tuple(candidates)


def read_bytes(candidate: Candidate, folder: str, max_bytes: int) -> bytes:
    """The bytes of a candidate that is a regular file inside ``folder``; never blocks on anything else.

    Raises:
        InputError: the reason, in plain words, why this file cannot be read.
    """
    if candidate.reason:
        raise InputError(candidate.reason)
    real = _resolve(candidate.location, folder)
    try:
        # Before opening, because opening a device can already set it in motion.
        _check_regular(os.lstat(real), max_bytes)
        with os.fdopen(os.open(real, _OPEN_FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(status, max_bytes)
            content = file.read(status.st_size + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {_why(error)}") from None
    if len(content) != status.st_size:
        raise InputError("its size changed while it was read")
    return content


def _walk(top: str) -> list[Candidate]:
    found: list[tuple[bytes, Candidate]] = []
    # A list instead of recursion: nested folders can be deeper than Python's stack.
    folders = [(top, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.name.startswith(".") or entry.name.casefold() in _LITTER:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, name + "/"))
                        continue
                    reason = _why_not_followed(entry.path, top) if entry.is_symlink() else ""
                    found.append((os.fsencode(name), Candidate(printable(name), entry.path, reason)))
        except OSError as error:
            if not prefix:
                raise InputError(f"cannot list the folder {printable(top)}: {_why(error)}") from None
            reason = f"a folder that cannot be listed: {_why(error)}"
            found.append((os.fsencode(prefix), Candidate(printable(prefix), folder, reason)))
    return [candidate for _, candidate in sorted(found, key=lambda pair: pair[0])]


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
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("a link that leads in a circle") from None
        raise InputError(f"cannot be reached: {_why(error)}") from None
    if not Path(real).is_relative_to(folder):
        raise InputError("a link that leaves the submitted folder")
    return real


def _check_regular(status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError("not a regular file but a pipe, a socket, a device or a folder")
    if status.st_size == 0:
        raise InputError("an empty file")
    if status.st_size > max_bytes:
        raise InputError(f"{status.st_size:,} bytes, more than the limit of {max_bytes:,}")


def _why(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return (reason or type(error).__name__).lower()
