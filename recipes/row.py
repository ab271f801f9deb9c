"""One row of the paper's tables: one network trained plainly and audited, and every way to ask for membership.

Thresholds of balanced accuracies come from non-members that nothing was trained on, never from members.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from common import Parts, Pool
from paper import FIGURES, Paper, figures, show
from settings import Settings
from torch import nn
from training import accuracy, train

import amint
from amint.metrics import Measurement, summary

Balances = amint.Balance | amint.GradientBalance


def attached(
    use: Settings, parts: Parts, model: nn.Module, balance: Balances | None = None, **changes: Any
) -> amint.Auditable:
    """The network with its MINT head; ``changes`` are arguments of ``amint.attach`` that differ."""
    if balance is None:
        balance = amint.NormalisedByFirst(mint=use.lambda_)
    return amint.attach(model, balance=balance, **head_of(use, parts) | changes)


def head_of(use: Settings, parts: Parts) -> dict[str, Any]:
    """What the head is told, whether it learns along with the network or afterwards."""
    external = parts.external.shuffled(256)
    split, negatives = use.taps(), parts.negatives if use.hard_negatives else None
    head = amint.HeadSize(use.head_width, use.head_pool, use.head_hidden)
    return {
        "external": external,
        "split": split,
        "ratio": use.ratio,
        "negatives": negatives,
        "head": head,
        "seed": use.seed,
    }


def run_row(use: Settings, pool: Pool, paper: Paper) -> None:
    """Train twice, measure, print and save the row.

    Raises:
        UsageError: settings with which no row can be made.
    """
    use = use.budget()
    make_row(use, Parts.of(use, pool), paper)


def make_row(use: Settings, parts: Parts, paper: Paper) -> None:
    """The same, for rows whose roles are drawn."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - began - sum(seconds.values()), 1)

    plain = parts.network(use)
    train(plain, parts.members, use, parts.augment)
    lap("plain")
    model = parts.network(use)
    audit = attached(use, parts, model)
    train(model, parts.members, use, parts.augment, audit)
    lap("audited")
    told = parts.members.shuffled(use.batch)
    if use.head_epochs:
        audit.train_head(told, epochs=use.head_epochs, lr=use.head_lr, seed=use.seed)
    audit.calibrate(parts.calibration)
    lap("head alone")
    epochs = max(use.epochs, use.head_epochs)
    registered = amint.register(plain, told, epochs=epochs, lr=use.head_lr, **head_of(use, parts))
    registered.calibrate(parts.calibration)
    lap("registered")
    taps = [point.name for point in audit.points]
    found = amint.compare(plain, parts.members, parts.unseen, attacks=["passive-mint", "loss"], taps=taps)
    measured: dict[str, Mapping[str, Measurement]] = {
        "active MINT": audit.evaluate(parts.members, parts.unseen),
        "registered": registered.evaluate(parts.members, parts.unseen),
        "hash register": listed(parts),
        **{result.name.replace("-", " "): {name: result[name] for name in FIGURES} for result in found.ranked},
    }
    lap("measuring")
    row = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in asdict(use).items()},
        "scaled_down": use.members < paper.members or use.external < paper.external,
        "drawn": {role: getattr(parts, role).n for role in ("members", "external", "calibration", "unseen")},
        "attacks_on_the_plain_network": found.sizes,
        "taps": taps,
        "head_parameter_share": round(audit.parameter_share, 4),
        "plain_accuracy": accuracy(plain, parts.unseen),
        "audited_accuracy": accuracy(model, parts.unseen),
        "paper": paper.of(use),
        "measured": {way: {name: figures(ms[name]) for name in FIGURES} for way, ms in measured.items()},
        "seconds": seconds,
    }
    use.out.mkdir(parents=True, exist_ok=True)
    (use.out / "row.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
    audit.save(use.out / "model.amint", preprocessing=parts.members.look)
    show(row, paper)


@lru_cache(maxsize=1)
def listed(parts: Parts) -> dict[str, Measurement]:
    """What a plain list of the members' hashes finds, without any network."""
    register = amint.HashRegister.of(parts.members)
    inside, outside, known = (register.scores(rows) for rows in (parts.members, parts.unseen, parts.calibration))
    labels = np.arange(len(inside) + len(outside)) < len(inside)
    return summary(np.concatenate([inside, outside]), labels, amint.Calibration(known).threshold(0.05))
