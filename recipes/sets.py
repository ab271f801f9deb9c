"""How sure is a verdict on a set? Members, unseen data and mixtures of both, against the bundle of recipes/mnist.py.

python recipes/sets.py --data-root DATA --run runs/mnist
python recipes/sets.py --smoke                              # scikit-learn's digits, no bundle needed
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from data import resized
from finished import finished
from launch import launch
from rich.console import Console
from scipy.stats import false_discovery_control
from torch import Tensor

import amint
from amint.datasets import digits
from amint.errors import UsageError

LOOK = amint.Preprocessing(size=(32, 32), channels=1, mean=(0.3,), std=(0.4,))
Scores = np.ndarray[Any, np.dtype[np.float64]]


def of_run(run: Path, data_root: Path) -> tuple[amint.Audit, Scores, Scores, Tensor]:
    """The audit of a run, the scores of its members and of unseen images, and some of the latter."""
    audit, parts = finished(run, data_root)
    return audit, audit.scores(parts.members), audit.scores(parts.unseen), next(iter(parts.unseen))[0]


def digit_roles() -> dict[str, Tensor]:
    """Scikit-learn's digits by role, uint8."""
    images, _ = digits()
    x = resized(images, LOOK)
    roles = amint.assign_roles(len(x), members=200, external=600, calibration=400, seed=0)
    return {role: x[list(getattr(roles, role))] for role in ("members", "external", "calibration", "unseen")}


def small_audit(pictures: dict[str, Tensor]) -> amint.Audit:
    """An audit of them, made on the spot."""
    x = {role: LOOK.scaled(images) for role, images in pictures.items()}
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    audit = amint.register(model, x["members"], x["external"], split="entry", epochs=15, batch_size=32, ratio=3.0)
    audit.calibrate(x["calibration"])
    audit.evaluate(x["members"], x["unseen"])
    return audit


def of_digits() -> tuple[amint.Audit, Scores, Scores, Tensor]:
    """The same of a small audit."""
    pictures = digit_roles()
    audit = small_audit(pictures)
    members, unseen = (LOOK.scaled(pictures[role]) for role in ("members", "unseen"))
    return audit, audit.scores(members), audit.scores(unseen), unseen


def main(
    *,
    data_root: Path | None = None,
    run: Path = Path("runs/mnist"),
    out: Path | None = None,
    size: int = 20,
    half: int = 100,
    alpha: float = 0.01,
    repeats: int = 1000,
    smoke: bool = False,
) -> None:
    """Judge random sets of ``size``, and lists of ``half`` members and as many unseen; print and save the figures.

    They are saved in ``out``, by default the folder of the run, or runs/sets with ``smoke``.
    """
    if data_root is None and not smoke:
        raise UsageError("sets of a run are made of its data: pass its --data-root, or --smoke for a small audit")
    audit, members, unseen, x = of_digits() if smoke or data_root is None else of_run(run, data_root)
    repeats, out = min(repeats, 100) if smoke else repeats, out or (Path("runs/sets") if smoke else run)
    known = audit.calibrated()
    rng = np.random.default_rng(0)

    def p_values(scores: Scores) -> list[float]:
        return [known.set_p_value(rng.choice(scores, size, replace=False)) for _ in range(repeats)]

    used, null = p_values(members), p_values(unseen)
    wrong = []
    for _ in range(200):
        mixed = np.concatenate([rng.choice(part, half, replace=False) for part in (members, unseen)])
        listed = false_discovery_control(known.p_values(mixed)) <= 5 * alpha
        wrong.append(listed[half:].sum() / max(1, listed.sum()))
    power = amint.verify(audit, x[:size], alpha=alpha).power
    found: dict[str, Any] = {
        f"largest p of {repeats} sets of {size} members": max(used),
        f"median p of {repeats} sets of {size} unseen images": float(np.median(null)),
        f"share of them with p <= {alpha}": float(np.mean(np.array(null) <= alpha)),
        f"mean false discovery proportion at level {5 * alpha}, half members": float(np.mean(wrong)),
        "samples that a verdict takes": None if power is None else power["needed"],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "sets.json").write_text(json.dumps(found | {"power": power}, indent=1))
    for name, value in found.items():
        Console().print(f"{name}: {value:.2g}" if isinstance(value, float) else f"{name}: {value}", markup=False)


if __name__ == "__main__":
    launch(main)
