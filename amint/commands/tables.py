"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from amint.bundle_words import (
    METHODS,
    UPDATES,
    architecture_words,
    evaluation_rows,
    preprocessing_words,
    settings,
)
from amint.commands import console
from amint.commitments import commitment_sentence
from amint.evidence import Verdict, by_rank

if TYPE_CHECKING:
    from amint.bundle import Bundle

__all__ = ["bundle_table", "demo_table", "verdict_table"]

_FIGURES = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy", "tpr_at_fpr_0.01": "TPR at 1 % FPR"}


def demo_table(results: Mapping[str, Any]) -> Table:
    """The three heads of the demo, each figure above its 95 % interval."""
    table = Table("", *_FIGURES.values(), title="Members against unseen images (95 % intervals)")
    for key, name in METHODS.items():
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
    if verdict.single:
        table.caption = "adjusted: of all kinds of evidence, by Holm, of which the score is one"
    if len(verdict.items) > most:
        table.caption = f"{most} of {len(verdict.items)} files, the most suspicious first; all are in verdict.csv"
    return table


def bundle_table(held: Bundle) -> Table:
    """What a bundle holds, line by line."""
    manifest, known = held.manifest, held.calibration
    sizes = [sum(t.numel() for t in weights.values()) for weights in (held.model_weights, held.head_weights)]
    rows = [
        ("bundle SHA-256", held.sha256),
        ("signature", held.signature.sentence()),
        ("weights SHA-256", manifest["files"]["model.safetensors"]),
        ("created", manifest["created"]),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest["libraries"].items())),
        ("model", "passed by the caller" if held.architecture is None else architecture_words(held.architecture)),
        ("weights and statistics", f"{sizes[0]:,} numbers in the model, {sizes[1]:,} in the MINT head"),
        ("taps", ", ".join(f"{p.name} ({_sides(p.shape)}) at {p.cost:.1%} of the forward cost" for p in held.points)),
        ("input", _sides(held.input_shape)),
        ("preprocessing", preprocessing_words(held.preprocessing)),
        ("calibration", f"{len(known.scores)} non-members; smallest p-value of one sample {known.smallest_p:.2g}"),
        *_told(manifest["facts"]),
    ]
    table = Table(Column(), Column(overflow="fold"), title=console.plain(held.path), show_header=False)
    for name, value in rows:
        table.add_row(console.plain(name), console.plain(value))
    return table


def _told(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of the training, of how well it worked, and of what the owner promised before."""
    if "method" in facts:
        yield "training: method", METHODS.get(facts["method"], facts["method"])
    updates = {f"updates of the model, {kind}": name for name, kind in UPDATES.items()}
    for label, name in ({"steps": "steps", "different members": "members_seen"} | updates).items():
        if name in facts:
            yield f"training: {label}", f"{facts[name]:,}"
    yield from ((f"training: {label}", value) for label, value in settings(facts))
    if "history" in facts:
        yield "training: history", "curves of the training, which --report draws"
    for name, share in facts.get("task", {}).items():
        yield f"task: {name.replace('_', ' ')}", f"{share:.1%}".replace("%", " %")
    yield from ((f"evaluation: {name}", value) for name, value in evaluation_rows(facts.get("evaluation")))
    for control in facts.get("controls", ()):
        yield f"control: {control['name']}", f"{control['outcome']}: {control['sentence']}"
    if "commitment" in facts:
        yield "commitment, Merkle root", facts["commitment"]["root"]
    yield "commitment", commitment_sentence(facts)


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
