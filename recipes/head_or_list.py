"""What does a network add to a list of hashes? A row's MINT head beside a list of its members' hashes.

    python recipes/head_or_list.py --data-root DATA --run runs/cifar10
    python recipes/head_or_list.py --smoke                         # scikit-learn's digits, no row needed

Both are asked about the same pictures, changed alike: some members, and the row's unseen pictures, which set the
threshold of both. The list needs the members' hashes wherever it is asked, the head only itself and the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from changes import CHANGES
from common import at_most
from finished import finished
from joined import Scores
from launch import launch
from rich.console import Console
from rich.table import Table
from sets import LOOK, digit_roles, small_audit
from torch import Tensor

import amint
from amint.errors import UsageError
from amint.metrics import tpr_at_fpr, tpr_at_fpr_interval

FPRS = (0.01, 0.001)


def main(
    *,
    data_root: Path | None = None,
    run: Path = Path("runs/cifar10"),
    asked: int = 1_000,
    out: Path | None = None,
    smoke: bool = False,
) -> None:
    """Ask about ``asked`` members and all unseen pictures, print and save what was found, and both sizes in bytes."""
    if data_root is None and not smoke:
        raise UsageError("members of a row are drawn from its data: pass its --data-root, or --smoke for a small audit")
    if smoke or data_root is None:
        pictures = digit_roles()
        audit = small_audit(pictures)
        inside, outside, look = pictures["members"], pictures["unseen"], LOOK
    else:
        audit, parts = finished(run, data_root)
        inside, outside, look = parts.members.pixels(), parts.unseen.pixels(), parts.members.look
    register = amint.HashRegister.of(inside.float())
    some = inside[at_most(asked, range(len(inside)), 0)]
    ways: dict[str, Callable[[Tensor], Scores]] = {
        "head": lambda x: audit.scores(look.scaled(x)),
        "list": lambda x: register.scores(x.float()),
    }
    sizes = {"head": sum(p.numel() * p.element_size() for p in audit.head.parameters()), "list": register.nbytes}
    found, table = list[dict[str, Any]](), Table("change", *(f"{way}\n{fpr:.1%}" for way in ways for fpr in FPRS))
    for name, change in CHANGES.items():
        cells, labels = [], np.repeat([1, 0], [len(some), len(outside)])
        for way, score in ways.items():
            scores = np.concatenate([score(change(part)) for part in (some, outside)])
            for fpr in FPRS:
                value, one = tpr_at_fpr(scores, labels, fpr), tpr_at_fpr_interval(scores, labels, fpr)
                found.append({"change": name, "way": way, "fpr": fpr, "tpr": [value, one.low, one.high]})
                cells.append(f"{value:.3f}\n{one.low:.2f}–{one.high:.2f}")
        table.add_row(name, *cells)
    out = out or (Path("runs/head_or_list") if smoke else run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "head_or_list.json").write_text(json.dumps({"found": found, "bytes": sizes}, indent=1), encoding="utf-8")
    Console().print(table)
    Console().print(f"{len(inside):,} members; the head has {sizes['head']:,} bytes, the list {sizes['list']:,}")


if __name__ == "__main__":
    launch(main)
