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
from joined import attached, found_by, head_alone, measured_by, registered
from paper import FIGURES, Paper, figures, show
from rich.console import Console
from settings import Settings
from sources import sources
from torch import nn
from training import accuracy, train

import amint
from amint.metrics import Measurement

HEADS = ("active MINT", "registered")


class Notes:
    """What is noted while a row is made: with which code, and how long each part took, told as it ends."""

    def __init__(self, use: Settings) -> None:
        self.use, self.made_by, self.seconds = use, sources(), dict[str, float]()
        self._began = time.perf_counter()

    def lap(self, name: str, measured: Mapping[str, Measurement] | None = None) -> None:
        """The part of this name ends here."""
        self.seconds[name] = round(time.perf_counter() - self._began - sum(self.seconds.values()), 1)
        said = f"{self.use.arch} {self.use.split}, {name}: {self.seconds[name]:,.0f} s"
        if measured is not None:
            said += f"; MINT: {', '.join(f'{figure} {measured[figure].value:.3f}' for figure in FIGURES)}"
        Console(stderr=True).print(said, highlight=False)


def run_row(use: Settings, pool: Pool, paper: Paper) -> None:
    """Train twice, measure, print and save the row.

    Raises:
        UsageError: settings with which no row can be made.
    """
    use = use.budget()
    notes = Notes(use)
    parts = Parts.of(use, pool)
    plain = parts.network(use)
    train(plain, parts.members, use, parts.augment)
    notes.lap("plain")
    model = parts.network(use)
    audit = attached(use, parts, model)
    train(model, parts.members, use, parts.augment, audit)
    notes.lap("audited")
    head_alone(use, parts, audit)
    active = found_by(audit, parts)
    notes.lap("head alone", active)
    epochs = use.epochs + use.head_epochs
    afterwards = found_by(registered(use, parts, plain, epochs), parts)
    notes.lap("registered", afterwards)
    heads = dict(zip(HEADS, (active, afterwards), strict=True))
    conclude(use, parts, paper, plain, audit, heads, epochs, notes)


def conclude(
    use: Settings,
    parts: Parts,
    paper: Paper,
    plain: nn.Module,
    audit: amint.Audit,
    heads: Mapping[str, Mapping[str, Measurement]],
    registered_epochs: int,
    notes: Notes,
) -> None:
    """Measure what needs no head, print and save the row, and the audit beside it."""
    taps = [point.name for point in audit.points]
    found = amint.compare(
        plain, parts.members, parts.unseen, attacks=["passive-mint", "loss"], taps=taps, seed=use.seed
    )
    measured: dict[str, Mapping[str, Measurement]] = {
        **heads,
        "hash register": measured_by(amint.HashRegister.of(parts.members).scores, parts),
        **{result.name.replace("-", " "): {name: result[name] for name in FIGURES} for result in found.ranked},
    }
    notes.lap("measuring")
    row = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in asdict(use).items()},
        "scaled_down": use.members < paper.members or use.external < paper.external,
        "drawn": {role: getattr(parts, role).n for role in ("members", "external", "calibration", "unseen")},
        "attacks_on_the_plain_network": found.sizes,
        "sources": notes.made_by,
        "data": paper.data,
        "taps": taps,
        "heads": list(heads),
        "registered_epochs": registered_epochs,
        "head_parameter_share": round(audit.parameter_share, 4),
        "plain_accuracy": accuracy(plain, parts.unseen),
        "audited_accuracy": accuracy(audit.backbone, parts.unseen),
        "paper": paper.of(use),
        "measured": {way: {name: figures(ms[name]) for name in FIGURES} for way, ms in measured.items()},
        "seconds": notes.seconds,
    }
    use.out.mkdir(parents=True, exist_ok=True)
    audit.save(use.out / "model.amint", preprocessing=parts.members.look)
    part = use.out / "row.json.part"
    part.write_text(json.dumps(row, indent=1), encoding="utf-8")
    part.replace(use.out / "row.json")
    show(row, paper)
