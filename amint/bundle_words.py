"""What a bundle holds, in words: the labels and values that a terminal and a page show alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from amint.architecture import Architecture
from amint.metrics import fpr_note
from amint.preprocessing import Preprocessing

__all__ = ["METHODS", "UPDATES", "architecture_words", "evaluation_rows", "preprocessing_words", "settings"]

METHODS = {"active": "active MINT", "registered": "registered afterwards", "passive": "passive MINT"}
UPDATES = {
    "accounted_updates": "with the head",
    "unaccounted_updates": "without the head",
    "replaced_weights": "weights from elsewhere",
}
_AT = "tpr_at_fpr_"
_SETTINGS = {
    "balance": "Balance of the two losses",
    "trunk_gradient": "Share of the MINT gradient that enters the model",
    "ratio": "External rows a member row",
    "negatives": "Hard negatives",
    "negatives_of_members": "Hard negatives made of members, too",
    "tolerance": "Changes under which members are known still",
    "epochs": "Passes over the members",
    "head_epochs": "Passes of the head alone, after training",
    "members_of_head_alone": "Members that the head alone was the first to be shown as they are",
    "lr": "Learning rate of the head",
    "by_class": "Compared within the predicted class",
    "calibration_copies": "Repeated calibration rows left out",
    "evaluated_members_unknown": "Members evaluated that the head was not told of, as they are",
}
_SHOWN_ELSEWHERE = {
    "method",
    "steps",
    "members_seen",
    "history",
    "task",
    "evaluation",
    "controls",
    "commitment",
    "commitment_use",
}


def settings(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and value of the facts that have no words of their own, what amint knows first."""
    known = {name: facts[name] for name in _SETTINGS if facts.get(name) is not None}
    named = _SHOWN_ELSEWHERE | set(_SETTINGS) | set(UPDATES)
    others = {name: value for name, value in facts.items() if name not in named}
    return [(_SETTINGS.get(name, name), _text(value)) for name, value in (known | others).items()]


def evaluation_rows(figures: Any) -> list[tuple[str, str]]:
    """Name and value of each figure that the owner measured; a bundle can hold anything in its place."""
    if not isinstance(figures, Mapping):
        return []
    level = figures.get("alpha")
    return [(_figure_name(name, level), _figure(name, found)) for name, found in figures.items() if name != "alpha"]


def architecture_words(architecture: Architecture) -> str:
    """Such as "timm/resnet18 with num_classes=10"."""
    named = ", ".join(f"{name}={value}" for name, value in architecture.arguments.items())
    return f"{architecture.library}/{architecture.name}{' with ' if named else ''}{named}"


def preprocessing_words(preprocessing: Preprocessing | None, times: str = "x") -> str:
    """Such as "3 x 32 x 32, bilinear, mean 0.5, std 0.25"."""
    if preprocessing is None:
        return "none: only tensors can be verified"
    size = f"{preprocessing.channels} channel{'s' if preprocessing.channels > 1 else ''}, not resized"
    if preprocessing.size is not None:
        sides = (preprocessing.channels, *preprocessing.size)
        side = preprocessing.shorter_side
        cut = "" if side is None else f" cut from the middle, shorter side {side}"
        size = f"{f' {times} '.join(map(str, sides))}{cut}, {preprocessing.interpolation}"
    return f"{size}, mean {_by_channel(preprocessing.mean)}, std {_by_channel(preprocessing.std)}"


def _by_channel(numbers: Sequence[float]) -> str:
    return " / ".join(f"{number:g}" for number in (numbers[:1] if len({*numbers}) == 1 else numbers))


def _figure_name(name: str, level: Any) -> str:
    if name == "balanced_accuracy" and isinstance(level, float):
        return f"balanced accuracy, at alpha = {level:g}"
    return name.replace(_AT, "TPR at an FPR of ").replace("auroc", "AUROC").replace("_", " ")


def _figure(name: str, found: Any) -> str:
    try:
        value, low, high = (float(found[key]) for key in ("value", "low", "high"))
        members, others = (int(n) for n in found["n"])
        note = fpr_note(float(name.removeprefix(_AT)), others) if name.startswith(_AT) else ""
    except (KeyError, TypeError, ValueError, OverflowError):
        return str(found)
    counts = "; ".join(said for said in (f"{members:,} members, {others:,} unseen", note) if said)
    return f"{value:.3f} (95 % interval {low:.3f} – {high:.3f}; {counts})"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)
