"""One attack on columns of signals: fitted on some rows, its threshold set on others, judged on the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amint.arrays import Floats, score_array
from amint.attack_results import AttackControl, AttackResult
from amint.attacks import Attack
from amint.controls import shuffled_membership
from amint.errors import AmintError, UsageError
from amint.lower_bound import EpsilonBound, paired_audit
from amint.metrics import Roc, auroc, roc, summary
from amint.ranksum import rank_sum_p
from amint.signals import Signals

__all__ = ["Parts", "best_bound", "control_of", "result_of", "shuffled", "split_rows"]

Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]

# The order in which the rows of one kind are dealt out: half of them audited, a third fitted, a sixth for thresholds.
_DEALT = np.array([0, 1, 0, 2, 0, 1])
_POINTS = 200
_REVERSED = 0.001
_TOLD_BY_CLASS = "the class alone tells members from non-members, so that no shuffling inside classes changes anything"


@dataclass(frozen=True, eq=False)
class Parts:
    """Row numbers by their use, each ascending: ``fit``, ``threshold`` and ``audited``, disjoint."""

    fit: Rows
    threshold: Rows
    audited: Rows


def split_rows(is_member: Flags, classes: NDArray[np.int64], rows: Rows, seed: int) -> Parts:
    """Deal rows out at random: 1/2 audited, 1/3 fitted, 1/6 for thresholds, of each class on each side.

    Args:
        is_member: ``[n]``.
        classes: ``[n]``.
        rows: the row numbers to deal out.
        seed: of the draw.

    Raises:
        UsageError: too few members or non-members for all three parts.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    part = np.full(len(is_member), -1)
    for side in (True, False):
        mine = rows[is_member[rows] == side]
        # Classes one after the other in a random order, rows of a class in a random order.
        place = generator.permutation(int(classes.max(initial=0)) + 1)[classes[mine]]
        mine = mine[np.lexsort((generator.random(len(mine)), place))]
        part[mine] = np.resize(_DEALT, len(mine))
        if len(mine) < len(_DEALT):
            raise UsageError(
                f"{len(mine)} {'members' if side else 'non-members'} are too few: half of them are audited, a third "
                f"fitted and a sixth set the thresholds, so that at least {len(_DEALT)} are needed"
            )
    audited, fit, threshold = (np.flatnonzero(part == number) for number in range(3))
    return Parts(fit, threshold, audited)


def shuffled(is_member: Flags, classes: NDArray[np.int64], parts: Parts, seed: int, *, by_class: bool = False) -> Flags:
    """``is_member`` ``[n]`` with the flags of each part permuted at random.

    Args:
        is_member: ``[n]``.
        classes: ``[n]``.
        parts: of the rows.
        seed: of the permutations.
        by_class: permute inside each class, which keeps how frequent classes are among members and among non-members.
            As true and permuted flags then both go with the class, members and non-members have to be judged apart:
            there an attack succeeds only if its scores go with the class, too.
    """
    flags = is_member.copy()
    uses = (parts.fit, parts.threshold, parts.audited)
    kinds = np.unique(classes)
    groups = (rows for use in uses for rows in ([use[classes[use] == kind] for kind in kinds] if by_class else [use]))
    for number, rows in enumerate(groups):
        flags[rows] = shuffled_membership(is_member[rows], seed + number)
    return flags


def result_of(
    blank: AttackResult,
    attack: Attack,
    signals: Signals,
    is_member: Flags,
    parts: Parts,
    *,
    groups: NDArray[np.int64],
    confidence: float,
    delta: float,
    seed: int,
) -> tuple[AttackResult, Floats]:
    """``blank`` with what the attack reached filled in, and its scores of the audited rows; none if it cannot run.

    Whatever an attack or its statistics raise becomes its ``reason``: others must still run. Members and non-members
    without a common class leave no pairs for the bound on epsilon; that is a note.

    Args:
        blank: name, family, costs.
        attack: not fitted yet.
        signals: ``[n]`` rows, with at least the attack's needs.
        is_member: ``[n]``.
        parts: of the rows.
        groups: ``[n]``, pairs for the bound on epsilon are formed inside these.
        confidence: of every interval, and of the bound.
        delta: of the bound.
        seed: of the pairs.
    """
    started = time.perf_counter()
    inside, classes = is_member[parts.audited], groups[parts.audited]
    stage = "when fitted"
    try:
        fitted = attack.fit(signals_at(signals, attack, parts.fit), is_member[parts.fit].copy())
        stage = "on the rows that set the threshold"
        tuning = _scores(fitted, signals_at(signals, attack, parts.threshold))
        stage = "on the audited rows"
        scores = _scores(fitted, signals_at(signals, attack, parts.audited))
        seconds = time.perf_counter() - started
        threshold = _best_threshold(roc(tuning, is_member[parts.threshold]))
        found = summary(scores, inside, threshold, confidence=confidence)
        notes = [_note_of(fitted), _reversed(scores, inside)]
        bound = None
        if _pairs_can_be_formed(inside, classes):
            bound = paired_audit(scores, inside, classes, delta=delta, confidence=confidence, seed=seed)
        else:
            notes.append("no bound on epsilon: audited members and non-members share no class to form pairs in")
        filled = replace(
            blank,
            measurements=tuple(found.values()),
            p_value=rank_sum_p(scores[inside], scores[~inside]),
            threshold=threshold,
            roc=_thinned(roc(scores, inside)),
            epsilon=bound,
            seconds=seconds,
            note="; ".join(note for note in notes if note),
        )
    except Exception as error:
        seconds = time.perf_counter() - started
        return replace(blank, reason=f"{stage}: {_why(error)}", seconds=seconds, failed=True), np.empty(0)
    return filled, scores


def best_bound(
    scores: Sequence[tuple[str, Floats]],
    is_member: Flags,
    groups: NDArray[np.int64],
    *,
    confidence: float,
    delta: float,
    seed: int,
) -> tuple[str, EpsilonBound] | None:
    """The best lower bound on epsilon over several attacks, at a confidence that pays for their number.

    None without attacks, or without a class that holds members and non-members.

    Args:
        scores: name and scores ``[n]`` of each attack.
        is_member: ``[n]``.
        groups: ``[n]``, pairs are formed inside these.
        confidence: of the returned bound.
        delta: of the refuted guarantee.
        seed: of the pairs.
    """
    if not scores or not _pairs_can_be_formed(is_member, groups):
        return None
    each = 1 - (1 - confidence) / len(scores)
    bounds = [
        (name, paired_audit(values, is_member, groups, delta=delta, confidence=each, seed=seed))
        for name, values in scores
    ]
    name, best = max(bounds, key=lambda pair: pair[1].value)
    return name, replace(best, confidence=confidence)


def control_of(
    kind: str, attack: Attack, signals: Signals, is_member: Flags, parts: Parts, apart: Flags | None = None
) -> AttackControl:
    """The attack where it must fail; the p-value is that of two one-sided rank-sum tests, doubled.

    Args:
        kind: of the control.
        attack: not fitted yet.
        signals: ``[n]`` rows, with at least the attack's needs.
        is_member: ``[n]``, as the control tells them.
        parts: of the rows.
        apart: ``[n]``, rows with different values are judged apart and the two results put together; None judges all
            together.
    """
    try:
        fitted = attack.fit(signals_at(signals, attack, parts.fit), is_member[parts.fit].copy())
        scores = _scores(fitted, signals_at(signals, attack, parts.audited))
    except Exception as error:
        return AttackControl(kind, attack.name, None, None, _why(error))
    inside = is_member[parts.audited]
    groups = [np.ones_like(inside)] if apart is None else [apart[parts.audited], ~apart[parts.audited]]
    mixed = [group for group in groups if inside[group].any() and not inside[group].all()]
    if not mixed:
        return AttackControl(kind, attack.name, None, None, _TOLD_BY_CLASS)
    pairs = [(scores[group], inside[group]) for group in mixed]
    weights = np.array([math.sqrt(side.mean() * (1 - side.mean()) * len(side)) for _, side in pairs])
    reached = float(np.average([auroc(*pair) for pair in pairs], weights=weights**2))
    return AttackControl(kind, attack.name, reached, _two_sided_p(pairs, weights))


def signals_at(signals: Signals, attack: Attack, rows: Rows) -> Signals:
    """The needed columns of some rows, read-only: an attack that writes into them must not spoil the next one."""
    columns = {name: signals[name][rows] for name in sorted(attack.needs)}
    for column in columns.values():
        column.setflags(write=False)
    return Signals(columns)


def _scores(fitted: Attack, signals: Signals) -> Floats:
    scores = score_array(fitted.score(signals))
    if len(scores) != len(signals):
        raise UsageError(f"the attack gave {len(scores)} scores for {len(signals)} samples; expected one a sample")
    return scores


def _pairs_can_be_formed(inside: Flags, classes: NDArray[np.int64]) -> bool:
    return bool(np.isin(classes[inside], classes[~inside]).any())


def _best_threshold(curve: Roc) -> float:
    """Where the balanced accuracy is highest; of several the one that accuses fewest."""
    return float(curve.thresholds[1:][int(np.argmax((curve.tpr - curve.fpr)[1:]))])


def _thinned(curve: Roc) -> tuple[tuple[float, float], ...]:
    lowest = curve.fpr[curve.fpr > 0][0]
    grid = np.concatenate([[0.0], np.geomspace(lowest, 1, _POINTS)])
    # The grid's own rounding must not step just below the point that it was made for.
    places = np.unique(np.searchsorted(curve.fpr, grid * (1 + 1e-12), side="right") - 1)
    points = np.concatenate([[0], places])
    return tuple((float(curve.fpr[i]), float(curve.tpr[i])) for i in np.unique(points))


def _two_sided_p(pairs: Sequence[tuple[Floats, Flags]], weights: Floats) -> float:
    """Of rank-sum tests on groups of rows, put together by Stouffer's weighted sum."""
    both = np.array([[rank_sum_p(*way) for way in _both_ways(*pair)] for pair in pairs])
    if len(both) > 1:
        # Two results of 0 and 1 have no sum.
        both = stats.combine_pvalues(both.clip(1e-300, 1 - 1e-15), "stouffer", weights[:, None], axis=0).pvalue
    return min(1.0, 2 * float(both.min()))


def _both_ways(scores: Floats, inside: Flags) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    members, others = scores[inside], scores[~inside]
    return (members, others), (others, members)


def _reversed(scores: Floats, inside: Flags) -> str:
    others_higher = rank_sum_p(scores[~inside], scores[inside])
    return "members score clearly lower than non-members" if others_higher < _REVERSED else ""


def _note_of(fitted: Attack) -> str:
    note = getattr(fitted, "note", "")
    return note if isinstance(note, str) else ""


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AmintError) else f"{type(error).__name__}: {text}"
