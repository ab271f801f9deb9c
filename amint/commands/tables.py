"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from amint.commands import console
from amint.evidence import Verdict, by_rank

if TYPE_CHECKING:
    from amint.bundle import Bundle

__all__ = ["bundle_table", "demo_table", "verdict_table"]

_METHODS = {"active": "active MINT", "registered": "registered afterwards", "passive": "passive MINT"}
_FIGURES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "tpr_at_fpr_0.01": "TPR at 1 % FPR"}


def demo_table(results: Mapping[str, Any]) -> Table:
    """The three heads of the demo, each figure above its 95 % interval."""
    table = Table("", *_FIGURES.values(), title="Members against unseen images (95 % intervals)")
    for key, name in _METHODS.items():
        cells = []
        for figure in _FIGURES:
            low, high = results["intervals"][key][figure]
            cells.append(Text.assemble(f"{results[key][figure]:.3f}", (f"\n{low:.3f}–{high:.3f}", "dim")))
        table.add_row(name, *cells)
    return table


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


def bundle_table(held: Bundle) -> Table:
    """What a bundle holds, line by line."""
    manifest, known, architecture = held.manifest, held.calibration, held.architecture
    sizes = [sum(t.numel() for t in weights.values()) for weights in (held.model_weights, held.head_weights)]
    rows = {
        "bundle SHA-256": held.sha256,
        "weights SHA-256": manifest["files"]["model.safetensors"],
        "created": manifest["created"],
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest["libraries"].items()),
        "model": "passed by the caller",
        "parameters": f"{sizes[0]:,} in the model, {sizes[1]:,} in the MINT head",
        "taps": ", ".join(f"{p.name} {p.shape} at {p.cost:.1%} of the forward cost" for p in held.points),
        "input": " x ".join(map(str, held.input_shape)),
        "preprocessing": held.preprocessing or "none: only tensors can be verified",
        "calibration": f"{len(known.scores)} non-members; smallest p-value of one sample {known.smallest_p:.2g}",
    }
    if architecture is not None:
        rows["model"] = f"{architecture.library}/{architecture.name} {dict(architecture.arguments)}"
    told = {name: value for name, value in manifest["facts"].items() if name != "history"}
    if len(told) < len(manifest["facts"]):
        told["history"] = "curves of the training, which --report draws"
    table = Table(Column(), Column(overflow="fold"), title=console.plain(held.path), show_header=False)
    for name, value in (rows | {f"training: {name}": value for name, value in told.items()}).items():
        table.add_row(console.plain(name), console.plain(value))
    return table
