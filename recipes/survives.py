"""Which members are still found after their pictures were compressed, resized, cropped or taken off a screen?

    python recipes/survives.py --smoke                            # scikit-learn's digits
    python recipes/survives.py --data-root DATA --members 1000    # DATA holds MNIST/raw

Three heads, each trained along with a network and then alone: plain; with hard negatives (members moved by one pixel
are "not a member"); with a tolerance (members under random JPEG, resizing and brightness are members); and a list of
the members' hashes. Beside the members found: false alarms among unseen images changed alike. Calibration images are
not changed, so these may exceed alpha. Last, what amint.verify, whose controls look for such changes, says of sets of
100 with the last head.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from changes import CHANGES
from launch import launch
from plain_loop import train
from rich.console import Console
from rich.progress import track
from rich.table import Table
from survives_plot import GROUPS, KINDS, draw
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

import amint
from amint.datasets import digits, mnist
from amint.tolerance import Reencoding

MEAN, STD = 0.13, 0.31
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hard negatives": {"negatives": amint.HardNegatives(amint.one_pixel_shift, members=True)},
    "tolerant": {"tolerance": Reencoding(amint.Preprocessing(channels=1, mean=(MEAN,), std=(STD,)))},
}


def shown(scores: np.ndarray[Any, Any], known: amint.Calibration, alpha: float) -> dict[str, float]:
    """Shares of single pictures, and of 200 random sets of 20, with a p-value of at most alpha."""
    random = np.random.default_rng(0)
    sets = [known.set_p_value(random.choice(scores, 20, replace=False)) for _ in range(200)]
    p_values = (known.p_values(scores), np.array(sets))
    return {kind: float((p <= alpha).mean()) for kind, p in zip(KINDS, p_values, strict=True)}


def judged(audit: amint.Audit, x: Tensor, alpha: float, sets: int) -> dict[str, int]:
    """How many random sets of at most 100 pictures amint.verify judges how."""
    random = np.random.default_rng(0)
    rows = [random.choice(len(x), min(100, len(x)), replace=False) for _ in range(sets)]
    return dict(Counter(amint.verify(audit, x[chosen], alpha=alpha).decision for chosen in rows))


def main(
    *,
    data_root: Path | None = None,
    arch: str = "test_resnet",
    members: int = 1000,
    epochs: int = 20,
    head_epochs: int = 10,
    alpha: float = 0.05,
    sets: int = 10,
    seed: int = 0,
    device: str = "cpu",
    smoke: bool = False,
    out: Path = Path("runs/survives"),
) -> None:
    """Train three heads, each with a network of its own; print three tables, save them and a plot."""
    images, labels = digits() if data_root is None else mnist(data_root, train=True)
    # The digits come writer by writer, and samples in a row must not resemble each other.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = transforms.resize(images[order], [24 if data_root is None else 28] * 2), labels[order]
    members, epochs, head_epochs, sets = (220, 4, 15, 1) if smoke else (members, epochs, head_epochs, sets)
    roles = amint.assign_roles(len(images), members=members, external=3 * members, calibration=members, seed=seed)
    x, y = ((images.float() / 255 - MEAN) / STD).to(device), labels.to(device)
    inside, console = list(roles.members), Console()
    pictures = dict(zip(GROUPS, (images[inside], images[list(roles.unseen[:2000])]), strict=True))
    seen = {
        change: {group: ((of(rows).float() / 255 - MEAN) / STD).to(device) for group, rows in pictures.items()}
        for change, of in CHANGES.items()
    }
    known: dict[str, Any] = {}
    for head, options in track(HEADS.items(), "training", console=console, transient=True):
        torch.manual_seed(seed)
        network = timm.create_model(arch, num_classes=10, in_chans=1).to(device)
        options = {**options, "ratio": 3, "balance": amint.Weighted(), "seed": seed}
        audit = amint.attach(network, external=x[list(roles.external)], **options)
        train(network, audit, x[inside], y[inside], epochs)
        audit.train_head(x[inside], epochs=head_epochs)
        known[head] = audit.scores, audit.calibrate(x[list(roles.calibration)])
    register = amint.HashRegister.of(x[inside])
    known["list"] = register.scores, amint.Calibration(register.scores(x[list(roles.calibration)]))
    shares: dict[str, Any] = {
        way: {
            change: {group: shown(scores(rows), scale, alpha) for group, rows in groups.items()}
            for change, groups in seen.items()
        }
        for way, (scores, scale) in known.items()
    }
    # The head that was trained for it, which comes last.
    verdicts = {
        change: {group: judged(audit, rows, alpha, sets) for group, rows in groups.items()}
        for change, groups in seen.items()
    }
    for kind in KINDS:
        table = Table("change", *shares, title=f"{kind}: members found (false alarms), alpha = {alpha:g}")
        for change in CHANGES:
            cells = [[shares[head][change][group][kind] for group in GROUPS] for head in shares]
            table.add_row(change, *(f"{inside:.3f} ({outside:.3f})" for inside, outside in cells))
        console.print(table)
    table = Table("change", *GROUPS, title=f"{head} head: verdicts on sets of 100")
    for change, groups in verdicts.items():
        told = [", ".join(f"{n} {kind}" for kind, n in groups[group].items()) for group in GROUPS]
        table.add_row(change, *told)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "survives.json").write_text(json.dumps({"found": shares, "verdicts": verdicts}, indent=1))
    draw(shares, out / "survives.png")


if __name__ == "__main__":
    launch(main)
