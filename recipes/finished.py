"""A finished row once more: its audit, and its data by role."""

import json
from dataclasses import fields, replace
from pathlib import Path

from common import Parts
from grid import FULL, MODULES

import amint

ELSEWHERE = ("data_root", "device", "out")


def finished(run: Path, data: str, data_root: Path) -> tuple[amint.Audit, Parts]:
    """The audit of a run's folder, and its rows, drawn again on the CPU."""
    row = json.loads((run / "row.json").read_text(encoding="utf-8"))
    told = {field.name: row[field.name] for field in fields(FULL[data]) if field.name not in ELSEWHERE}
    use = replace(FULL[data], **told, data_root=data_root, device="cpu")
    return amint.load(run / "model.amint"), Parts.of(use, MODULES[data].pool(use))
