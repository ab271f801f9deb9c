"""Parquet tables with the bytes of one picture a row, such as the Hugging Face Hub holds them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from amint.errors import InputError, UsageError
from amint.readers.files import open_unchanged
from amint.readers.limits import Limits
from amint.readers.rows import printable
from amint.readers.sources import Entry, check_members, check_size, refusal, too_much

__all__ = ["Table"]

_MOST_ROWS = 64
_BATCH_BYTES = 64 * 2**20
_BUFFER = 2**20


class Table:
    """The source of a Parquet file: its rows, a few at a time.

    The bytes stand in a column of type binary, or in the field "bytes" of a column of structs, which may hold the
    file's name in its field "path". Of several such columns, the one named "image" is read.

    Args:
        path: the file.
        limits: for the rows, their size, and what the file may unpack to.

    Raises:
        InputError: it cannot be read, has no rows, not one column of bytes, or exceeds a limit.
        UsageError: pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self._path, self._shown = os.path.realpath(path), printable(Path(path).name)
        with open_unchanged(self._path, None) as file:
            self._before = os.fstat(file.fileno())
            self._limits, self._most = limits, limits.unpacked(self._before.st_size)
            table = _opened(file, self._shown)
            with _footer(self._shown):
                self._rows = table.metadata.num_rows
                check_members(self._rows, limits, self._shown)
                self._column, self._leaves = _column(table.schema_arrow, self._shown)
                self._groups = [
                    _unpacked(table.metadata.row_group(i), self._leaves) for i in range(table.num_row_groups)
                ]
        if self._rows < 1 or self._rows != sum(rows for rows, _ in self._groups):
            raise InputError(f"{self._shown} cannot be judged: it has no rows, or damaged groups of rows")
        self._check(sum(size for _, size in self._groups))

    def __len__(self) -> int:
        return int(self._rows)

    def __iter__(self) -> Iterator[Entry]:
        row, unpacked = 0, 0
        with open_unchanged(self._path, self._before) as file:
            table = _opened(file, self._shown)
            for group, (rows, size) in enumerate(self._groups):
                end = row + rows
                for content, name in _values(table, group, size, self._column, self._leaves):
                    if row == end:
                        break
                    unpacked += 0 if content is None else content.size
                    self._check(unpacked)
                    yield Entry(f"row {row} ({printable(name)})" if name else f"row {row}", partial(_read, content))
                    row += 1
                for lost in range(row, end):
                    yield Entry(f"row {lost}", refusal("damaged: its part of the table cannot be read"))
                row = end

    def _check(self, unpacked: int) -> None:
        if unpacked > self._most:
            raise too_much(self._shown, self._before.st_size, self._limits)


def _opened(file: BinaryIO, shown: str) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{shown} is a Parquet file, and reading one needs pyarrow: pip install 'amint-audit[parquet]'"
        ) from None
    with _footer(shown):
        return parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)


@contextmanager
def _footer(shown: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    # A damaged footer makes pyarrow raise nearly anything, when it is opened and at each look into it.
    except Exception:
        raise InputError(f"{shown} is no Parquet file, or its footer is damaged or cut off") from None


def _column(schema: Any, shown: str) -> tuple[str, tuple[str, ...]]:
    """The name of the column of pictures, and the paths of its leaves to read: bytes and, if it has one, name."""
    types = import_module("pyarrow.types")

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))

    found: dict[str, tuple[str, ...]] = {}
    for field in schema:
        if is_bytes(field.type):
            found[field.name] = (field.name,)
        elif types.is_struct(field.type):
            inner = {part.name: part.type for part in field.type}
            if "bytes" in inner and is_bytes(inner["bytes"]):
                named = "path" in inner and types.is_string(inner["path"])
                found[field.name] = (f"{field.name}.bytes", *([f"{field.name}.path"] if named else []))
    name = next(iter(found)) if len(found) == 1 else "image"
    if name not in found:
        names = ", ".join(map(printable, found)) or "none"
        raise InputError(
            f"{shown} must have one column of picture bytes (binary, or a struct with a field bytes), or one of them "
            f"named image; found {names}"
        )
    return name, found[name]


def _unpacked(group: Any, leaves: tuple[str, ...]) -> tuple[int, int]:
    """Rows of a group, and the bytes that its column of pictures unpacks to, by the footer."""
    columns = [group.column(i) for i in range(group.num_columns)]
    return max(0, group.num_rows), sum(max(0, c.total_uncompressed_size) for c in columns if c.path_in_schema in leaves)


def _values(table: Any, group: int, size: int, column: str, leaves: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """The bytes of each row of a group as an Arrow buffer, or None, and its name, or ""; ends early at damage."""
    # One value can fill its whole group, and through a dictionary every row can repeat it.
    rows = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, size)))
    batches = table.iter_batches(batch_size=rows, row_groups=[group], columns=list(leaves), use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            values = batch.column(batch.schema.get_field_index(column))
            known = [values.field(leaf.rpartition(".")[2]) for leaf in leaves] if leaves != (column,) else [values]
            contents = [value.as_buffer() if value.is_valid else None for value in known[0]]
            names = [value.as_py() or "" for value in known[1]] if len(known) > 1 else [""] * len(contents)
        # Damaged pages make it raise nearly anything.
        except Exception:
            return
        yield from zip(contents, names, strict=True)


def _read(content: Any, max_bytes: int) -> bytes:
    if content is None:
        raise InputError("a row without bytes")
    check_size(content.size, max_bytes)
    return bytes(content.to_pybytes())
