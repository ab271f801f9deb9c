"""``amint attack``: compare attacks on a bundle's model, print and write what they found, hold it against a gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.table import Column, Table
from rich.text import Text
from torch import nn

from amint.attack_results import AttackResult, Comparison
from amint.attacks import registry
from amint.audit import Audit
from amint.commands import console
from amint.comparison import compare
from amint.errors import UsageError
from amint.fleet import DESIGN, Fleet, no_fleet
from amint.gate import GateResult, check_gate, parse_limit
from amint.gathering import Progress
from amint.loading import load
from amint.metrics import Measurement, tpr_name
from amint.readers.labelled import labelled_pair
from amint.report.comparison import write_comparison_report
from amint.targets import ClassifierTarget

__all__ = ["Outcome", "run_attack", "table_of", "tell"]

# Heading -> metric, or "" for what is no metric.
_HEADS = {
    "AUROC": "auroc",
    "bal. acc.": "balanced_accuracy",
    "TPR 10 %": tpr_name(0.1),
    "TPR 1 %": tpr_name(0.01),
    "TPR 0.1 %": tpr_name(0.001),
    "eps ≥": "",
    "passes": "",
    "seconds": "",
}
_BY_IMPORTANCE = ("AUROC", "TPR 1 %", "eps ≥", "TPR 0.1 %", "bal. acc.", "TPR 10 %", "passes", "seconds")
_CELL = 10


@dataclass(frozen=True)
class Outcome:
    """What there is to print.

    Attributes:
        comparison: the result.
        gate: None without limits.
        rejected: how many files could not be read.
        paths: what was written.
    """

    comparison: Comparison
    gate: GateResult | None
    rejected: int
    paths: tuple[Path, ...]


def run_attack(
    target: Path,
    members: Path,
    nonmembers: Path,
    *,
    attacks: Sequence[str],
    references: Path | None,
    out: Path,
    fail_above: Sequence[str],
    seed: int,
    allow_import: Sequence[str],
    progress: Progress,
) -> Outcome:
    """Everything but the printing; see :func:`amint.cli.attack`.

    Raises:
        AmintError: unusable input.
    """
    # What was typed is checked before anything is computed.
    limits = [parse_limit(text) for text in fail_above]
    asked = "all" if list(attacks) == ["all"] else [registry.canonical(name) for name in attacks]
    audit = load(target, allow_import=allow_import)
    preprocessing = None if audit.bundle is None else audit.bundle.preprocessing
    inside, outside = labelled_pair(
        members, nonmembers, preprocessing, audit.input_shape, lambda: _count_classes(audit)
    )
    fleet = None if references is None else _fleet(references, audit, allow_import)
    out.mkdir(parents=True, exist_ok=True)
    comparison = compare(
        audit, inside, outside, attacks=asked, fleet=fleet, seed=seed, cache=out / "signals", progress=progress
    )
    gate = check_gate(comparison, limits) if limits else None
    paths = (*comparison.write(out), write_comparison_report(comparison, out / "report.html", gate))
    return Outcome(comparison, gate, len(inside.rejected) + len(outside.rejected), paths)


def tell(done: Outcome) -> int:
    """Print it; the exit status."""
    found, gate = done.comparison, done.gate
    if found.warning():
        console.say(found.warning(), style="bold red")
    if found.ranked:
        console.out.print(table_of(found, console.out.width))
    for reason in dict.fromkeys(result.reason for result in found.not_run):
        names = ", ".join(result.name for result in found.not_run if result.reason == reason)
        console.say(f"{names} could not run: {reason}", style="dim")
    console.say(found.sentence(), style="bold")
    for line in (found.epsilon_sentence(), *found.notes):
        console.say(line)
    if done.rejected:
        console.say(f"Left out, because they could not be read: {done.rejected} of the files.")
    if gate is not None:
        console.say(gate.sentence(), style="bold" if gate.passed else "bold red")
    console.say(f"Wrote {', '.join(map(str, done.paths))}.")
    if gate is not None and not gate.passed:
        return 1
    return 0 if found.ranked else 2


def table_of(comparison: Comparison, width: int) -> Table:
    """The figures for a terminal of this width, strongest attack first; what does not fit is in the files."""
    name_width = max(len("attack"), *(len(_plain(result.name)) for result in comparison.ranked))
    room = max(1, (width - name_width - 4) // _CELL)
    shown = [head for head in _HEADS if head in _BY_IMPORTANCE[:room]]
    columns = [Column(head, justify="right", no_wrap=True) for head in shown]
    table = Table(Column("attack", overflow="fold"), *columns, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for result in comparison.ranked:
        cells = _cells(result)
        table.add_row(Text(_plain(result.name)), *(cells[head] for head in shown))
    starred = [m for result in comparison.ranked[:1] for m in result.measurements if m.note]
    more = ["all figures are in comparison.csv"] if len(shown) < len(_HEADS) else []
    table.caption = "; ".join([*(f"*: {measured.note}" for measured in starred[:1]), *more]) or None
    return table


def _cells(result: AttackResult) -> dict[str, Text]:
    figures = {head: _figure(result[metric]) for head, metric in _HEADS.items() if metric}
    return figures | {
        "eps ≥": Text("" if result.epsilon is None else f"{result.epsilon.value:.2f}"),
        "passes": Text(str(result.forward_passes)),
        "seconds": Text(f"{result.seconds:.1f}"),
    }


def _figure(measured: Measurement) -> Text:
    """A value, marked where it cannot be taken at face value, above its interval."""
    mark = "*" if measured.note else ""
    interval = f"{measured.interval.low:.2f}–{measured.interval.high:.2f}"
    return Text.assemble(f"{measured.value:.3f}{mark}", (f"\n{interval}", "dim"))


def _count_classes(audit: Audit) -> int:
    return ClassifierTarget(audit.backbone).count_classes(torch.zeros(2, *audit.input_shape))


def _fleet(path: Path, audit: Audit, allow_import: Sequence[str]) -> Fleet:
    architecture = None if audit.bundle is None else audit.bundle.architecture
    if architecture is None:
        raise UsageError(
            "the bundle does not say how its model is built, so that the reference models cannot be built either; save "
            "it with architecture=, or use amint.compare(..., fleet=Fleet.load(path, make_module))"
        )
    try:
        backbone = str(json.loads((path / DESIGN).read_bytes())["backbone"])
    except FileNotFoundError:
        raise no_fleet(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"there is no readable fleet of references in {path}: {error}") from error
    return Fleet.load(path, _module_with(backbone, lambda: architecture.build(allow_import)))


def _module_with(place: str, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Makes a module that holds a network where the fleet's training module held it."""

    def make() -> nn.Module:
        module = build()
        for name in reversed([part for part in place.split(".") if part]):
            outer = nn.Module()
            outer.add_module(name, module)
            module = outer
        return module

    return make


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
