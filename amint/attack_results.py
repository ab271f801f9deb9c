"""What a comparison of attacks found: frozen values, JSON, CSV, plain words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amint.attack_figures import (
    METRICS,
    SHUFFLED,
    TRAINED_IN,
    TWIN,
    AttackControl,
    AttackResult,
    figure,
    strongest_sentence,
)
from amint.calibration import holm
from amint.errors import UsageError
from amint.intervals import Interval
from amint.lower_bound import EpsilonBound
from amint.metrics import Measurement
from amint.result_files import as_csv, as_json, read_result, write_result
from amint.task_accuracy import TaskAccuracy

__all__ = [
    "COMPARISON_SCHEMA",
    "METRICS",
    "SHUFFLED",
    "TRAINED_IN",
    "TWIN",
    "AttackControl",
    "AttackResult",
    "Comparison",
]

COMPARISON_SCHEMA = 1
# Accepted chance that sound data fail any of the controls.
_FALSE_ALARM = 0.01


@dataclass(frozen=True, repr=False)
class Comparison:
    """Attacks side by side, on the same samples with the same statistics.

    Attributes:
        attacks: one result for each attack, in the order asked for.
        epsilon: the best lower bound over all outsiders' attacks, at its confidence after paying for their number, or
            None if none could run, or none could be bounded.
        epsilon_attack: the attack that gave it, or empty.
        controls: each attack where it must fail.
        sizes: rows by their use: "fit", "threshold" and "audited", each for members and non-members.
        notes: what to know about the data and the statistics.
        settings: seed, confidence and what else was chosen; plain JSON values.
        target: what was attacked: name -> hash or description.
        created: time, ISO 8601, UTC.
        libraries: name -> version.
        seconds: the whole comparison, and in it the passes over the data.
        accuracy: of the target at its task; None if no attack asks whether it is right, as correctness does.
    """

    attacks: tuple[AttackResult, ...]
    epsilon: EpsilonBound | None
    epsilon_attack: str
    controls: tuple[AttackControl, ...]
    sizes: dict[str, int]
    notes: tuple[str, ...]
    settings: dict[str, Any]
    target: dict[str, str]
    created: str
    libraries: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    accuracy: TaskAccuracy | None = None

    def __getitem__(self, name: str) -> AttackResult:
        """The result of the attack of this name. Raises UsageError if there is none."""
        for result in self.attacks:
            if result.name == name:
                return result
        raise UsageError(f"this comparison has no attack {name!r}; it has {[result.name for result in self.attacks]}")

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.attacks)} attacks. {self.sentence()}>"

    @property
    def ranked(self) -> tuple[AttackResult, ...]:
        """The attacks that ran, strongest first: by their AUROC, or where members surely score lower, by 1 less it."""
        return tuple(sorted((r for r in self.attacks if not r.reason), key=lambda r: -r.reach))

    @property
    def not_run(self) -> tuple[AttackResult, ...]:
        """The attacks that could not run."""
        return tuple(result for result in self.attacks if result.reason)

    @property
    def failed_controls(self) -> tuple[AttackControl, ...]:
        """Controls whose AUROC differs from 0.5 by more than luck explains, at 1 % over all controls (Holm)."""
        ran = [(control, control.p_value) for control in self.controls if control.p_value is not None]
        adjusted = holm([p for _, p in ran])
        return tuple(control for (control, _), p in zip(ran, adjusted, strict=True) if p <= _FALSE_ALARM)

    def warning(self) -> str:
        """What to say before anything else, or an empty text: controls failed or are missing, or the model guesses."""
        if self.accuracy is not None and self.accuracy.guesses:
            return f"Do not rely on this table. {self.accuracy.sentence()}"
        failed = self.failed_controls
        if failed:
            said = "; ".join(
                f"{kind}: {', '.join(f'{c.attack} {c.auroc:.3f}' for c in failed if c.kind == kind)}"
                for kind in dict.fromkeys(control.kind for control in failed)
            )
            return (
                "Do not rely on this table: attacks succeed where there is nothing to find (AUROC must be 0.5; "
                f"{said}). Members and non-members differ in something else than membership."
            )
        if self.ranked and not any(control.p_value is not None for control in self.controls):
            return "No control could run, so that nothing shows that these figures are about membership."
        return ""

    def unchecked(self) -> str:
        """Which controls could not run, of which attacks and why, or an empty text; no reason to distrust the rest."""
        said = []
        for kind in dict.fromkeys(control.kind for control in self.controls):
            mine = [control for control in self.controls if control.kind == kind]
            lacking = [control for control in mine if control.p_value is None]
            reasons = dict.fromkeys(control.reason for control in lacking)
            if lacking and len(lacking) == len(mine):
                why = "; ".join(reasons)
                said.append(f"No {kind} could be checked: {why}. Attacks may see another difference than membership.")
            elif lacking:
                named = [f"{', '.join(c.attack for c in lacking if c.reason == why)} ({why})" for why in reasons]
                said.append(f"No {kind} could be checked for {', '.join(named)}.")
        return " ".join(said)

    def sentence(self) -> str:
        """The result in plain words, with its uncertainty."""
        outsiders = [result for result in self.ranked if result.family != TRAINED_IN]
        said = [self.warning()] if self.warning() else []
        said.append(strongest_sentence(outsiders) if outsiders else "No attack from outside could run.")
        for result in self.ranked:
            if result.family == TRAINED_IN:
                said.append(f"The head that was trained in ({result.name}) has an AUROC of {figure(result['auroc'])}.")
        if self.not_run:
            said.append(f"Could not run: {', '.join(result.name for result in self.not_run)}.")
        if self.unchecked():
            said.append(self.unchecked())
        return " ".join(said)

    def epsilon_sentence(self) -> str:
        """The lower bound in plain words."""
        bound = self.epsilon
        if bound is None:
            ran = any(result.family != TRAINED_IN for result in self.ranked)
            lacking = "audited members and non-members share no class" if ran else "no attack from outside could run"
            return f"No lower bound on epsilon: {lacking}."
        sure = f"with {100 * bound.confidence:g} % confidence"
        rests = f"{bound.correct} of {bound.guesses} guesses on {bound.samples} pairs were right, {self.epsilon_attack}"
        said = (
            f"No privacy guarantee is refuted {sure}: epsilon may be 0 or more ({rests})."
            if bound.value == 0
            else f"This training is not ({bound.value:.2f}, {bound.delta:g})-differentially private, {sure} ({rests})."
        )
        return f"{said} It holds if chance decided which samples became members, for the replacement of one sample."

    def values(self) -> dict[str, Any]:
        """Everything, and what follows from it, by name."""
        head = {"schema": COMPARISON_SCHEMA, "warning": self.warning(), "sentence": self.sentence()}
        return head | {part.name: getattr(self, part.name) for part in fields(self)}

    def lines(self) -> Iterator[list[Any]]:
        """One line an attack, in the order asked for, after the headings; the controls' verdict is in every line."""
        figures = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
        last = ["epsilon", "forward_passes", "seconds", "reason", "note", "warning"]
        yield ["attack", "family", *figures, *last]
        for r in self.attacks:
            found: list[Any] = [v for m in r.measurements for v in (m.value, m.interval.low, m.interval.high)]
            notes = [f"{m.name} {m.note}" for m in r.measurements if m.note]
            cells = [r.name, r.family, *(found or [None] * len(figures)), r.epsilon.value if r.epsilon else None]
            texts = [r.reason, "; ".join([*([r.note] if r.note else []), *notes]), self.warning()]
            yield [*cells, r.forward_passes, r.seconds, *texts]

    def to_json(self) -> str:
        """One JSON object, numbers exact."""
        return as_json(self)

    @staticmethod
    def from_json(text: str) -> Comparison:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: another schema, or not a comparison.
        """

        def build(data: dict[str, Any]) -> Comparison:
            parts = {
                "attacks": tuple(_result(attack) for attack in data["attacks"]),
                "controls": tuple(AttackControl(**control) for control in data["controls"]),
                "epsilon": _bound(data["epsilon"]),
                "notes": tuple(data["notes"]),
                "accuracy": TaskAccuracy(**found) if (found := data["accuracy"]) else None,
            }
            return Comparison(**({name: data[name] for name in Comparison.__dataclass_fields__} | parts))

        return read_result(text, "comparison", COMPARISON_SCHEMA, build)

    def to_csv(self) -> str:
        """One line an attack, in the order asked for; the controls' verdict is in every line."""
        return as_csv(self)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``comparison.json`` and ``comparison.csv`` into a folder, made if need be."""
        return write_result(self, "comparison", folder)


def _result(data: dict[str, Any]) -> AttackResult:
    measured = (Measurement(**(m | {"interval": Interval(**m["interval"])})) for m in data["measurements"])
    roc = tuple((float(fpr), float(tpr)) for fpr, tpr in data["roc"])
    values = {"measurements": tuple(measured), "roc": roc, "needs": tuple(data["needs"])}
    # Results that do not say so may have failed.
    failed = data.get("failed", bool(data["reason"]))
    return AttackResult(**(data | values | {"epsilon": _bound(data["epsilon"]), "failed": failed}))


def _bound(data: dict[str, Any] | None) -> EpsilonBound | None:
    return None if data is None else EpsilonBound(**data)
