"""An audit bundle as one HTML file: how the model was made auditable, and what is known of how well that worked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amint.bundle import Bundle
from amint.bundle_words import METHODS, UPDATES, preprocessing_words, settings
from amint.errors import BundleError, UsageError
from amint.facts import task_facts
from amint.findings import Control
from amint.history import Curves
from amint.report import _write, parts
from amint.report.progress import progress_figures

__all__ = ["write_bundle_report"]

_MADE = {
    "active": "A MINT head was trained along with this model",
    "registered": "After its own training, a MINT head was trained on this model",
}
_ROLES = {
    "members": "the MINT head was told that the model was trained on them",
    "external": "like the members; shown to the MINT head as not trained on",
    "calibration": "nothing was trained on them; they turn scores into p-values",
}


def write_bundle_report(bundle: Bundle, path: str | Path) -> Path:
    """Write what a bundle holds about its training as one self-contained HTML file; what it lacks is left out.

    Args:
        bundle: from :func:`amint.bundle.read`.
        path: the file to write; its folder is made if need be.

    Raises:
        BundleError: the facts of the bundle are not what amint writes.
    """
    facts = bundle.manifest["facts"]
    try:
        values = _values(bundle, facts)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the facts of {bundle.path} are not what amint writes: {error}") from error
    return _write(path, "bundle.html.j2", **values)


def _values(bundle: Bundle, facts: Mapping[str, Any]) -> dict[str, Any]:
    curves = Curves.from_json(facts["history"]) if "history" in facts else None
    commitment = facts.get("commitment") or {}
    method, members = str(facts.get("method", "unknown")), _count(facts, "members_seen")
    steps = _count(facts, "steps") if curves is None else curves.steps
    return {
        "sentence": _sentence(method, members, steps, _count(facts, "head_epochs"), bundle),
        "method": METHODS.get(method, method),
        "steps": steps,
        "members": members,
        "roles": _roles(bundle, members, commitment),
        "task": task_facts(**facts["task"]) if "task" in facts else {},
        "auroc": _auroc(facts.get("evaluation")),
        "evaluation": parts.evaluation(facts.get("evaluation")),
        "updates": {name: n for name in UPDATES if (n := _count(facts, name)) is not None},
        "update_kinds": UPDATES,
        "controls": [_control(found) for found in facts.get("controls", ())],
        "curves": curves,
        "figures": {} if curves is None else progress_figures(curves),
        "settings": settings(facts),
        "preprocessing": preprocessing_words(bundle.preprocessing, "×"),
        "bundle": bundle,
        "manifest": bundle.manifest,
        "sizes": [sum(t.numel() for t in weights.values()) for weights in (bundle.model_weights, bundle.head_weights)],
        "root": str(commitment["root"]) if commitment else None,
    }


def _sentence(method: str, members: int | None, steps: int | None, head_epochs: int | None, bundle: Bundle) -> str:
    made = _MADE.get(method, "A MINT head reads this model")
    told = "" if members is None else f", told of {members:,} members"
    over = "" if steps is None else f" over {steps:,} steps"
    if head_epochs:
        over += f", then alone for {head_epochs:,} pass{'es' if head_epochs > 1 else ''} over the members"
    known = bundle.calibration
    return (
        f"{made}{over}{told}. {len(known.scores):,} known non-members turn its scores into p-values, the smallest of "
        f"which is {known.smallest_p:.2g} for one sample."
    )


def _roles(
    bundle: Bundle, members: int | None, commitment: Mapping[str, Any]
) -> list[tuple[str, str, int | None, int | None]]:
    """Role, what it is, number of distinct samples seen and of samples committed to."""
    seen = {
        "members": members,
        "external": bundle.training.external,
        "calibration": len(bundle.calibration.scores),
    }
    counts = commitment.get("counts", {})
    return [(role, kind, seen[role], _count(counts, role)) for role, kind in _ROLES.items()]


def _control(found: Mapping[str, Any]) -> Control:
    control = Control(**found)
    if control.outcome not in ("passed", "failed", "not checked"):
        raise ValueError(f"a control has the outcome {control.outcome!r}")
    return Control(str(control.name), control.outcome, str(control.sentence))


def _auroc(evaluation: Any) -> tuple[float, float, float] | None:
    if not evaluation:
        return None
    found = evaluation["auroc"]
    return float(found["value"]), float(found["low"]), float(found["high"])


def _count(counts: Mapping[str, Any], name: str) -> int | None:
    value = counts.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise UsageError(f"{name} is {value!r} instead of a number of them")
    return value
