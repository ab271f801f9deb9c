"""A finished row once more: its figures, its audit, and its data by role."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from common import Parts
from grid import FULL, MODULES
from settings import Settings
from sources import sources

import amint
from amint.errors import UsageError

ELSEWHERE = ("data_root", "device", "out")


def done(use: Settings, *heads: str) -> dict[str, Any] | None:
    """The finished row, if it was made with these settings and this code, and has just these heads."""
    path = use.out / "row.json"
    if not path.is_file():
        return None
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: str(value) for name, value in asdict(use).items() if name not in ELSEWHERE}
    kept |= {"sources": sources(), "heads": str(list(heads))}
    return row if all(str(row.get(name)) == value for name, value in kept.items()) else None


def finished(run: Path, data_root: Path) -> tuple[amint.Audit, Parts]:
    """The audit of a run's folder, and its rows, drawn again on the CPU.

    Raises:
        UsageError: other code made the row, or the data is not what it was made of.
    """
    row = json.loads((run / "row.json").read_text(encoding="utf-8"))
    data = row["data"]
    names = {field.name for field in fields(FULL[data])} - set(ELSEWHERE)
    if missing := sorted(names - row.keys()):
        raise UsageError(
            f"{run}/row.json was made by other code, it does not say {', '.join(missing)}: use that code, or make the "
            "row again"
        )
    told = {name: row[name] for name in names}
    use = replace(FULL[data], **told, data_root=data_root, device="cpu")
    parts = Parts.of(use, MODULES[data].pool(use))
    drawn = {role: getattr(parts, role).n for role in row["drawn"]}
    if drawn != row["drawn"]:
        raise UsageError(f"{run} was made of {row['drawn']}, {data_root} gives {drawn}: pass the data of the row")
    return amint.load(run / "model.amint"), parts
