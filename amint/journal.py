"""What an interrupted judging has found so far, so that going on judges no file twice.

A journal is a file of JSON lines, only ever appended to: first a header that binds it to one bundle, one submission
and one version of amint, then a line for each file, judged or rejected. Floats are written with all their digits, so
a verdict from a journal is bit for bit the verdict of an uninterrupted run.

Lines go to the operating system with every call of ``append``: a run that is killed at any moment loses nothing that
was appended. They are not forced to the disk (fsync), which would cost more time than it can save: after a power
failure the last lines may be missing or damaged, and everything from the first such line on is judged again.

A line speaks for its file only while the file is what it was: each notes the file's stamp, and whoever goes on keeps
the lines whose stamps still hold.
"""

from __future__ import annotations

import json
import math
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from amint.errors import UsageError

if sys.platform != "win32":
    import fcntl

__all__ = ["Header", "Journal", "Judged", "Refused", "submission_identity"]

_FORMAT = "amint-journal 1"
_SIGN = f'{{"format":"{_FORMAT}"'.encode()
_NONE = type(None)
_TEXT = {"path": (str,), "reason": (str,), "stamp": (str,)}
_KINDS: dict[str, tuple[type, ...]] = {
    "path": (str,), "sha256": (str, _NONE), "score": (float,), "mark": (int,), "look": (int, _NONE),
    "confidence": (float, _NONE), "predicted": (int, _NONE), "note": (str,),
    "stamp": (str,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What a journal belongs to; it is resumed only for an equal one.

    Attributes:
        judge: the identity of the bundle and of the weights.
        submission: what ``submission_identity`` says of the submission.
        version: the version of amint.
    """

    judge: str
    submission: str
    version: str


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample that was judged.

    Attributes:
        path: its name, unique within the submission.
        sha256: the lower-case hex digest of its file's bytes; None for what was no file.
        score: higher is more likely a member.
        mark: the int64 fingerprint of its tensor.
        look: its perceptual hash, as a whole number; None unless it is an image.
        confidence: log of the largest class probability; None unless the model is a classifier.
        predicted: the predicted class; None unless the model is a classifier.
        blind: what can be said of it without any model, the bytes of float32 numbers.
        note: what was lost or changed on the way to the model.
        properties: what its file tells without its content, as numbers.
        stamp: changes whenever its file does; "" for a part of a file, which changes only with the whole.
    """

    path: str
    sha256: str | None
    score: float
    mark: int
    note: str = ""
    look: int | None = None
    confidence: float | None = None
    predicted: int | None = None
    blind: bytes = b""
    properties: tuple[float, ...] = ()
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """One file that cannot be judged: its name, the reason and its stamp, as in :class:`Judged`."""

    path: str
    reason: str
    stamp: str = ""


class Journal:
    """An open journal; also a context manager that closes it.

    Attributes:
        done: the names of all files that earlier runs have found something of, whatever became of these files.
    """

    def __init__(self, path: Path, file: FileIO, header: Header, done: frozenset[str]) -> None:
        self._path, self._file, self._header, self.done = path, file, header, done

    @classmethod
    def open(cls, path: str | os.PathLike[str], header: Header) -> Self:
        """Resume the journal at ``path`` if its header is this one, start it anew otherwise.

        Raises:
            UsageError: another process is writing it, it cannot be written, or something else is there.
        """
        target = Path(path)
        try:
            file = target.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(
                f"the journal {target} cannot be written: {error.strerror}; choose another folder"
            ) from None
        try:
            _lock(file, target)
            _check_ours(target)
            sound, done = 0, set[str]()
            for end, line in _sound_lines(target, header):
                sound = end
                done |= set() if line is None else {line.path}
            file.truncate(sound)
            journal = cls(target, file, header, frozenset(done))
            if not sound:
                journal._write([_first_line(header)])
        except BaseException:
            file.close()
            raise
        return journal

    def found(self) -> Iterator[Judged | Refused]:
        """What is noted, in its order, read from the file line by line; of a changed file more than one line."""
        return (line for _, line in _sound_lines(self._path, self._header) if line is not None)

    def append(self, judged: Iterable[Judged], refused: Iterable[Refused] = ()) -> None:
        """Note down files; afterwards they are safe from anything but a failure of the machine.

        Raises:
            UsageError: a number that is not finite; nothing of this call is noted then.
            OSError: the disk is full.
        """
        self._write([*map(_line, judged), *map(_line, refused)])

    def close(self) -> None:
        """Close it; another call of ``open`` resumes."""
        self._file.close()

    @staticmethod
    def discard(path: str | os.PathLike[str]) -> None:
        """Delete a closed journal, if there is one; to be called once the verdict is written."""
        Path(path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, lines: Sequence[Any]) -> None:
        try:
            text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
        except ValueError:
            raise UsageError("the journal takes finite numbers only, found NaN or infinity") from None
        content = text.encode("ascii")
        end = self._file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._file.write(content) or 0 :]
        except BaseException:
            # A line cut off by a full disk would make all later ones unreadable.
            self._file.truncate(end)
            raise


def submission_identity(path: str | os.PathLike[str]) -> str:
    """Which submission a path means: the real path, and for a file also its size and time of change.

    Files in a folder, or listed in a manifest, come and go without it; they have stamps of their own.

    Raises:
        OSError: there is nothing at ``path``.
    """
    real = Path(path).resolve(strict=True)
    if real.is_dir():
        return str(real)
    status = real.stat()
    return f"{real} {status.st_size} {status.st_mtime_ns}"


def _lock(file: FileIO, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        # Gone with the process that holds it, however that ends.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(
            f"another run is judging with the journal {path}; wait for it, or choose another folder"
        ) from None


def _check_ours(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(_SIGN))
    # The first line itself may be torn.
    if not _SIGN.startswith(head):
        raise UsageError(f"{path} holds something else than a journal; amint will not replace it. Choose another name")


def _sound_lines(path: Path, header: Header) -> Iterator[tuple[int, Judged | Refused | None]]:
    """Where each sound line ends and what it says, None for the header; nothing without this header."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            # Torn by a kill, or damaged when the machine failed: from here on, files are judged again.
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line, parse_constant=_not_finite)
                found = _parsed(value) if end else None
                if not end and value != _first_line(header):
                    return
            except (ValueError, TypeError, KeyError, RecursionError):
                return
            end += len(line)
            yield end, found


def _first_line(header: Header) -> dict[str, Any]:
    return {"format": _FORMAT, **asdict(header)}


def _line(found: Judged | Refused) -> dict[str, Any]:
    if isinstance(found, Refused):
        return asdict(found)
    # Numbers of numpy are no JSON.
    numbers: dict[str, Any] = {"score": float(found.score), "mark": int(found.mark)}
    numbers |= {"properties": [float(value) for value in found.properties]}
    for name, kind in (("look", int), ("confidence", float), ("predicted", int)):
        value = getattr(found, name)
        numbers[name] = None if value is None else kind(value)
    return asdict(found) | numbers | {"blind": b64encode(found.blind).decode()}


def _parsed(value: Any) -> Judged | Refused:
    if "reason" in value:
        line: Judged | Refused = Refused(**value)
    else:
        blind = b64decode(value["blind"], validate=True)
        line = Judged(**{**value, "blind": blind, "properties": tuple(value["properties"])})
    kinds = _TEXT if isinstance(line, Refused) else _KINDS
    if not all(type(getattr(line, name)) in allowed for name, allowed in kinds.items()):
        raise ValueError("a line of other types")
    numbers = (line.score, line.confidence or 0.0, *line.properties) if isinstance(line, Judged) else ()
    if not all(type(n) is float and math.isfinite(n) for n in numbers):
        raise ValueError("numbers of other types")
    return line


def _not_finite(text: str) -> None:
    raise ValueError(text)
