"""A verdict as a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Column, Table
from rich.text import Text

from amint.commands import console
from amint.evidence import Verdict, by_rank

__all__ = ["verdict_table"]


def verdict_table(verdict: Verdict, most: int) -> Table:
    """The ``most`` most suspicious files."""
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("score", "p", "adjusted")]
    table = Table(Column("file", overflow="fold"), *numbers, Column("verdict", no_wrap=True), box=box.SIMPLE)
    for item in by_rank(verdict.items)[:most]:
        name = Text.assemble(console.plain(item.path), (f"\n{console.plain(item.note)}" if item.note else "", "dim"))
        score = "" if item.score is None else f"{item.score:.3f}"
        p_values = ["" if p is None else f"{p:.2g}" for p in (item.p_value, item.adjusted)]
        table.add_row(name, score, *p_values, item.decision)
    if len(verdict.items) > most:
        table.caption = f"{most} of {len(verdict.items)} files, the most suspicious first; all are in verdict.csv"
    return table
