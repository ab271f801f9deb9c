"""Manifests: a CSV file that lists picture files beside it.

Paths are taken relative to the manifest's folder and stay inside it, so that a manifest sent by a stranger cannot
have other files of the machine read. Format: RFC 4180, with the delimiters and byte-order marks of spreadsheets.
"""

import csv
import io
import ntpath
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from amint.errors import InputError
from amint.readers.files import Files, open_unchanged, read_bytes, stamp_of
from amint.readers.limits import Limits
from amint.readers.rows import printable
from amint.readers.sources import Entry, check_members

__all__ = ["Manifest"]

_DELIMITERS = ",;\t|"
_COLUMNS = ("path", "file", "file_path", "filepath", "file_name", "filename", "image", "image_path")
_MOST_IN_LINE = 2**20
_NO_HEADER = "no such file; if this line names columns, call the column of the paths path or file (the first was taken)"


class Manifest:
    """The source of a manifest: its files in the order of their first mention, each once.

    The paths stand in the column named "path" or "file" (or "filename", "image" and the like), in the first column
    where no name in the first line says so; that line then lists a file as well.

    Args:
        path: the manifest.
        limits: for its size and the number of files.

    Raises:
        InputError: it cannot be read as text in columns, lists nothing, or exceeds a limit.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        real = os.path.realpath(path)
        shown = printable(Path(path).name)
        self._folder = str(Path(real).parent)
        with open_unchanged(real, None) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limits.manifest_bytes:
                raise InputError(f"{shown} has {size:,} bytes, more than the limit of {limits.manifest_bytes:,}")
            listed, headed = Counter[bytes](), True
            for count, (cell, named) in enumerate(_cells(file, shown), 1):
                check_members(count, limits, shown)
                listed[os.fsencode(posixpath.normpath(cell))] += 1
                headed = headed and named
        if not listed:
            raise InputError(f"{shown} lists no files; expected a column of paths named path or file")
        reasons = {name: reason for name in listed if (reason := _why_not(os.fsdecode(name)))}
        first = next(iter(listed))
        if not (headed or first in reasons or os.path.lexists(os.fsencode(self._folder) + b"/" + first)):
            reasons[first] = _NO_HEADER
        self._files = Files(self._folder, list(listed), reasons)
        self._notes = {i: f"listed {times} times" for i, times in enumerate(listed.values()) if times > 1}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Entry]:
        for number, candidate in enumerate(self._files):
            note, stamp = self._notes.get(number, ""), stamp_of(candidate)
            yield Entry(candidate.name, partial(read_bytes, candidate, self._folder), note, stamp)


def _why_not(path: str) -> str:
    if "\0" in path:
        return "a path with a NUL character, which no file has"
    if posixpath.isabs(path) or ntpath.splitdrive(path)[0] or path.startswith("\\"):
        return "an absolute path; a manifest lists paths relative to its own folder"
    if path == ".." or path.startswith("../"):
        return "a path that leaves the manifest's folder"
    return ""


def _cells(file: BinaryIO, shown: str) -> Iterator[tuple[str, bool]]:
    """The cells of the column of paths that are not empty, and whether the first line names that column."""
    mark = file.read(2)
    file.seek(0)
    encoding, errors = ("utf-16", "strict") if mark in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "surrogateescape")
    with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="") as text:
        try:
            lines = _lines(text)
            first = next(lines, "")
            rows = csv.reader(_chained(first, lines), delimiter=_delimiter(first))
            header = next(rows, [])
            names = [cell.strip().lower() for cell in header]
            column = next((names.index(name) for name in _COLUMNS if name in names), None)
            if column is None and header and header[0].strip():
                yield header[0].strip(), False
            for row in rows:
                if (column or 0) < len(row) and (cell := row[column or 0].strip()):
                    yield cell, column is not None
        except (csv.Error, UnicodeError) as error:
            raise InputError(f"{shown} cannot be read as text in columns: {error}") from None


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_MOST_IN_LINE):
        if len(line) == _MOST_IN_LINE:
            raise csv.Error(f"a line of more than {_MOST_IN_LINE:,} characters")
        yield line


def _delimiter(line: str) -> str:
    """The one that parts the first line most often; a guess from the content of names goes wrong too easily."""
    best = max(_DELIMITERS, key=line.count)
    # One column: what follows may hold any of them, and none has the unit separator.
    return best if best in line else "\x1f"
