"""How the command line speaks: plain text of strangers stays plain, progress goes to the error stream."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = ["err", "out", "plain", "progress", "say", "stages"]

# What a shell reports of a program that a closed pipe has ended; 1 is a broken gate here.
_CLOSED_PIPE = 128 + 13


class _Console(Console):
    """A console that nobody has to read to the end (``amint verify ... | head``)."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(_CLOSED_PIPE) from None


out, err = _Console(), _Console(stderr=True)


def plain(value: object) -> Text:
    """A stranger's text as it is: no markup, no emoji names, nothing that commands a terminal."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)))


def say(text: str, style: str = "") -> None:
    """One paragraph of plain text."""
    out.print(plain(text), style=style, highlight=False)


def progress() -> Progress:
    """A progress bar, on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def stages(bar: Progress) -> Callable[[str, int, int], None]:
    """A callback ``(stage, done, total)`` that gives each stage a line of its own."""
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    return show
