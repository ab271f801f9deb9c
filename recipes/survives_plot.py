"""The plot of survives.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from changes import CHANGES

LOOKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#6b7280", "D"))
KINDS = ("one by one", "sets of 20")
GROUPS = ("members", "unseen")


def draw(shares: dict[str, Any], path: Path) -> None:
    """Share of members found (filled) and of unseen images (hollow), by change and way to find them."""
    figure, both = plt.subplots(2, 1, figsize=(7.5, 5.5), sharex=True, layout="constrained")
    for axes, kind in zip(both, KINDS, strict=True):
        for number, (head, (colour, mark)) in enumerate(zip(shares, LOOKS, strict=True)):
            for group, face in zip(GROUPS, (colour, "white"), strict=True):
                at = [place + 0.18 * (number - 1.5) for place in range(len(CHANGES))]
                values = [shares[head][change][group][kind] for change in CHANGES]
                axes.plot(at, values, mark, color=colour, markerfacecolor=face, label=f"{head}: {group}")
        axes.set(ylabel=f"share found, {kind}", ylim=(-0.04, 1.04))
        axes.grid(axis="y", color="#e5e7eb")
    both[1].set_xticks(range(len(CHANGES)), list(CHANGES))
    both[0].legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
