"""How many members can a MINT head remember?

    python recipes/capacity.py --smoke               # scikit-learn's digits
    python recipes/capacity.py --data-root DATA      # DATA holds MNIST/raw

To find all of n members at false-alarm rate e takes n log2(1/e) bits of memory (Carter et al. 1978); finding a share t
of them shows n KL(t, e) bits, the mutual information of membership and answer. All heads read the same network, however
wide they are: frozen, trained on other images, so that only they remember; or trained along, when it remembers too.
With more epochs a head remembers more: this is what was reached, not what would fit.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from capacity_plot import BITS, FPR, draw
from launch import launch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import amint
from amint.datasets import digits, mnist
from amint.metrics import auroc, auroc_interval, tpr_at_fpr, tpr_at_fpr_interval

LR = 4e-3
COLUMNS = ("parameters", "members", "bits needed\na parameter", "bits shown\na parameter", "AUROC", "TPR at\n1 % FPR")


def network() -> nn.Module:
    """For digits of 28 x 28 pixels; the heads read its last map."""
    first = [nn.Conv2d(1, 64, 4, 4), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, audit: amint.Auditable | None = None) -> None:
    """The usual loop, with the learning rate, optimizers and schedule of ``amint.register``."""
    own = set() if audit is None else set(audit.head.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([p for p in model.train().parameters() if p not in own], lr=LR)
    ]
    optimizers += [] if audit is None else amint.head_optimizers(audit.head, LR)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, epochs) for each in optimizers]
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            task = F.cross_entropy(model(x[rows]), y[rows])
            model.zero_grad()
            (task if audit is None else audit.loss(task)).backward()
            for optimizer in optimizers:
                optimizer.step()
        for schedule in schedules:
            schedule.step()
    model.eval()


def measured(audit: amint.Audit, members: Tensor, unseen: Tensor) -> dict[str, Any]:
    """How well members are found; bits to be remembered, and shown to be, for each parameter of the head."""
    parameters, n = sum(p.numel() for p in audit.head.parameters()), len(members)
    scores, labels = np.r_[audit.scores(members), audit.scores(unseen)], np.arange(n + len(unseen)) < n
    tpr, interval = tpr_at_fpr(scores, labels, FPR), tpr_at_fpr_interval(scores, labels, FPR)
    t, share = min(max(tpr, FPR), 1 - 1e-9), n / parameters
    bits = {"needed": BITS, "shown": t * math.log2(t / FPR) + (1 - t) * math.log2((1 - t) / (1 - FPR))}
    area = auroc_interval(scores, labels)
    found = {kind: share * each for kind, each in bits.items()} | {
        "auroc": [auroc(scores, labels), area.low, area.high]
    }
    return {"parameters": parameters, "members": n, "tpr": [tpr, interval.low, interval.high], **found}


def main(
    *,
    data_root: Path | None = None,
    widths: tuple[int, ...] = (32, 64, 128),
    members: tuple[int, ...] = (250, 500, 1000, 2000),
    epochs: int = 50,
    ratio: int = 3,
    seed: int = 0,
    device: str = "cpu",
    smoke: bool = False,
    out: Path = Path("runs/capacity"),
) -> None:
    """A head for each width and number of members, afterwards and along with the network; print, save and plot."""
    images, labels = digits() if data_root is None else mnist(data_root, train=True)
    widths, members, epochs = ((32,), (40, 300), 30) if smoke else (widths, members, epochs)
    # The digits come writer by writer, and samples in a row must not resemble each other.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    x = ((F.interpolate(images[order].float(), size=28) / 255 - 0.13) / 0.31).to(device)
    y, console, table, rows = labels[order].to(device), Console(), Table("head", *COLUMNS), []
    roles = amint.assign_roles(len(x), members=max(members), external=len(x) // 2, calibration=0, seed=seed)
    task, unseen = list(roles.unseen[: len(x) // 10]), x[list(roles.unseen[len(x) // 10 :][:10_000])]
    options: dict[str, Any] = {"external": x[list(roles.external)], "split": "5", "ratio": ratio, "seed": seed}
    cases = itertools.product(("frozen", "joint"), widths, members)
    for kind, width, n in track(list(cases), "training", console=console, transient=True):
        torch.manual_seed(seed)
        model, inside = network().to(device), list(roles.members[:n])
        sized = options | {"head": amint.HeadSize(width=width)}
        train(model, x[task], y[task], 3)
        if kind == "frozen":
            audit = amint.register(model, x[inside], epochs=epochs, lr=LR, **sized)
        else:
            audit = joint = amint.attach(model, balance=amint.Weighted(), **sized)
            train(model, x[inside], y[inside], epochs, joint)
        rows.append(row := {"head": f"{kind} {width}", **measured(audit, x[inside], unseen)})
        bits = (f"{row[kind]:.4f}" for kind in ("needed", "shown"))
        found = ("{:.3f}\n{:.2f}–{:.2f}".format(*row[key]) for key in ("auroc", "tpr"))
        table.add_row(row["head"], f"{row['parameters']:,}", str(n), *bits, *found)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "capacity.json").write_text(json.dumps(rows, indent=1))
    draw(rows, out / "capacity.png")


if __name__ == "__main__":
    launch(main)
