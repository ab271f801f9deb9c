"""What a plain list of the members' hashes finds, without any network, after their pictures were changed.

    python recipes/hash_register.py --data-root DATA                       # MNIST, DATA as in amint.datasets.mnist
    python recipes/hash_register.py --data-root DATA --data cifar10
    python recipes/hash_register.py --smoke                                # scikit-learn's digits

Members are drawn from the training part, unseen pictures from the test part. Of both, some are changed alike; members
found are counted at a threshold that 1 % and 0.1 % of the unseen ones changed alike reach at most.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from changes import CHANGES
from launch import launch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import amint
from amint.datasets import cifar10, digits, mnist
from amint.errors import UsageError
from amint.metrics import tpr_at_fpr_interval

FPRS = (0.01, 0.001)


def drawn(images: Tensor, n: int, seed: int) -> Tensor:
    """So many different rows, at random."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]]


def main(
    *,
    data_root: Path | None = None,
    data: Literal["mnist", "cifar10"] = "mnist",
    members: tuple[int, ...] = (1_000, 25_000),
    asked: int = 1_000,
    unseen: int = 2_000,
    seed: int = 0,
    out: Path = Path("runs/hash_register"),
    smoke: bool = False,
) -> None:
    """Register members, ask about some of them and about unseen pictures, print and save what was found."""
    if data_root is None and not smoke:
        raise UsageError("pass the --data-root of the data, or --smoke for scikit-learn's digits")
    if data_root is None or smoke:
        images, _ = digits()
        train, test, members, asked = images[:1_200], images[1_200:], (400,), 400
    else:
        read = {"mnist": mnist, "cifar10": cifar10}[data]
        (train, _), (test, _) = (read(data_root, train=part) for part in (True, False))
    outside, rows = drawn(test, unseen, seed), list[dict[str, Any]]()
    table = Table("members", "change", *(f"found at\n{fpr:.1%}" for fpr in FPRS), "bytes")
    for n in members:
        inside = drawn(train, n, seed)
        register = amint.HashRegister.of(inside.float())
        for name, change in CHANGES.items():
            changed = [register.scores(change(part).float()) for part in (inside[:asked], outside)]
            scores, labels = np.concatenate(changed), np.repeat([1, 0], [len(part) for part in changed])
            found = {f"{fpr:g}": amint.metrics.tpr_at_fpr(scores, labels, fpr) for fpr in FPRS}
            ranges = {f"{fpr:g}": tpr_at_fpr_interval(scores, labels, fpr) for fpr in FPRS}
            rows.append({"members": n, "change": name, "found": found, "bytes": register.nbytes})
            rows[-1]["interval"] = {fpr: (one.low, one.high) for fpr, one in ranges.items()}
            cells = [f"{found[fpr]:.3f}\n{one.low:.2f}–{one.high:.2f}" for fpr, one in ranges.items()]
            table.add_row(f"{n:,}", name, *cells, f"{register.nbytes:,}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "hash_register.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    Console().print(table)


if __name__ == "__main__":
    launch(main)
