"""A finished row once more: its audit, and its data by role."""

import json
from dataclasses import fields, replace
from pathlib import Path

from common import Parts
from grid import FULL, MODULES

import amint
from amint.errors import UsageError

ELSEWHERE = ("data_root", "device", "out")


def finished(run: Path, data_root: Path) -> tuple[amint.Audit, Parts]:
    """The audit of a run's folder, and its rows, drawn again on the CPU.

    Raises:
        UsageError: the data is not what the row was made of.
    """
    row = json.loads((run / "row.json").read_text(encoding="utf-8"))
    data = row["data"]
    told = {field.name: row[field.name] for field in fields(FULL[data]) if field.name not in ELSEWHERE}
    use = replace(FULL[data], **told, data_root=data_root, device="cpu")
    parts = Parts.of(use, MODULES[data].pool(use))
    drawn = {role: getattr(parts, role).n for role in row["drawn"]}
    if drawn != row["drawn"]:
        raise UsageError(f"{run} was made of {row['drawn']}, {data_root} gives {drawn}: pass the data of the row")
    return amint.load(run / "model.amint"), parts
