"""A table of the paper beside ours, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

MINT = ("MINT\nbalanced", "AUROC", "TPR\n1 %", "TPR\n0.1 %")
HEADINGS = ("", "plain", "audited", *MINT, "regis-\ntered\nTPR 1 %", "hash\nlist\nTPR 1 %")


def show(data: str, rows: Sequence[Mapping[str, Any]], wanted: int) -> None:
    """Rows of one size one below the other; those of the paper's size have its figures below their own."""
    size = {f"{row['drawn']['members']:,} members{' (scaled down)' if row['scaled_down'] else ''}" for row in rows}
    said = [f"{len(rows)} of {wanted} rows", *sorted(size)]
    if not all(row["scaled_down"] for row in rows):
        said.append("second lines: the paper")
    # Narrow enough for 80 columns: where it is narrower still, names of networks are folded, figures never cut.
    table = Table(title=f"{data}: {'; '.join(said)}", box=SIMPLE_HEAD, padding=0)
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, no_wrap=place > 0, overflow="fold")
    for row in rows:
        measured, paper = row["measured"], None if row["scaled_down"] else row["paper"]
        active = measured["active MINT"]
        own = [row["plain_accuracy"], row["audited_accuracy"], active["balanced_accuracy"][0], active["auroc"][0]]
        own += [active[f"tpr_at_fpr_{fpr}"][0] for fpr in ("0.01", "0.001")]
        own += [measured[way]["tpr_at_fpr_0.01"][0] for way in ("registered", "hash register")]
        theirs = ["", *(f"{figure:.2f}" for figure in (paper or ())[::-1])]
        theirs += [""] * (len(own) - len(theirs))
        table.add_row(f"{row['arch']}\n{row['split']}", *(f"{a:.3f}\n{b}" for a, b in zip(own, theirs, strict=True)))
    Console().print(table)
