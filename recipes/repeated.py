"""One network trained again and again, one thing changed at a time, with the same rows for every line of a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Parts, Pool, Settings
from rich.console import Console
from rich.table import Table
from row import Balances, attached, head_of
from training import accuracy, train

import amint
from amint.metrics import Measurement, clopper_pearson

KEYS = ("accuracy", "balanced_accuracy", "auroc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")

# Value, and the ends of its 95 % interval.
Figures = dict[str, tuple[float, float, float]]
Line = Callable[[Settings, Pool], Figures]


@dataclass(frozen=True)
class Audited:
    """Trains, calibrates and measures an audited network.

    Attributes:
        change: fields of the settings that differ.
        balance: of the two losses; None for the recipes' own.
        attach: arguments of ``amint.attach`` that differ.
        averaged: share of the old in a running average of all weights, which is what is judged; 0 for none.
        finish: what is done with the network and its head after training, before calibration.
        judged: the figures of the finished audit.
    """

    change: Mapping[str, Any] | None = None
    balance: Callable[[], Balances] | None = None
    attach: Mapping[str, Any] | None = None
    averaged: float = 0.0
    finish: Callable[[Settings, Parts, amint.Auditable], amint.Audit] | None = None
    judged: Callable[[Parts, amint.Audit], Mapping[str, Measurement]] | None = None

    def __call__(self, use: Settings, data: Pool) -> Figures:
        """The figures with these settings and this data."""
        use, most = replace(use, **(self.change or {})), use.external
        # Drawn with the most external rows, so that members and unseen rows are the same in every line.
        parts = Parts.of(replace(use, external=most), data)
        parts = replace(parts, external=parts.external.take(parts.external.numbers[: use.external]))
        model = parts.network(use)
        balance = None if self.balance is None else self.balance()
        trained = attached(use, parts, model, balance, **(self.attach or {}))
        train(model, parts.members, use, parts.augment, trained, self.averaged)
        audit = trained if self.finish is None else self.finish(use, parts, trained)
        audit.calibrate(parts.calibration)
        measured = audit.evaluate(parts.members, parts.unseen) if self.judged is None else self.judged(parts, audit)
        return figures_of(accuracy(model, parts.unseen), parts.unseen.n, measured)


def registered(use: Settings, data: Pool) -> Figures:
    """The network trained without any audit, and a head trained afterwards."""
    parts = Parts.of(use, data)
    model = parts.network(use)
    train(model, parts.members, use, parts.augment)
    told = parts.members.shuffled(use.batch)
    audit = amint.register(model, told, epochs=use.epochs, lr=use.head_lr, **head_of(use, parts))
    audit.calibrate(parts.calibration)
    measured = audit.evaluate(parts.members, parts.unseen)
    return figures_of(accuracy(model, parts.unseen), parts.unseen.n, measured)


def figures_of(right: float, n: int, measured: Mapping[str, Measurement]) -> Figures:
    """The accuracy on ``n`` rows and what was measured."""
    interval = clopper_pearson(round(right * n), n)
    found = {key: measured[key] for key in KEYS[1:]}
    return {"accuracy": (right, interval.low, interval.high)} | {
        key: (one.value, one.interval.low, one.interval.high) for key, one in found.items()
    }


def repeated(lines: Mapping[str, Line], use: Settings, data: Pool, seeds: int, out: Path) -> dict[str, Figures]:
    """Means over the seeds, line by line; every run is written when it is done, and not done again after a kill.

    Raises SystemExit where ``out`` holds runs of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    about = {name: str(value) for name, value in asdict(use).items() if name not in ("seed", "seeds", "only", "out")}
    journal, runs = out / "runs.jsonl", list[dict[str, Any]]()
    if journal.exists():
        earlier, *runs = (json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines())
        if earlier != about:
            raise SystemExit(f"{journal} holds runs with other settings; pass another --out, or remove it")
    else:
        journal.write_text(json.dumps(about) + "\n", encoding="utf-8")
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(use.seed, use.seed + seeds):
        for name, line in lines.items():
            if (name, seed) not in done:
                runs.append({"name": name, "seed": seed, **line(replace(use, seed=seed), data)})
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    wanted = [run for run in runs if use.seed <= run["seed"] < use.seed + seeds]
    return {name: mean([run for run in wanted if run["name"] == name]) for name in lines}


def mean(runs: Sequence[Mapping[str, Any]]) -> Figures:
    """The mean of every figure, from the lowest to the highest end of the runs' intervals."""
    found = {key: np.array([run[key] for run in runs], np.float64) for key in KEYS}
    return {key: (float(v[:, 0].mean()), float(v[:, 1].min()), float(v[:, 2].max())) for key, v in found.items()}


def show(title: str, found: Mapping[str, Figures]) -> None:
    """The lines as a table."""
    table = Table("", "accuracy", "balanced\naccuracy", "AUROC", "TPR at\n1 %", "TPR at\n0.1 %", title=title)
    for name, figures in found.items():
        table.add_row(name, *("{:.3f}\n{:.2f}–{:.2f}".format(*figures[key]) for key in KEYS))
    Console().print(table)
