"""Results as files: JSON that names its schema, CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

from amint.errors import UsageError

__all__ = ["as_csv", "as_json", "read_result", "write_result"]

# The wide forms of these characters begin a formula too, in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class _Result(Protocol):
    def values(self) -> dict[str, Any]:
        """What goes into the JSON object; dataclasses in it become objects one by one."""

    def lines(self) -> Iterable[Sequence[Any]]:
        """What goes into the CSV file, headings first."""


R = TypeVar("R", bound=_Result)


def read_result(text: str, kind: str, schema: int, build: Callable[[dict[str, Any]], R]) -> R:
    """The result in a JSON text.

    Args:
        text: what ``to_json`` of such a result gave.
        kind: what it is called, such as "verdict".
        schema: the number that it must name.
        build: makes the result of plain values; whatever it raises over them means that they are no such result.

    Raises:
        UsageError: another schema, or not such a result.
    """
    try:
        data = json.loads(text)
        if data["schema"] != schema:
            raise UsageError(
                f"this {kind} has schema {data['schema']!r}, expected {schema}; use the amint that wrote it"
            )
        result = build(data)
        # NaN is no JSON, though Python reads it.
        as_json(result)
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"this is not a {kind} that amint wrote: {error!r}") from error
    return result


def write_result(result: _Result, kind: str, folder: str | Path) -> tuple[Path, Path]:
    """Write ``<kind>.json`` and ``<kind>.csv`` into a folder, made if need be; neither is ever whole in memory."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{kind}.json", folder / f"{kind}.csv"
    for path, write in zip(paths, (_write_json, _write_csv), strict=True):
        with path.open("w", encoding="utf-8", newline="") as file:
            write(result, file)
    return paths


def as_json(result: _Result) -> str:
    """One JSON object, numbers exact."""
    return _text(_write_json, result)


def as_csv(result: _Result) -> str:
    """One line a row, headings first."""
    return _text(_write_csv, result)


def _text(write: Callable[[_Result, TextIO], None], result: _Result) -> str:
    text = io.StringIO()
    write(result, text)
    return text.getvalue()


def _write_json(result: _Result, file: TextIO) -> None:
    # Rows one by one and a line each: they may be many.
    for number, (name, value) in enumerate(result.values().items()):
        file.write(f"{',' if number else '{'}\n {json.dumps(name)}: ")
        if isinstance(value, Sequence) and not isinstance(value, str):
            rows = (f"{',' if i else ''}\n  {_plain(row)}" for i, row in enumerate(value))
            file.writelines(itertools.chain("[", rows, "]"))
        else:
            file.write(_plain(value))
    file.write("\n}")


def _plain(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=asdict)


def _write_csv(result: _Result, file: TextIO) -> None:
    # All text in quotes: a lone carriage return would otherwise end a line.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([_cell(value) for value in line] for line in result.lines())


def _cell(value: Any) -> Any:
    """A value for a CSV cell; file names come from strangers, and an attack of one's own may be called anything."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
