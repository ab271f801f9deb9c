"""What does an audited training step cost beside a plain one, and where does its time go?

    python recipes/step_cost.py                                              # MobileNet, 32 x 32, 64 members a step
    python recipes/step_cost.py --arch resnet50 --side 224 --device cuda --precision bf16
    python recipes/step_cost.py --smoke

Random pictures. The ways take their steps in turn, so that other work on the machine slows all alike; figures are
medians. In the first epoch amint also keeps a sketch of every row that it has not seen yet, for its controls.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from grid import SPLITS
from launch import launch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import amint

# How an audit is attached; None trains plainly.
WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "audited": {},
    "half the external rows": {"ratio": 0.5},
    "trunk_gradient=0": {"trunk_gradient": 0.0},
    "hard negatives": {"negatives": amint.HardNegatives(amint.horizontal_flip, members=True)},
}
PARTS = ("forward", "losses", "backward", "optimizer")
BATCHES = 4  # members of an epoch, in batches

Step = Callable[[Tensor, Tensor], dict[str, float]]


def stepping(arch: str, side: int, batch: int, how: dict[str, Any] | None, device: str, autocast: bool) -> Step:
    """A network with its optimizer; each call is one training step and says how many seconds each part took."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": side} if "vit" in arch else {}
    model = timm.create_model(arch, num_classes=10, **options).to(device)
    external = torch.randn(2 * BATCHES * batch, 3, side, side)
    audit = None if how is None else amint.attach(model, external=external, balance=amint.Weighted(), **how)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    kind = torch.device(device).type
    model.train()

    def step(x: Tensor, y: Tensor) -> dict[str, float]:
        marks: list[float] = []

        def mark() -> None:
            if kind == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

        mark()
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(x), y)
            mark()
            total = loss if audit is None else audit.loss(loss)
        mark()
        total.backward()
        mark()
        optimizer.step()
        optimizer.zero_grad()
        mark()
        return dict(zip(PARTS, (after - before for before, after in pairwise(marks)), strict=True))

    return step


def main(
    *,
    arch: str = "mobilenetv1_100",
    side: int = 32,
    split: str = "entry",
    batch: int = 64,
    epochs: int = 6,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    out: Path = Path("runs/step-cost"),
    smoke: bool = False,
) -> None:
    """Take ``epochs`` passes over a few batches in every way; print and save milliseconds and their ratio to plain.

    The split is entry, middle, output, or module names with commas.
    """
    if smoke:
        arch, batch, epochs = "resnet10t", 8, 2
    taps = split if split in SPLITS else split.split(",")
    ways = {name: how if how is None else {"split": taps, **how} for name, how in WAYS.items()}
    steps = {name: stepping(arch, side, batch, how, device, precision == "bf16") for name, how in ways.items()}
    x, y = torch.randn(BATCHES * batch, 3, side, side, device=device), torch.arange(BATCHES * batch, device=device) % 10
    spent: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in track(range(BATCHES * max(2, epochs)), "steps", transient=True):
        rows = slice(number % BATCHES * batch, (number % BATCHES + 1) * batch)
        for name, step in steps.items():
            spent[name].append(step(x[rows], y[rows]))
    found: dict[str, Any] = {}
    for name, each in spent.items():
        # In the very first step libraries load and the device starts.
        first, later = each[1:BATCHES], each[BATCHES:]
        found[name] = {"first epoch": statistics.median(sum(parts.values()) for parts in first)}
        found[name] |= {"step": statistics.median(sum(parts.values()) for parts in later)}
        found[name] |= {part: statistics.median(parts[part] for parts in later) for part in PARTS}
    table = Table("ms a step", "all", "of plain", *PARTS, "in the first\nepoch", title=f"{arch}, {side} px, {split}")
    for name, row in found.items():
        shown = [f"{1000 * row[part]:.1f}" for part in (*PARTS, "first epoch")]
        table.add_row(name, f"{1000 * row['step']:.1f}", f"{row['step'] / found['plain']['step']:.2f}", *shown)
    Console().print(table)
    out.mkdir(parents=True, exist_ok=True)
    asked = {"arch": arch, "side": side, "split": split, "batch": batch, "device": device, "precision": precision}
    (out / "step_cost.json").write_text(json.dumps({"asked": asked, "seconds": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    launch(main)
