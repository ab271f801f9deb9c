"""All attacks on one model, side by side: the same samples, the same statistics, the same controls."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from amint.arrays import Floats, samples_needed
from amint.attack_controls import controls_of
from amint.attack_results import TRAINED_IN, AttackResult, Comparison
from amint.attack_runs import Parts, best_bound, result_of, split_rows
from amint.attacks import Attack, registry
from amint.audit import Audit
from amint.errors import UsageError
from amint.gathering import Gathered, Progress, References, forward_passes, gather
from amint.intervals import error_rate
from amint.labelled import Labelled, LabelledRows, read_labelled
from amint.loading import load
from amint.metrics import LOW_FPRS
from amint.queries import Queries
from amint.reference_notes import calibration_refusal, reference_notes, row_note
from amint.subjects import check_roles, described, device_of, subject_of
from amint.targets import Target
from amint.task_accuracy import TaskAccuracy, task_accuracy
from amint.versions import versions

__all__ = ["compare"]

Entrants = list[tuple[str, Attack]]

# Seeds and sizes are 64-bit integers to PyTorch.
_END = 2**63


def compare(
    target: str | Path | Audit | nn.Module | Target,
    members: Labelled,
    nonmembers: Labelled,
    *,
    attacks: str | Sequence[str | Attack] = "all",
    fleet: References | None = None,
    taps: str | Sequence[str] | None = None,
    queries: Queries | None = None,
    confidence: float = 0.95,
    delta: float = 1e-5,
    seed: int = 0,
    cache: str | Path | None = None,
    batch_size: int = 256,
    allow_import: Collection[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Run attacks on a model and say how far each of them reaches.

    The rows are dealt out at random, each class on each side in the same shares: a third is known to the attacks
    (fitting, population), a sixth sets the thresholds, and half is audited; every figure comes from that half. Exact
    copies of a row are left out. The model runs over the rows once whatever the number of attacks, each reference
    once, and an untrained twin of the model once, as a control.

    Args:
        target: a bundle's path, an audit, a classifier, or another target. Only an audit has a MINT head. A target that
            is no :class:`amint.targets.ClassifierTarget` has no untrained twin, and the result says so.
        members: (input, class) pairs that the model was trained on; a dataset, a loader in a fixed order without random
            augmentation, or a pair of tensors ``[n, ...]`` and ``[n]``; preprocessed.
        nonmembers: the same, of samples that nothing was trained on, drawn from where the members come from.
        attacks: "all", or names (see :func:`amint.attacks.registry.names`) and attacks of your own.
        fleet: reference models, :meth:`amint.fleet.Fleet.load`. Attacks that need them do not run if they fail, or if
            they were trained on the audit's calibration samples, see :mod:`amint.reference_notes`.
        taps: where passive MINT reads the model, see :func:`amint.split.resolve_split`; None for the audit's taps, or
            "middle".
        queries: augmented views for the attacks that use them; None for the target's own, or the default ones.
        confidence: of every interval, and of the bound on epsilon.
        delta: of the bound on epsilon.
        seed: of the split, the pairs and the controls.
        cache: folder that keeps the target's signals, so that a second comparison need not run it again.
        batch_size: rows at once.
        allow_import: import paths of model code that a bundle may run.
        progress: called with a stage, the number done and the number of all.

    Raises:
        RoleOverlapError: some rows are members and non-members, some members are external or calibration rows of the
            audit, or some non-members external ones.
        UsageError: unknown attacks, a confidence, delta, seed or batch size out of range, too few rows, no labels,
            inputs of unequal shapes, queries that differ from the target's own, or a target that none of the attacks
            can read.
        NonFiniteError: the model's outputs are NaN or infinite.
        BundleError: the bundle cannot be used.
    """
    started = time.perf_counter()
    error_rate(confidence)
    _check_delta(delta)
    seed, batch_size = _whole("seed", seed, 0), _whole("batch_size", batch_size, 1)
    entrants = _entrants(attacks)
    if isinstance(fleet, str | Path):
        raise UsageError(f"fleet is what amint.fleet.Fleet.load({str(fleet)!r}, ...) gives; found a path")
    model = load(target, allow_import=allow_import) if isinstance(target, str | Path) else target
    subject = subject_of(model, taps, queries)
    rows = read_labelled(members, nonmembers, batch_size)
    check_roles(subject, rows)
    parts = split_rows(rows.is_member, rows.classes, rows.different, seed)
    place = device_of(subject)
    needs: frozenset[str] = frozenset().union(*(attack.needs for _, attack in entrants))
    refused = calibration_refusal(fleet, subject.audit, rows)
    seen = None if fleet is None else fleet.saw(rows.marks)
    gathered = gather(
        subject.target,
        fleet,
        rows,
        needs,
        refused=refused,
        queries=subject.queries,
        cache=cache,
        device=place,
        progress=progress,
    )
    passes = time.perf_counter() - started

    results, scores = [], []
    for done, (name, attack) in enumerate(entrants):
        result, audited = _run(name, attack, gathered, rows, parts, confidence=confidence, delta=delta, seed=seed)
        if seen is not None and not result.reason:
            notes = (result.note, row_note(attack.needs, gathered, seen, rows, parts))
            result = replace(result, note="; ".join(note for note in notes if note))
        results.append(result)
        if not result.reason and result.family != TRAINED_IN:
            scores.append((name, audited))
        if progress is not None:
            progress("attacks", done + 1, len(entrants))
    ran = [entrant for entrant, result in zip(entrants, results, strict=True) if not result.reason]
    twin = None if subject.twin is None else partial(subject.twin, seed)
    controls = controls_of(ran, twin, gathered, rows, parts, seed=seed, device=place, progress=progress)
    accuracy = _accuracy(gathered, rows)
    inside, groups = rows.is_member[parts.audited], rows.classes[parts.audited]
    bound = best_bound(scores, inside, groups, confidence=confidence, delta=delta, seed=seed)
    return Comparison(
        attacks=tuple(results),
        epsilon=bound[1] if bound else None,
        epsilon_attack=bound[0] if bound else "",
        controls=tuple(controls),
        sizes=_sizes(rows, parts),
        notes=(*([] if seen is None else reference_notes(seen, rows, parts)), *_notes(rows, parts, accuracy)),
        settings={
            "attacks": "all" if attacks == "all" else [name for name, _ in entrants],
            "references": gathered.references,
            "confidence": confidence,
            "delta": delta,
            "seed": seed,
            "batch_size": batch_size,
        },
        target=described(subject, rows),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=versions("torch", "numpy", "scipy", "scikit-learn"),
        seconds={"passes": passes, "all": time.perf_counter() - started},
        accuracy=accuracy,
    )


def _check_delta(delta: Any) -> None:
    if not isinstance(delta, int | float | np.floating) or not 0 <= delta <= 1:
        raise UsageError(f"delta must lie between 0 and 1, found {delta!r}")


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int | np.integer) or not least <= value < _END:
        raise UsageError(f"{name} must be a whole number from {least} up, below 2**63; found {value!r}")
    return int(value)


def _entrants(attacks: str | Sequence[str | Attack]) -> Entrants:
    """Attacks under the names they have in the table, which differ."""
    if isinstance(attacks, str):
        attacks = registry.names() if attacks == "all" else [attacks]
    found: Entrants = []
    for wanted in attacks or ():
        if not isinstance(wanted, str) and not all(hasattr(wanted, part) for part in ("name", "needs", "fit", "score")):
            raise UsageError(
                f"an attack is a name, or an object with name, needs, fit and score; found {wanted!r} among attacks="
            )
        name = registry.canonical(wanted) if isinstance(wanted, str) else str(wanted.name)
        taken = [one for one, _ in found]
        if isinstance(wanted, str) and name in taken:
            continue
        number = sum(one == name or one.startswith(f"{name} (") for one in taken)
        attack = registry.named(name) if isinstance(wanted, str) else wanted
        found.append((f"{name} ({number + 1})" if number else name, attack))
    if not found:
        raise UsageError(f'there is no attack to compare; pass attacks="all" or some of {", ".join(registry.names())}')
    return found


def _run(
    name: str, attack: Attack, gathered: Gathered, rows: LabelledRows, parts: Parts, **statistics: Any
) -> tuple[AttackResult, Floats]:
    blank = AttackResult(
        name=name,
        family=registry.family(attack),
        about=registry.about(attack),
        needs=tuple(sorted(attack.needs)),
        forward_passes=forward_passes(attack.needs, gathered),
    )
    reason = gathered.why_not(attack.needs)
    if reason:
        failed = not attack.needs.isdisjoint(gathered.failed)
        return replace(blank, reason=reason, forward_passes=0, failed=failed), np.empty(0)
    return result_of(blank, attack, gathered.signals, rows.is_member, parts, groups=rows.classes, **statistics)


def _sizes(rows: LabelledRows, parts: Parts) -> dict[str, int]:
    return {
        f"{use}_{side}": int((rows.is_member[which] == (side == "members")).sum())
        for use, which in (("fit", parts.fit), ("threshold", parts.threshold), ("audited", parts.audited))
        for side in ("members", "nonmembers")
    }


def _accuracy(gathered: Gathered, rows: LabelledRows) -> TaskAccuracy | None:
    if "correct" not in gathered.signals.columns:
        return None
    used = rows.different
    return task_accuracy(gathered.signals["correct"][used], rows.classes[used], rows.is_member[used])


def _notes(rows: LabelledRows, parts: Parts, accuracy: TaskAccuracy | None) -> list[str]:
    # A model that guesses is no note: it is said before anything else.
    notes = ["" if accuracy is None or accuracy.guesses else accuracy.sentence(), rows.class_note()]
    copies = len(rows) - len(rows.different)
    if copies:
        notes.append(f"{copies} of {len(rows)} rows are exact copies of earlier ones and were left out.")
    others = int((~rows.is_member[parts.audited]).sum())
    wanting = [fpr for fpr in LOW_FPRS if others < samples_needed(fpr)]
    if wanting:
        shown, needed = ", ".join(f"{100 * fpr:g} %" for fpr in wanting), samples_needed(min(wanting))
        notes.append(
            f"Too few non-members for the TPR at {shown} FPR: {others} were audited, {needed} are "
            f"needed: give at least {2 * needed}, half of which are audited."
        )
    return [note for note in notes if note]
