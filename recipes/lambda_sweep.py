"""Task against audit: the weight of the MINT loss over five decades, and balances that avoid conflicts.

    python recipes/lambda_sweep.py --data-root DATA            # CIFAR-10, see recipes/cifar10.py
    python recipes/lambda_sweep.py --data-root DATA --seeds 3

Every point is a network of its own, trained with the same budget. On the Pareto front nothing is better in both
figures; its knee is the point furthest above the line between the front's ends, both axes scaled to 0..1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cyclopts
import matplotlib.pyplot as plt
import numpy as np
from cifar10 import Cifar10, pool
from common import Parts
from rich.console import Console
from rich.table import Table
from row import Balances, audited
from training import accuracy, train

import amint

WEIGHTS = (0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
AVERSE = ("upgrad", "cagrad", "pcgrad", "mgda", "imtl_g", "aligned_mtl", "nash_mtl")


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sweep(Cifar10):
    """Small enough for 2 CPU cores."""

    arch: str = "resnet10t"
    members: int = 1000
    external: int = 1500
    epochs: int = 12
    seeds: int = 1
    out: Path = Path("runs/lambda_sweep")


def balances() -> dict[str, Balances]:
    """What is compared; each run needs a balance of its own."""
    return {
        **{f"lambda {weight:g}": amint.NormalisedByFirst(mint=weight) for weight in WEIGHTS},
        **{name: amint.ConflictAverse(name, of=amint.NormalisedByFirst(mint=1)) for name in AVERSE},
        "uncertainty": amint.UncertaintyWeighting(),
        "gradnorm": amint.GradNorm(),
    }


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that none beats in both figures, from left to right."""
    kept = [i for i, p in enumerate(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    return sorted(kept, key=lambda i: points[i])


def knee(points: Sequence[tuple[float, float]]) -> int | None:
    """The place on a front that stands out most from the line between its ends; None without a bend."""
    if len(points) < 3:
        return None
    scaled = (np.array(points) - np.min(points, axis=0)) / np.ptp(points, axis=0)
    return int(scaled.sum(axis=1).argmax())


def plot(rows: Sequence[dict[str, Any]], plain: float, best: Sequence[int], out: Path) -> None:
    """Accuracy against balanced accuracy, a point a balance."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for row in rows:
        place = (row["accuracy"], row["balanced_accuracy"])
        mark, colour = ("o", "#0072b2") if row["balance"].startswith("lambda") else ("^", "#d55e00")
        axes.plot(*place, mark, c=colour)
        axes.annotate(row["balance"], place, (4, 4), textcoords="offset points", size=7)
    axes.plot(*np.array([(rows[i]["accuracy"], rows[i]["balanced_accuracy"]) for i in best]).T, c="grey", lw=1)
    axes.axvline(plain, ls=":", c="black", label="trained plainly")
    axes.set(xlabel="accuracy of the network's task", ylabel="balanced accuracy of MINT")
    axes.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main(use: Sweep) -> None:
    """Train every balance with every seed; print, plot and save means over the seeds."""
    use = use.budget()
    data, plain = pool(use), []
    runs: list[dict[str, Any]] = []
    for seed in range(use.seed, use.seed + use.seeds):
        one = replace(use, seed=seed)
        parts = Parts.of(one, data)
        network = parts.network(one)
        train(network, parts.members, one, parts.augment)
        plain.append(accuracy(network, parts.unseen))
        for name, balance in balances().items():
            audit, right = audited(one, parts, balance)
            measured = audit.evaluate(parts.members, parts.unseen)
            figures = {key: measured[key].value for key in ("balanced_accuracy", "auroc", "tpr_at_fpr_0.01")}
            runs.append({"balance": name, "seed": seed, "accuracy": right, **figures})
    keys = ("accuracy", "balanced_accuracy", "auroc", "tpr_at_fpr_0.01")
    rows: list[dict[str, Any]] = []
    table = Table("balance", *keys, title=f"{use.members:,} members, {use.seeds} seeds, plain {np.mean(plain):.3f}")
    for name in balances():
        mean = {key: float(np.mean([run[key] for run in runs if run["balance"] == name])) for key in keys}
        rows.append({"balance": name, **mean})
        table.add_row(name, *(f"{mean[key]:.3f}" for key in keys))
    Console().print(table)
    best = front([(row["accuracy"], row["balanced_accuracy"]) for row in rows])
    bend = knee([(rows[i]["accuracy"], rows[i]["balanced_accuracy"]) for i in best])
    names = [str(rows[i]["balance"]) for i in best]
    Console().print(f"Pareto front: {', '.join(names)}; its knee: {None if bend is None else names[bend]}")
    found = {"members": use.members, "plain_accuracy": float(np.mean(plain)), "rows": rows, "runs": runs}
    use.out.mkdir(parents=True, exist_ok=True)
    (use.out / "lambda_sweep.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    plot(rows, float(np.mean(plain)), best, use.out / "lambda_sweep.png")


if __name__ == "__main__":
    cyclopts.run(main)
