"""A table of the paper: every network and split of a data set, several rows at a time on one GPU, or one a CPU core.

    python recipes/table.py --data cifar10 mnist --data-root DATA --workers 14         # the paper's size, on a GPU
    python recipes/table.py --data mnist --data-root DATA --arch mobilenetv1_100 --split entry --workers 1
    python recipes/table.py --data-root DATA --members 1000 --external 2000 --batch 64 --side 32 --workers 2

Rows that are done are not trained again after a kill. One that fails is named with its reason; the others go on.
With fewer members or external rows than the paper has, every row is scaled down.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from asked import Asked, Names
from cyclopts import Parameter
from finished import done
from grid import ARCHS, MODULES, SPLITS, folder, settings
from launch import launch
from rich.console import Console
from row import HEADS, run_row
from settings import Settings
from table_shown import show


def work(data: str, use: Settings) -> None:
    """One row."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    run_row(use, MODULES[data].pool(use), MODULES[data].PAPER)


def alone(data: str, use: Settings) -> None:
    """The same in a process of its own, so that one that is killed takes no other with it."""
    # A process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(work, data, use).result()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Table(Asked):
    """With the share of the MINT gradient that enters the networks."""

    trunk_gradient: float | None = None


def main(
    asked: Table,
    *,
    data: Names = ("cifar10",),
    arch: Names = tuple(ARCHS),
    split: Names = SPLITS,
    workers: int = min(4, os.cpu_count() or 1),
    out: Path = Path("runs/table"),
) -> None:
    """Train, measure and print every row; save those of a data set together as table.json.

    What is None is as recipes/grid.py has it. A smoke run has one small network in place of all. The exit status is 1
    if a row is missing.
    """
    changes = asked.changes()
    archs = arch[:1] if asked.smoke else arch
    uses = [(name, settings(name, one, where, changes, out)) for where in split for name in data for one in archs]
    run_all(uses, workers)
    missing = 0
    for name in data:
        of_it = [use for owner, use in uses if owner == name]
        rows = [row for use in of_it if (row := done(use, *HEADS)) is not None]
        place, missing = folder(of_it[0], name, out), missing + len(of_it) - len(rows)
        place.mkdir(parents=True, exist_ok=True)
        (place / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        show(name, rows, len(of_it))
    if missing:
        raise SystemExit(f"{missing} rows are missing: those that failed, and those whose code changed on the way")


def run_all(uses: Sequence[tuple[str, Settings]], workers: int) -> None:
    """Make the rows that are not there yet, so many at a time; say which failed, and why."""
    threads = ThreadPoolExecutor(workers)
    try:
        running = {threads.submit(alone, name, use): use for name, use in uses if done(use, *HEADS) is None}
        for future in as_completed(running):
            if (error := future.exception()) is not None:
                use = running[future]
                Console(stderr=True).print(f"{use.arch} {use.split} failed: {error!r}"[:500], markup=False)
    finally:
        # After an interrupt, no further row is started.
        threads.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    launch(main)
