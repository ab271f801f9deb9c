"""Results as files: JSON that names its schema, CSV that no spreadsheet runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from amint.errors import UsageError

__all__ = ["cell", "read_result", "write_result"]

# The wide forms of these characters begin a formula too, in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class _Result(Protocol):
    def to_json(self) -> str: ...

    def to_csv(self) -> str: ...


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
        result.to_json()
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"this is not a {kind} that amint wrote: {error!r}") from error
    return result


def write_result(result: _Result, kind: str, folder: str | Path) -> tuple[Path, Path]:
    """Write ``<kind>.json`` and ``<kind>.csv`` into a folder, made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{kind}.json", folder / f"{kind}.csv"
    for path, text in zip(paths, (result.to_json(), result.to_csv()), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def cell(value: Any) -> Any:
    """A value for a CSV cell; file names come from strangers, and an attack of one's own may be called anything."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
