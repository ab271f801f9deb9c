"""Scores of a submission and the records of a bundle -> the parts of a verdict. Arrays in, frozen values out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats, samples_needed
from amint.blind import FEATURES
from amint.calibration import Calibration, benjamini_hochberg, holm
from amint.conditional import ConditionalCalibration, depends_on_class
from amint.controls import blind_baseline, control_against_control, duplicates
from amint.dependence import groups_of_copies, p_value_of_groups, share_of_draws
from amint.effect import Effect, effect, effect_by_class
from amint.errors import UsageError
from amint.evidence import HEAD
from amint.findings import Control, SetTest, bound_level, without_files
from amint.items import Items
from amint.oddness import odd_samples
from amint.perceptual import Duplicate, Marks
from amint.records import CalibrationRecords, TrainingRecords
from amint.spill import Table
from amint.texts import Texts

__all__ = [
    "CONFIDENCE",
    "Samples",
    "Scale",
    "already_known",
    "as_one",
    "distinct",
    "judged_items",
    "near_copies",
    "out_of_reach",
    "set_tests",
    "submission_controls",
]

CONFIDENCE = "confidence"
_SEED = 0
_MOST_COMPARED = 3_000


@dataclass(frozen=True, eq=False)
class Samples:
    """What was read of the submitted samples that can be judged, in the order of their names.

    Attributes:
        paths, hashes, notes: name of each, SHA-256 of its file or None, what was done to it, or "".
        scores: float64 ``[m]``, MINT scores.
        marks: int64 ``[m]``, fingerprints of the inputs.
        looks: int64 ``[m]``, perceptual hashes, or None.
        confidence, classes: ``[m]``, or None unless the model is a classifier.
        blind: float32 ``[m, f]``, statistics that know nothing of the model.
        properties: float64 ``[m, p]``, of the files, or None.
    """

    paths: Texts
    hashes: Texts
    notes: Texts
    scores: Floats
    marks: NDArray[np.int64]
    looks: NDArray[np.int64] | None
    confidence: Floats | None
    classes: NDArray[np.int64] | None
    blind: Table
    properties: Table | None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Scale:
    """What turns scores into p-values: all calibration samples, or those of a sample's own class.

    Attributes:
        records: the calibration samples.
        by_class: compare a sample with calibration samples of its predicted class.
        alpha: accepted false-alarm rate.
    """

    records: CalibrationRecords
    by_class: bool
    alpha: float

    def __post_init__(self) -> None:
        if self.by_class and self.records.classes is None:
            raise UsageError("comparing by class needs a classifier: this model gives no logits [n, classes]")

    def _conditional(self, scores: Floats) -> ConditionalCalibration:
        return ConditionalCalibration(scores, np.asarray(self.records.classes))

    def p_values(self, samples: Samples) -> Floats:
        """Conformal p-values of the MINT scores, ``[m]``."""
        if self.by_class and samples.classes is not None:
            return self._conditional(self.records.scores).p_values(samples.scores, samples.classes, self.alpha)
        return Calibration(self.records.scores).p_values(samples.scores)

    def within(self, samples: Samples, rows: NDArray[np.int64]) -> bool:
        """Whether these rows, taken together, are compared within classes: asked for, and every class has enough."""
        if not self.by_class or samples.classes is None:
            return False
        return self._conditional(self.records.scores).together(samples.classes[rows], self.alpha)

    def set_p_value(self, scores: Floats, known: Floats, classes: NDArray[np.int64] | None) -> float:
        """One p-value for all ``scores`` against the ``known`` ones of the calibration samples, within any classes."""
        if classes is None:
            return Calibration(known).set_p_value(scores)
        return self._conditional(known).set_p_value(scores, classes)

    def effect(self, scores: Floats, known: Floats, classes: NDArray[np.int64] | None, tests: int) -> Effect:
        """How far all ``scores`` stand above the ``known`` ones of the calibration samples, within any classes.

        Of so many ``tests`` together the bounds on members are wrong with a chance of at most alpha.
        """
        bound = bound_level(self.alpha, tests)
        if classes is None:
            return effect(scores, known, bound=bound)
        return effect_by_class(scores, classes, known, np.asarray(self.records.classes), bound=bound)

    def explain(self, samples: Samples, within: bool) -> str:
        """What the samples were compared with, in plain words; ``within`` classes if they were so taken together."""
        n = len(self.records.scores)
        if self.by_class and samples.classes is not None and len(samples):
            known = self._conditional(self.records.scores)
            said, own = known.explain(samples.classes, self.alpha), known.per_class(samples.classes, self.alpha)
            if within and not own.all():
                said += " Taken together they are compared within classes, each of which has enough with them counted."
            if not within and own.any():
                said += " Taken together they are compared with all classes."
            return said
        said = f"Each sample is compared with all {n:,} calibration samples."
        if self.records.classes is not None and depends_on_class(self.records.scores, self.records.classes) < 0.001:
            said += (
                " Their scores depend on the class that the model predicts, so false alarms may be more frequent in "
                "some classes and rarer in others; comparing by class evens this out."
            )
        return said


def distinct(samples: Samples) -> NDArray[np.int64]:
    """For each row the number of the first row with the same content, often its own."""
    _, first, which = np.unique(samples.marks, return_index=True, return_inverse=True)
    return np.asarray(first[which], np.int64)


def judged_items(samples: Samples, scale: Scale, original: NDArray[np.int64], twins: Sequence[Duplicate]) -> Items:
    """Every sample with its p-values and decision.

    What plays another role already cannot be judged; Benjamini-Hochberg runs over all others.
    """
    notes: dict[int, list[str]] = {}
    for twin in twins:
        notes.setdefault(twin.item, []).append(twin.reason)
    barred = np.isin(np.arange(len(samples)), [twin.item for twin in twins if twin.bits is None])
    p_values, adjusted = scale.p_values(samples), np.full(len(samples), np.nan)
    adjusted[~barred] = benjamini_hochberg(p_values[~barred])
    copy_of = (None if first == i else samples.paths[first] for i, first in enumerate(original.tolist()))
    told = ("; ".join(filter(None, [note, *notes.get(i, ())])) for i, note in enumerate(samples.notes))
    texts = {"path": samples.paths, "sha256": samples.hashes, "note": Texts(told), "copy_of": Texts(copy_of)}
    numbers = {
        "score": np.where(barred, np.nan, samples.scores),
        "p_value": np.where(barred, np.nan, p_values),
        "adjusted": adjusted,
        "confidence": samples.confidence,
    }
    return Items.of_columns(texts, numbers, samples.classes, used=adjusted <= scale.alpha, told=~barred)


def set_tests(
    samples: Samples, scale: Scale, rows: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[SetTest, ...]:
    """The evidence for the submission as a whole, from its distinct samples ``rows``, adjusted by Holm.

    Pictures that are nearly the same, ``groups`` of :func:`near_copies`, count as one.
    """
    records = scale.records
    kinds = [(HEAD, samples.scores, records.scores)]
    if samples.confidence is not None and records.confidence is not None:
        kinds.append((CONFIDENCE, samples.confidence, records.confidence))
    if not len(rows):
        return ()
    first, share = rows[np.unique(groups)], share_of_draws(groups)
    classes = samples.classes if scale.within(samples, first) else None

    def p_value(own: Floats, known: Floats, chosen: NDArray[np.int64]) -> float:
        return scale.set_p_value(own[chosen], known, None if classes is None else classes[chosen])

    p_values = [p_value(own, known, rows) for _, own, known in kinds]
    if len(first) < len(rows):
        of_firsts = [p_value(own, known, first) for _, own, known in kinds]
        p_values = [p_value_of_groups(p, of_first, share) for p, of_first in zip(p_values, of_firsts, strict=True)]
    tests = []
    for (name, own, known), p, adjusted in zip(kinds, p_values, holm(p_values).tolist(), strict=True):
        size = scale.effect(own[first], known, None if classes is None else classes[first], len(kinds))
        low, high = size.interval.low, size.interval.high
        tests.append(SetTest(name, p, adjusted, size.superiority, low, high, size.members_at_least, size.samples))
    return tuple(tests)


def near_copies(samples: Samples, records: CalibrationRecords, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the rows the place, among them, of the first that it is nearly the same picture as."""
    return groups_of_copies(None if samples.looks is None else samples.looks[rows], records.hashes, len(rows))


def as_one(items: Items, p_value: float, alpha: float) -> Items:
    """The items of a submission that holds one sample: what is said of the whole is said of it."""
    told: dict[str, Any] = {"adjusted": p_value, "decision": "used" if p_value <= alpha else "no evidence"}
    return Items(item if item.score is None else replace(item, **told) for item in items)


def out_of_reach(samples: Samples, scale: Scale, row: int, tests: int) -> str:
    """Why no score could have shown the use of this one sample, in plain words; "" if one could have.

    Args:
        samples: the submission.
        scale: what it is compared with.
        row: the only sample that counts.
        tests: how many tests share alpha.
    """
    within = scale.within(samples, np.array([row]))
    classes = samples.classes[[row]] if within and samples.classes is not None else None
    best = tests * scale.set_p_value(np.array([np.finfo(np.float64).max]), scale.records.scores, classes)
    if best <= scale.alpha:
        return ""
    n, needed = round(tests / best) - 1, samples_needed(scale.alpha / tests) - 1
    known = f"{n:,} calibration samples{'' if classes is None else ' of its class'}"
    return (
        f"One sample by itself cannot show its use with {known}: the highest of all scores would have p = {best:.2g}. "
        f"It takes {needed:,} of them, or more than one sample."
    )


def already_known(
    samples: Samples, records: CalibrationRecords, training: TrainingRecords
) -> tuple[Control, tuple[Duplicate, ...]]:
    """What of a submission plays another role already, exactly or nearly."""
    known = {"calibration": Marks(records.marks, records.hashes)}
    if training.external_marks is not None:
        known["external"] = Marks(training.external_marks, training.external_hashes)
    return duplicates(Marks(samples.marks, samples.looks), known, paths=[path or "" for path in samples.paths])


def submission_controls(
    samples: Samples, scale: Scale, rows: NDArray[np.int64], names: Sequence[str]
) -> tuple[Control, ...]:
    """The controls of what is judged against the calibration, and of the calibration by itself.

    What is too little for a classifier is looked at one by one.

    Args:
        samples: the submission.
        scale: what it is compared with.
        rows: its distinct samples that play no other role, without near copies.
        names: of the properties of files.
    """
    records, within = scale.records, scale.within(samples, rows)
    # More would cost memory and change no outcome.
    rows = np.sort(np.random.default_rng(_SEED).permutation(rows)[:_MOST_COMPARED])
    own, other, columns = samples.blind[rows], records.blind, list(FEATURES)
    if samples.properties is not None and records.properties is not None:
        own = np.concatenate([own, samples.properties[rows]], axis=1)
        other = np.concatenate([other, records.properties], axis=1)
        columns += names
    groups = None
    if within and samples.classes is not None and records.classes is not None:
        groups = samples.classes[rows], records.classes
    blind = blind_baseline(own, other, seed=_SEED, names=columns, groups=groups)
    if samples.properties is not None and records.properties is None:
        blind = without_files(blind)
    odd: tuple[Control, ...] = ()
    if blind.outcome == "not checked":
        paths = [samples.paths[row] for row in rows.tolist()]
        odd = (odd_samples(own, other, seed=_SEED, names=paths, groups=groups),)
    among = control_against_control(records.scores, groups=records.classes, seed=_SEED)
    return blind, *odd, among
