"""One row of the paper's tables: one network trained plainly and audited, and every way to ask for membership.

Thresholds of balanced accuracies come from non-members that nothing was trained on; only passive MINT and the loss take
theirs from members and non-members that are known to them, which favours them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from common import Parts, Pool
from joined import attached, head_alone, measured_by, registered
from paper import FIGURES, Paper, figures, show
from rich.console import Console
from settings import Settings
from sources import sources
from training import accuracy, train

import amint
from amint.metrics import Measurement


def run_row(use: Settings, pool: Pool, paper: Paper) -> None:
    """Train twice, measure, print and save the row.

    Raises:
        UsageError: settings with which no row can be made.
    """
    use = use.budget()
    parts = Parts.of(use, pool)
    made_by, seconds = sources(), dict[str, float]()
    began = time.perf_counter()

    def lap(name: str, said: str = "") -> None:
        seconds[name] = round(time.perf_counter() - began - sum(seconds.values()), 1)
        Console(stderr=True).print(f"{use.arch} {use.split}, {name}: {seconds[name]:,.0f} s{said}", highlight=False)

    plain = parts.network(use)
    train(plain, parts.members, use, parts.augment)
    lap("plain")
    model = parts.network(use)
    audit = attached(use, parts, model)
    train(model, parts.members, use, parts.augment, audit)
    lap("audited")
    head_alone(use, parts, audit)
    audit.calibrate(parts.calibration)
    active = audit.evaluate(parts.members, parts.unseen)
    lap("head alone", f"; active MINT: {', '.join(f'{name} {active[name].value:.3f}' for name in FIGURES)}")
    afterwards = registered(use, parts, plain)
    afterwards.calibrate(parts.calibration)
    lap("registered")
    taps = [point.name for point in audit.points]
    found = amint.compare(
        plain, parts.members, parts.unseen, attacks=["passive-mint", "loss"], taps=taps, seed=use.seed
    )
    measured: dict[str, Mapping[str, Measurement]] = {
        "active MINT": active,
        "registered": afterwards.evaluate(parts.members, parts.unseen),
        "hash register": measured_by(amint.HashRegister.of(parts.members).scores, parts),
        **{result.name.replace("-", " "): {name: result[name] for name in FIGURES} for result in found.ranked},
    }
    lap("measuring")
    row = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in asdict(use).items()},
        "scaled_down": use.members < paper.members or use.external < paper.external,
        "drawn": {role: getattr(parts, role).n for role in ("members", "external", "calibration", "unseen")},
        "attacks_on_the_plain_network": found.sizes,
        "sources": made_by,
        "data": paper.data,
        "taps": taps,
        "registered_epochs": use.epochs + use.head_epochs,
        "head_parameter_share": round(audit.parameter_share, 4),
        "plain_accuracy": accuracy(plain, parts.unseen),
        "audited_accuracy": accuracy(model, parts.unseen),
        "paper": paper.of(use),
        "measured": {way: {name: figures(ms[name]) for name in FIGURES} for way, ms in measured.items()},
        "seconds": seconds,
    }
    use.out.mkdir(parents=True, exist_ok=True)
    audit.save(use.out / "model.amint", preprocessing=parts.members.look)
    part = use.out / "row.json.part"
    part.write_text(json.dumps(row, indent=1), encoding="utf-8")
    part.replace(use.out / "row.json")
    show(row, paper)
