"""One network trained again and again, one thing changed at a time, with the same rows for every line of a seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Pool
from lines import KEYS, Figures, Line
from rich.console import Console
from rich.table import Table
from settings import Settings

# What runs may differ in and still be set side by side: where the data, the results and the network lie.
APART = ("seed", "seeds", "only", "out", "data_root", "device")


def repeated(lines: Mapping[str, Line], use: Settings, data: Pool, seeds: int, out: Path) -> dict[str, Figures]:
    """Means over the seeds, line by line; every run is written when it is done, and not done again after a kill.

    Raises SystemExit where ``out`` holds runs of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {name: str(value) for name, value in asdict(use).items() if name not in APART}
    journal, runs = out / "runs.jsonl", list[dict[str, Any]]()
    if journal.exists():
        earlier, *runs = whole_lines(journal)
        if {name: value for name, value in earlier.items() if name not in APART} != about:
            raise SystemExit(f"{journal} holds runs with other settings; pass another --out, or remove it")
    else:
        journal.write_text(json.dumps(about) + "\n", encoding="utf-8")
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(use.seed, use.seed + seeds):
        for name, line in lines.items():
            if (name, seed) not in done:
                runs.append({"name": name, "seed": seed, **line(replace(use, seed=seed), data)})
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    wanted = [run for run in runs if use.seed <= run["seed"] < use.seed + seeds]
    return {name: mean([run for run in wanted if run["name"] == name]) for name in lines}


def whole_lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines, after cutting off one that a kill left unfinished.

    Raises:
        SystemExit: there is none.
    """
    kept, _, torn = journal.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        journal.write_text(f"{kept}\n" if kept else "", encoding="utf-8")
    if not kept:
        raise SystemExit(f"{journal} is empty; remove it")
    return [json.loads(line) for line in kept.split("\n")]


def mean(runs: Sequence[Mapping[str, Any]]) -> Figures:
    """The mean of every figure, from the lowest to the highest end of the runs' intervals."""
    found = {key: np.array([run[key] for run in runs], np.float64) for key in KEYS}
    return {key: (float(v[:, 0].mean()), float(v[:, 1].min()), float(v[:, 2].max())) for key, v in found.items()}


def show(title: str, found: Mapping[str, Figures]) -> None:
    """The lines as a table."""
    table = Table("", "accuracy", "balanced\naccuracy", "AUROC", "TPR at\n1 %", "TPR at\n0.1 %", title=title)
    for name, figures in found.items():
        table.add_row(name, *("{:.3f}\n{:.2f}–{:.2f}".format(*figures[key]) for key in KEYS))
    Console().print(table)
