"""A comparison of attacks as one HTML file: the sentence, the table, the curves, the controls, what each attack is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from amint.attack_figures import succeeds
from amint.attack_results import COMPARISON_SCHEMA, METRICS, TRAINED_IN, AttackControl, AttackResult, Comparison
from amint.gate import GateResult
from amint.metrics import LOW_FPRS, tpr_name
from amint.report import _write
from amint.report.curves import MOST_CURVES, log_roc

__all__ = ["write_comparison_report"]

_LONGEST_LABEL = 28
_HEADS = {"auroc": "AUROC", "balanced_accuracy": "Balanced accuracy"} | {
    tpr_name(fpr): f"Found at {100 * fpr:g} % false alarms" for fpr in LOW_FPRS
}


def write_comparison_report(comparison: Comparison, path: str | Path, gate: GateResult | None = None) -> Path:
    """Write a comparison as one self-contained HTML file.

    Args:
        comparison: what :func:`amint.compare` found.
        path: the file to write; its folder is made if need be.
        gate: what the release gate said of it, if there is one.
    """
    ranked = comparison.ranked
    outsiders = [result for result in ranked if result.family != TRAINED_IN]
    strongest = next(iter(outsiders or ranked), None)
    return _write(
        path,
        "comparison.html.j2",
        comparison=comparison,
        schema=COMPARISON_SCHEMA,
        sentence=_whole(comparison.sentence()),
        epsilon_sentence=_whole(comparison.epsilon_sentence()),
        notes=[_whole(note) for note in comparison.notes],
        gate=gate,
        gate_sentence="" if gate is None else _whole(gate.sentence()),
        strongest=strongest,
        trained_in=next((result for result in ranked if result.family == TRAINED_IN), None),
        clear=bool(comparison.warning()) or succeeds(ranked),
        metrics=[(name, _HEADS[name]) for name in METRICS],
        figures=list(_figures(comparison)),
        controls=_controls(comparison),
        kinds=list(dict.fromkeys(control.kind for control in comparison.controls)),
        marked=[(r.name, m) for r in ranked for m in r.measurements if m.note],
    )


def _figures(comparison: Comparison) -> Iterator[tuple[str, Markup]]:
    """Title and figure: the strongest of each family, then each family of several by itself."""
    families: dict[str, list[AttackResult]] = {}
    for result in comparison.ranked:
        families.setdefault(result.family, []).append(result)
    if len(families) > 1:
        best = [results[0] for results in families.values()]
        yield "The strongest of each kind", _drawn("best", "the strongest attack of each kind", best[:MOST_CURVES])
    for number, (family, results) in enumerate(families.items()):
        if len(results) == 1 and len(families) > 1:
            continue
        for start in range(0, len(results), MOST_CURVES):
            some = results[start : start + MOST_CURVES]
            more = ", continued" if start else ""
            yield f"{family.capitalize()}{more}", _drawn(f"roc{number}-{start}", f"attacks of the kind {family}", some)


def _drawn(name: str, what: str, results: Sequence[AttackResult]) -> Markup:
    measured = results[0]["auroc"]
    curves = {_label(result.name): (result.roc, _in_words(result)) for result in results}
    smallest = 1 / measured.n_nonmembers, 1 / measured.n_members
    return log_roc(name, f"ROC curves of {what}: members found against false alarms", curves, smallest)


def _in_words(result: AttackResult) -> str:
    found = ", ".join(f"{100 * result[tpr_name(fpr)].value:.1f} % at {100 * fpr:g} %" for fpr in LOW_FPRS)
    return f"AUROC {result['auroc'].value:.3f}; members found at a false-alarm rate of: {found}."


def _controls(comparison: Comparison) -> list[tuple[str, list[AttackControl | None]]]:
    """Attack -> its control of each kind, in the kinds' order."""
    kinds = list(dict.fromkeys(control.kind for control in comparison.controls))
    found = {(control.attack, control.kind): control for control in comparison.controls}
    return [(result.name, [found.get((result.name, kind)) for kind in kinds]) for result in comparison.ranked]


def _label(name: str) -> str:
    """A name that fits into a legend; matplotlib leaves out labels that begin with an underscore."""
    shown = _whole(name)
    short = shown if len(shown) <= _LONGEST_LABEL else f"{shown[: _LONGEST_LABEL - 1]}…"
    return f" {short}" if short.startswith("_") else short


def _whole(text: str) -> str:
    """No character that is invisible or cannot be encoded, and nothing cut off: attacks may be called anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
