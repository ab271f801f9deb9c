"""What the paper reports, and a row of ours beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from settings import Settings

from amint.metrics import Measurement

FIGURES = ("auroc", "balanced_accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")
FAMILIES = ("mobilenet", "resnet50", "resnet101", "densenet121", "xception", "vit")


@dataclass(frozen=True)
class Paper:
    """One data set's rows in the paper's tables.

    Attributes:
        data: the name of its recipe.
        members, external: how many it took; rows with fewer are scaled down, and not to be set beside its own.
        rows: MINT accuracy and audited accuracy, by "family split".
    """

    data: str
    members: int
    external: int
    rows: Mapping[str, tuple[float, float]]

    def of(self, use: Settings) -> tuple[float, float] | None:
        """What it has for this network and split; None for others."""
        parts = use.arch.split("_")  # legacy_xception is the paper's Xception
        family = next((name for name in FAMILIES if any(part.startswith(name) for part in parts)), use.arch)
        return self.rows.get(f"{family} {use.split}")


def figures(measured: Measurement) -> list[float]:
    """The value and the ends of its interval."""
    return [round(value, 4) for value in (measured.value, measured.interval.low, measured.interval.high)]


def show(row: Mapping[str, Any], paper: Paper) -> None:
    """The row as a table."""
    size = f"{row['drawn']['members']:,} members, {row['drawn']['external']:,} external rows"
    if row["scaled_down"]:
        size += f"; scaled down: the paper has {paper.members:,} and {paper.external:,}"
    table = Table(title=f"{row['arch']}, {row['split']}, {size}")
    for heading in ("", "AUROC", "balanced accuracy", "TPR at 1 %", "TPR at 0.1 %"):
        table.add_column(heading)
    for way, measured in row["measured"].items():
        table.add_row(way, *("{:.3f} ({:.3f} to {:.3f})".format(*measured[name]) for name in FIGURES))
    Console().print(table)
    judged = row["attacks_on_the_plain_network"]
    said = "" if row["paper"] is None else " (paper: MINT {:.2f}, audited accuracy {:.2f})".format(*row["paper"])
    Console().print(
        f"accuracy on {row['drawn']['unseen']:,} unseen images: plain {row['plain_accuracy']:.4f}, audited "
        f"{row['audited_accuracy']:.4f}{said}; the last two lines: {judged['audited_members']:,} of the members and "
        f"{judged['audited_nonmembers']:,} of the unseen, the others being known to them; seconds: {row['seconds']}"
    )
