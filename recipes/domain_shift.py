"""External or calibration data from another domain: what goes wrong, and what the controls make of it.

    python recipes/domain_shift.py --data-root DATA --smoke
    python recipes/domain_shift.py --data-root DATA --members 1000

The network learns MNIST. "Other" external and calibration data are Omniglot's letters, as small as MNIST. A false
alarm is an MNIST image that nothing was trained on and that gets p <= alpha. DATA holds MNIST/raw and OMNIGLOT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from launch import launch
from plain_loop import train
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import amint
from amint.datasets import mnist, omniglot
from amint.metrics import auroc, auroc_interval

# Where external and calibration data come from, and how the curve is drawn (Okabe and Ito's colours).
SETUPS = {
    "sound": ("own", "own", "#0072b2", "solid"),
    "letters as external": ("other", "own", "#009e73", "dashed"),
    "letters as both": ("other", "other", "#d55e00", "dashdot"),
}


def judged(audit: amint.Audit, members: Tensor, unseen: Tensor, alpha: float, sets: int) -> dict[str, Any]:
    """Members found and false alarms, before and after the controls; sets are parts of the unseen images."""
    inside, outside = audit.scores(members), audit.scores(unseen)
    p_values = audit.calibrated().p_values(outside)
    verdicts = [amint.verify(audit, rows, alpha=alpha) for rows in unseen.chunk(sets)]
    before = [verdict.p_value is not None and verdict.p_value <= alpha for verdict in verdicts]
    scores, labels = np.r_[inside, outside], np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    interval = auroc_interval(scores, labels)
    return {
        "auroc": auroc(scores, labels),
        "auroc_interval": [interval.low, interval.high],
        "members_found": float((audit.calibrated().p_values(inside) <= alpha).mean()),
        "members_decision": amint.verify(audit, members, alpha=alpha).decision,
        "false_alarms_before": float((p_values <= alpha).mean()),
        "false_alarms_after": sum(v.used for v in verdicts) / len(unseen),
        "sets": len(verdicts),
        "sets_used_before": sum(before),
        "sets_used_after": sum(v.decision == "used" for v in verdicts),
        "sets_cannot_tell": sum(v.decision == "cannot tell" for v in verdicts),
        "sentence": verdicts[0].sentence(),
        "failed_controls": sorted({c.name for v in verdicts for c in v.controls if c.outcome == "failed"}),
        "p_values": np.sort(p_values).round(5).tolist(),
    }


def draw(found: dict[str, dict[str, Any]], alpha: float, path: Path) -> None:
    """Of unseen images, the share with a p-value of at most that on the axis: the diagonal, if the audit is sound."""
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for name, (_, _, colour, dashes) in SETUPS.items():
        axes.ecdf(found[name]["p_values"], color=colour, linestyle=dashes, label=name)
    axes.plot([1e-4, 1], [1e-4, 1], color="#6b7280", linewidth=0.9, label="uniform")
    axes.axvline(alpha, color="#6b7280", linestyle="dotted", label=f"alpha = {alpha:g}")
    lowest = min(min(row["p_values"]) for row in found.values())
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.1))
    axes.set(xlabel="p-value", ylabel="share of unseen MNIST images at or below")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(
    *,
    data_root: Path,
    arch: str = "test_resnet",
    members: int = 1000,
    epochs: int = 20,
    alpha: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    smoke: bool = False,
    out: Path = Path("runs/domain-shift"),
) -> None:
    """Train once a set-up; print a table and the verdicts, save both and a plot."""
    sets = 20  # of 100 unseen images each
    if smoke:
        members, epochs, sets = 300, 8, 4
    images, labels = mnist(data_root, train=True)
    roles = amint.assign_roles(len(images), members=members, external=3 * members, calibration=members, seed=seed)
    x, letters = ((pixels.float() / 255 - 0.13).div(0.31).to(device) for pixels in (images, omniglot(data_root)))
    letters = letters[torch.randperm(len(letters), generator=torch.Generator().manual_seed(seed))]
    every = len(roles.unseen) // (100 * sets)
    inside, outside, y = list(roles.members), list(roles.unseen[::every][: 100 * sets]), labels.to(device)
    sources = {
        "own": (x[list(roles.external)], x[list(roles.calibration)]),
        "other": (letters[members : 4 * members], letters[:members]),
    }
    console, found = Console(), {}
    columns = ("AUROC", "members\nfound", "false alarms\nbefore", "\nafter", "sets used\nbefore", "\nafter")
    table = Table("set-up", *columns, title=f"alpha = {alpha:g}, before and after the controls")
    for name, (its_external, its_calibration, _, _) in track(SETUPS.items(), "training", console=console):
        torch.manual_seed(seed)
        network = timm.create_model(arch, num_classes=10, in_chans=1).to(device)
        audit = amint.attach(network, external=sources[its_external][0], ratio=3, balance=amint.Weighted(), seed=seed)
        train(network, audit, x[inside], y[inside], epochs)
        audit.calibrate(sources[its_calibration][1])
        row = found[name] = judged(audit, x[inside], x[outside], alpha, sets)
        between = "{:.3f}\n{:.2f}–{:.2f}".format(row["auroc"], *row["auroc_interval"])
        names = ("members_found", "false_alarms_before", "false_alarms_after")
        counts = (f"{row[key]} of {row['sets']}" for key in ("sets_used_before", "sets_used_after"))
        table.add_row(name, between, *(f"{row[key]:.3f}" for key in names), *counts)
        audit.detach()
    console.print(table)
    for name, row in found.items():
        console.print(f"[bold]{name}[/bold], the first set of unseen images. {row['sentence']}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "domain_shift.json").write_text(json.dumps(found, indent=1))
    draw(found, alpha, out / "domain_shift.png")


if __name__ == "__main__":
    launch(main)
