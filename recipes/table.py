"""A table of the paper at its full size: every network and split of a data set, several rows at a time on one GPU.

    python recipes/table.py --data cifar10 mnist --data-root DATA --workers 14
    python recipes/table.py --data mnist --data-root DATA --arch mobilenetv1_100 --split entry --workers 1

Rows that are done are not trained again after a kill. One that fails is named with its reason; the others go on.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import cifar10
import mnist
import torch
from common import Parts, Pool
from cyclopts import Parameter
from launch import launch
from rich.console import Console
from rich.table import Table
from row import make_row

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
Uses = cifar10.Cifar10 | mnist.Mnist

MODULES = {"cifar10": cifar10, "mnist": mnist}
SPLITS = ("entry", "middle", "output")
# Steps of 256 members keep a GPU busy.
COMMON: dict[str, Any] = {"batch": 256, "ratio": 1.0, "lambda_": 1.0, "head_lr": 3e-3}
FULL: dict[str, Uses] = {
    "cifar10": cifar10.Cifar10(data_root=Path(), **COMMON, members=20_000, external=30_000, epochs=12, head_epochs=20),
    "mnist": mnist.Mnist(data_root=Path(), **COMMON, members=25_000, external=35_000, epochs=10, head_epochs=24),
}
# Networks that halve an image five times before they do much see it enlarged; transformers want lower rates.
ARCHS: dict[str, dict[str, dict[str, Any]]] = {
    "densenet121": {"cifar10": {"side": 48, "epochs": 16}},
    "legacy_xception": {"cifar10": {"side": 48}},
    "resnet101": {},
    "resnet50": {},
    "mobilenetv1_100": {},
    "vit_small_patch16_224": {"cifar10": {"lr": 1e-3}, "mnist": {"lr": 1e-3, "side": 48}},
    "efficientnet_b0": {},
}
# What deep layers tell of an image the network must be made to keep, and they no longer tell it from its mirror image.
SPLIT: dict[str, dict[str, Any]] = {"output": {"lambda_": 10.0, "hard_negatives": False}}


def settings(data: str, arch: str, split: str, changes: Mapping[str, Any], out: Path) -> Uses:
    """What a row is made with."""
    every = ARCHS.get(arch, {}).get(data, {}) | SPLIT.get(split, {}) | dict(changes)
    return replace(FULL[data], **every, arch=arch, split=split, out=out / data / f"{arch}-{split}")


@cache
def drawn(data: str, use: Uses) -> Parts:
    """The data set by role, read once a process."""
    pool: Pool = MODULES[data].pool(use)
    return Parts.of(use, pool)


def work(data: str, use: Uses) -> None:
    """One row, in a process of its own."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    same = {name: getattr(use, name) for name in ("data_root", "side", "seed", "device", "smoke")}
    make_row(use, drawn(data, replace(FULL[data], **same).budget()), MODULES[data].PAPER)


def done(use: Uses) -> dict[str, Any] | None:
    """The finished row, if it was made with these settings."""
    path = use.out / "row.json"
    if not path.is_file():
        return None
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: str(value) for name, value in asdict(use).items() if name not in ("data_root", "device", "out")}
    return row if all(str(row.get(name)) == value for name, value in kept.items()) else None


def main(
    *,
    data: Names = ("cifar10",),
    data_root: Path,
    arch: Names = tuple(ARCHS),
    split: Names = SPLITS,
    workers: int = 4,
    seed: int = 0,
    device: str = FULL["cifar10"].device,
    out: Path = Path("runs/table"),
    smoke: bool = False,
) -> None:
    """Train, measure and print every row; save those of a data set together as table.json."""
    changes = {"data_root": data_root, "seed": seed, "device": device, "smoke": smoke}
    uses = [
        (name, settings(name, one, where, changes, out).budget()) for where in split for name in data for one in arch
    ]
    # A process that has used a GPU cannot be forked.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        running = {executor.submit(work, name, use): use for name, use in uses if done(use) is None}
        for future in as_completed(running):
            if (error := future.exception()) is not None:
                use = running[future]
                Console(stderr=True).print(f"{use.arch} {use.split} failed: {error!r}"[:500], markup=False)
    for name in data:
        of_it = [use for owner, use in uses if owner == name]
        rows = [row for use in of_it if (row := done(use)) is not None]
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        show(name, rows, len(of_it))


def show(data: str, rows: Sequence[Mapping[str, Any]], wanted: int) -> None:
    """The rows one below the other, each with the paper's figures below its own."""
    table = Table(title=f"{data}, {len(rows)} of {wanted} rows; second lines: the paper")
    for heading in ("", "plain", "audited", "balanced", "AUROC", "TPR 1 %", "TPR 0.1 %"):
        table.add_column(heading)
    for row in rows:
        active, paper = row["measured"]["active MINT"], row["paper"] or ("", "")
        own = [row["plain_accuracy"], row["audited_accuracy"], active["balanced_accuracy"][0], active["auroc"][0]]
        own += [active["tpr_at_fpr_0.01"][0], active["tpr_at_fpr_0.001"][0]]
        said = ["", str(paper[1]), str(paper[0])] + [""] * 3
        table.add_row(f"{row['arch']}\n{row['split']}", *(f"{a:.3f}\n{b}" for a, b in zip(own, said, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    launch(main)
