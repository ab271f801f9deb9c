"""Task against audit: the weight of the MINT loss over six decades, and balances that avoid conflicts.

    python recipes/lambda_sweep.py --data-root DATA            # CIFAR-10, see recipes/cifar10.py
    python recipes/lambda_sweep.py --data-root DATA --seeds 3 --only "lambda 1" upgrad
    python recipes/lambda_sweep.py --data-root DATA --split output --no-hard-negatives --ratio 1

Every point is a network of its own, trained with the same budget. On the Pareto front nothing is better in both
figures; its knee is the point furthest above the line between the front's ends, both axes scaled to 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cyclopts
import matplotlib.pyplot as plt
import numpy as np
from cifar10 import pool
from joined import Balances
from launch import launch
from lines import BASELINES, Audited, Figures, Line
from repeated import Small, chosen, repeated
from rich.console import Console
from spread import show

import amint

WEIGHTS = (0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
# The first cannot exceed 0.975 by much: its threshold lets 5 % of unseen images pass.
FIGURES = {"balanced_accuracy": "balanced accuracy", "tpr_at_fpr_0.001": "TPR at 0.1 % FPR"}
AVERSE = ("upgrad", "cagrad", "pcgrad", "mgda", "imtl_g", "aligned_mtl", "nash_mtl")


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sweep(Small):
    """Its results lie apart."""

    out: Path = Path("runs/lambda_sweep")


def lines() -> dict[str, Line]:
    """What is compared with a network that was trained plainly."""
    return {
        **{f"lambda {weight:g}": Audited({"lambda_": weight}) for weight in WEIGHTS},
        **{name: Audited(balance=partial(averse, name)) for name in AVERSE},
        "uncertainty": Audited(balance=amint.UncertaintyWeighting),
        "gradnorm": Audited(balance=amint.GradNorm),
    }


def averse(name: str) -> Balances:
    """Gradients of both losses, each divided by its first value, put together without conflict."""
    return amint.ConflictAverse(name, of=amint.NormalisedByFirst(mint=1))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that none beats in both figures, from left to right."""
    kept = [i for i, p in enumerate(points) if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    return sorted(kept, key=lambda i: points[i])


def knee(points: Sequence[tuple[float, float]]) -> int | None:
    """The place on a front that stands out most above the line between its ends; None where none does."""
    spans = np.ptp(points, axis=0)
    if len(points) < 3 or not spans.all():
        return None
    heights = ((np.array(points) - np.min(points, axis=0)) / spans).sum(axis=1)
    # The ends, and whatever lies on the line between them, add up to 1.
    return int(heights.argmax()) if heights.max() > 1 + 1e-9 else None


def plot(found: Mapping[str, Figures], best: Mapping[str, Sequence[str]], out: Path) -> None:
    """Accuracy against each figure of MINT, a point a balance, and the Pareto front."""
    figure, both = plt.subplots(1, len(FIGURES), figsize=(12, 5), layout="constrained")
    for axes, (key, label) in zip(both, FIGURES.items(), strict=True):
        for name, figures in found.items():
            mark, colour = ("o", "#0072b2") if name.startswith("lambda") else ("^", "#d55e00")
            axes.plot(*place(figures, key), mark, c="black" if name in BASELINES else colour)
            axes.annotate(name, place(figures, key), (4, 4), textcoords="offset points", size=7)
        axes.plot(*np.array([place(found[name], key) for name in best[key]]).T, c="grey", lw=1)
        axes.axvline(found[next(iter(BASELINES))]["accuracy"][0], ls=":", c="black")
        axes.set(xlabel="accuracy of the network's task", ylabel=f"{label} of MINT")
    figure.savefig(out, dpi=150)
    plt.close(figure)


def place(figures: Figures, key: str) -> tuple[float, float]:
    """Where a line stands: accuracy, and a figure of MINT."""
    return figures["accuracy"][0], figures[key][0]


def bend(found: Mapping[str, Figures], names: Sequence[str], key: str) -> str:
    """Where a front has its knee, in words."""
    at = knee([place(found[name], key) for name in names])
    return "it has no knee" if at is None else f"its knee: {names[at]}"


def main(use: Sweep) -> None:
    """Train every line with every seed; print, plot and save means over the seeds."""
    use = use.budget()
    runs = repeated(BASELINES | chosen(lines(), use.only), use, pool(use))
    title = f"{use.arch}, {use.members:,} members, {use.seeds} seeds"
    found = show(title, runs, use.out / "lambda_sweep.json")
    joint = [name for name in found if name not in BASELINES]
    best = {key: [joint[i] for i in front([place(found[name], key) for name in joint])] for key in FIGURES}
    for key, label in FIGURES.items():
        Console().print(f"Pareto front of accuracy and {label}: {', '.join(best[key])}; {bend(found, best[key], key)}")
        lambdas = [name for name in joint if name.startswith("lambda")]
        alone = [lambdas[i] for i in front([place(found[name], key) for name in lambdas])]
        if alone:
            Console().print(f"of lambda alone: {', '.join(alone)}; {bend(found, alone, key)}")
    plot(found, best, use.out / "lambda_sweep.png")


if __name__ == "__main__":
    launch(main)
