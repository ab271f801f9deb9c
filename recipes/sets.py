"""How sure is a verdict on a set? Members, unseen data and mixtures of both, against the bundle of recipes/mnist.py.

python recipes/sets.py --data-root DATA --run runs/mnist
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from common import Parts
from launch import launch
from mnist import Mnist, pool
from scipy.stats import false_discovery_control

import amint


def main(
    *,
    data_root: Path,
    run: Path = Path("runs/mnist"),
    size: int = 20,
    half: int = 100,
    alpha: float = 0.01,
    repeats: int = 1000,
) -> dict[str, Any]:
    """Judge random sets of ``size``, and lists of ``half`` members and as many unseen; print and save the figures."""
    row = json.loads((run / "row.json").read_text())
    audit = amint.load(run / "model.amint")
    drawn = {name: row[name] for name in ("members", "external", "calibration", "seed", "most_unseen")}
    use = Mnist(data_root=data_root, device="cpu", **drawn)
    parts = Parts.of(use, pool(use))
    members, unseen = audit.scores(parts.members), audit.scores(parts.unseen)
    known = audit.calibrated()
    rng = np.random.default_rng(0)

    def p_values(scores: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
        return [known.set_p_value(rng.choice(scores, size, replace=False)) for _ in range(repeats)]

    used, null = p_values(members), p_values(unseen)
    wrong = []
    for _ in range(200):
        mixed = np.concatenate([rng.choice(part, half, replace=False) for part in (members, unseen)])
        listed = false_discovery_control(known.p_values(mixed)) <= 5 * alpha
        wrong.append(listed[half:].sum() / max(1, listed.sum()))
    found = {
        f"largest p of {repeats} sets of {size} members": max(used),
        f"median p of {repeats} sets of {size} unseen images": float(np.median(null)),
        f"share of them with p <= {alpha}": float(np.mean(np.array(null) <= alpha)),
        f"mean false discovery proportion at level {5 * alpha}, half members": float(np.mean(wrong)),
        "samples needed": amint.verify(audit, next(iter(parts.unseen))[0][:size], alpha=alpha).power,
    }
    (run / "sets.json").write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    launch(main)
