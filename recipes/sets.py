"""How sure is a verdict on a set? Members, unseen data and mixtures of both, against the bundle of recipes/mnist.py.

python recipes/sets.py --data-root DATA --run runs/mnist
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch
from mnist import prepared
from scipy.stats import false_discovery_control

import amint
from amint.datasets import mnist


def main(
    *, data_root: Path, run: Path = Path("runs/mnist"), size: int = 20, alpha: float = 0.01, repeats: int = 1000
) -> dict[str, Any]:
    """Judge random sets, print and save the figures."""
    row = json.loads((run / "row.json").read_text())
    audit = amint.load(run / "model.amint")
    images, _ = mnist(data_root, train=True)
    sizes = {name: row[name] for name in ("members", "external", "calibration")}
    roles = amint.assign_roles(len(images), **sizes, seed=row["seed"])
    members = audit.scores(prepared(images[list(roles.members)]))
    unseen = audit.scores(prepared(mnist(data_root, train=False)[0]))
    known = audit.calibrated()
    rng = np.random.default_rng(0)

    def p_values(scores: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
        return [known.set_p_value(rng.choice(scores, size, replace=False)) for _ in range(repeats)]

    used, null = p_values(members), p_values(unseen)
    wrong = []
    for _ in range(200):
        mixed = np.concatenate([rng.choice(members, 100, replace=False), rng.choice(unseen, 100, replace=False)])
        listed = false_discovery_control(known.p_values(mixed)) <= 5 * alpha
        wrong.append(listed[100:].sum() / max(1, listed.sum()))
    found = {
        f"largest p of {repeats} sets of {size} members": max(used),
        f"median p of {repeats} sets of {size} unseen images": float(np.median(null)),
        f"share of them with p <= {alpha}": float(np.mean(np.array(null) <= alpha)),
        f"mean false discovery proportion at level {5 * alpha}, half members": float(np.mean(wrong)),
        "samples needed": amint.verify(audit, prepared(images[list(roles.unseen)[:size]]), alpha=alpha).power,
    }
    (run / "sets.json").write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cyclopts.run(main)
