"""Figures over several seeds: means, and paired differences from the first line of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lines import KEYS, Figures
from rich.console import Console
from rich.table import Table
from scipy.stats import t


def means(found: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """The mean over the seeds and its interval: that of the one run, or at 95 % by the spread of several."""
    return {
        name: dict(runs[0]) if len(runs) == 1 else _over([_values(run) for run in runs]) for name, runs in found.items()
    }


def differences(found: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """By how much each line differs from the first, seed by seed: the mean and its interval; nothing with one seed."""
    first, *_ = found.values()
    if len(first) == 1:
        return {}
    pairs = {name: zip(runs, first, strict=True) for name, runs in found.items()}
    return {name: _over([_values(run) - _values(base) for run, base in both]) for name, both in pairs.items()}


def _values(run: Figures) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([run[key][0] for key in KEYS])


def _over(seeds: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> Figures:
    """Means and Student's 95 % intervals."""
    held, k = np.array(seeds), len(seeds)
    middle, half = held.mean(0), t.ppf(0.975, k - 1) * held.std(0, ddof=1) / k**0.5
    return {key: (float(m), float(m - h), float(m + h)) for key, m, h in zip(KEYS, middle, half, strict=True)}


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
