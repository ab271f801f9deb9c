"""Figures over several seeds: means, and paired differences from the first line of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lines import KEYS, Figures, Interval
from rich.console import Console
from rich.table import Table
from scipy.stats import t


def means(found: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """The mean over the seeds with its interval: that of the one run, or at 95 % by the spread of several.

    Seeds draw other members, but unseen rows from the same test images: of what comes with those, the spread shows only
    a part. Where several runs do not differ at all, as at 1.000, the interval is the widest of their own.
    """
    return {name: {key: _mean([run[key] for run in runs]) for key in KEYS} for name, runs in found.items()}


def differences(found: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """By how much the lines differ from the first, seed by seed: the mean and its interval; nothing with one seed."""
    (_, first), *others = found.items()
    if len(first) == 1:
        return {}
    pairs = {name: list(zip(runs, first, strict=True)) for name, runs in others}
    return {
        name: {key: _interval([run[key][0] - base[key][0] for run, base in both]) for key in KEYS}
        for name, both in pairs.items()
    }


def _mean(runs: Sequence[Interval]) -> Interval:
    values, lows, highs = zip(*runs, strict=True)
    if max(values) == min(values):
        return values[0], min(lows), max(highs)
    value, low, high = _interval(values)
    return value, max(low, 0.0), min(high, 1.0)


def _interval(values: Sequence[float]) -> Interval:
    """The mean and the ends of Student's 95 % interval."""
    k = len(values)
    middle, half = float(np.mean(values)), float(t.ppf(0.975, k - 1) * np.std(values, ddof=1) / k**0.5)
    return middle, middle - half, middle + half


def show(title: str, found: Mapping[str, Sequence[Figures]], out: Path) -> dict[str, Figures]:
    """The lines as a table, saved beside it as JSON; the means."""
    middle, apart = means(found), differences(found)
    said = f"{title}; with several seeds, second lines: against the first line" if apart else title
    table = Table("", "accuracy", "balanced\naccuracy", "AUROC", "TPR at\n1 %", "TPR at\n0.1 %", title=said)
    for name, figures in middle.items():
        cells = ["{:.3f}\n{:.2f}–{:.2f}".format(*figures[key]) for key in KEYS]
        if name in apart:
            halves = {key: high - value for key, (value, _, high) in apart[name].items()}
            cells = [f"{figures[key][0]:.3f}\n{apart[name][key][0]:+.3f} ±{halves[key]:.3f}" for key in KEYS]
        table.add_row(name, *cells)
    Console().print(table)
    saved = {name: {**figures, "against_the_first": apart.get(name)} for name, figures in middle.items()}
    out.write_text(json.dumps(saved, indent=1), encoding="utf-8")
    return middle
