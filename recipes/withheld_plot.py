"""The plot of withheld.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

MARKS = {"head": ("o", "#0072b2"), "confidence": ("^", "#d55e00"), "loss": ("v", "#009e73")}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """AUROC of declared members by the head, and of withheld ones by every signal, with intervals, case by case."""
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    series = [("declared", "head", "white"), *(("withheld", name, None) for name in MARKS)]
    for number, (group, name, face) in enumerate(series):
        value, low, high = np.array([row[group][name] for row in rows]).T
        at, reach, label = np.arange(len(rows)) + 0.12 * (number - 1.5), [value - low, high - value], f"{group}: {name}"
        axes.errorbar(at, value, reach, fmt=MARKS[name][0], color=MARKS[name][1], markerfacecolor=face, label=label)
    axes.axhline(0.5, color="#6b7280", linewidth=0.9)
    axes.set_xticks(range(len(rows)), [row["case"].replace(", ", "\n") for row in rows], fontsize=8)
    axes.set_ylabel("AUROC against unseen images")
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
