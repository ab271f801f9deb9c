"""What matters: where the network is tapped, one tap or two, how much external data, hard negatives.

    python recipes/ablations.py --data-root DATA            # CIFAR-10, see recipes/cifar10.py
    python recipes/ablations.py --data-root DATA --seeds 3

Each line changes one thing of the first line; all see the same members and the same unseen images.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from cifar10 import Cifar10, pool
from common import Parts
from rich.console import Console
from rich.table import Table
from row import audited

import amint

KEYS = ("accuracy", "balanced_accuracy", "auroc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ablations(Cifar10):
    """Small enough for 2 CPU cores."""

    arch: str = "resnet10t"
    members: int = 1000
    external: int = 2000
    epochs: int = 12
    seeds: int = 1
    out: Path = Path("runs/ablations")


def changes(use: Ablations, taps: list[str]) -> dict[str, Ablations]:
    """What is compared; ``taps`` are those of the entry split."""
    return {
        f"entry ({' and '.join(taps)})": use,
        "middle": replace(use, split="middle"),
        "output": replace(use, split="output"),
        **{f"one tap ({tap})": replace(use, split=tap) for tap in taps},
        "half the external data": replace(use, external=use.members // 2),
        "as much external data as members": replace(use, external=use.members),
        "twice as many external rows a step": replace(use, ratio=2 * use.ratio),
        "no hard negatives": replace(use, hard_negatives=False),
    }


def main(use: Ablations) -> None:
    """Train every change with every seed; print and save means over the seeds."""
    use = use.budget()
    data = pool(use)
    probe = Parts.of(use, data)
    taps = [point.name for point in amint.attach(probe.network(use), external=probe.external).points]
    runs: list[dict[str, Any]] = []
    for seed in range(use.seed, use.seed + use.seeds):
        for name, changed in changes(use, taps).items():
            one = replace(changed, seed=seed)
            # Drawn with the most external rows, so that members and unseen rows are the same in every line.
            parts = Parts.of(replace(one, external=use.external), data)
            parts = replace(parts, external=parts.external.take(parts.external.numbers[: one.external]))
            audit, right = audited(one, parts, amint.NormalisedByFirst(mint=use.lambda_))
            found = audit.evaluate(parts.members, parts.unseen)
            runs.append({"change": name, "seed": seed, "accuracy": right} | {key: found[key].value for key in KEYS[1:]})
    table = Table("", *KEYS, title=f"{use.arch}, {use.members:,} members, {use.external:,} external, {use.seeds} seeds")
    for name in changes(use, taps):
        table.add_row(name, *(f"{np.mean([run[key] for run in runs if run['change'] == name]):.3f}" for key in KEYS))
    Console().print(table)
    use.out.mkdir(parents=True, exist_ok=True)
    (use.out / "ablations.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")


if __name__ == "__main__":
    cyclopts.run(main)
