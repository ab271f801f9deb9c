"""Is this audit valid at all? Controls that need no trust in the model, each with a reason in plain words.

A failed control says that a high score may have another cause than membership: the verdict is ``cannot tell``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from amint.arrays import Floats, label_array, score_array
from amint.blind import Separation, separation
from amint.calibration import Calibration
from amint.errors import NonFiniteError, UsageError
from amint.findings import Control, Outcome
from amint.near_groups import near_groups
from amint.perceptual import MOST_BITS, Duplicate, Marks, find_duplicates, likeness

__all__ = ["Control", "Outcome", "blind_baseline", "control_against_control", "duplicates", "shuffled_membership"]

_LEVEL, _SUGGESTIVE = 0.005, 0.05
# A bundle has one calibration: what fails by chance here would spoil every verdict on it.
_LEVEL_IN_ORDER = 0.0005
_CLEAR, _CLEAR_LIKENESS = 0.6, 0.2
_FEWEST, _FEWEST_OTHERS, _FEWEST_IN_ORDER = 5, 20, 40
# A control that would overlook more than this has not checked anything.
_WEAKEST = 0.9
# From so many a side an AUROC is known to about 0.015; more would cost time and change no outcome.
_MOST = 3_000
Integers = NDArray[np.int64]


def blind_baseline(
    submission: ArrayLike,
    calibration: ArrayLike,
    *,
    seed: int,
    names: Sequence[str],
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    roles: tuple[str, str] = ("the submission", "the calibration data"),
) -> Control:
    """Can a classifier that never sees the model tell two sets of samples apart?

    Classifier, held-out AUROC and permutation test are those of :func:`amint.blind.separation`, with at most 3,000
    samples a side, drawn at random. ``failed`` takes both p <= 0.005 and an AUROC of at least 0.6: the first keeps
    false failures at 0.5 %, the second lets pass what is real but too small to explain a clear result.

    Args:
        submission: ``[m, f]`` finite numbers that come from the samples alone: :func:`amint.blind.blind_features`,
            properties of files.
        calibration: ``[n, f]``, the same of the others; external samples where members are the submission.
        seed: of folds and permutations.
        names: one a feature.
        groups: integers or texts ``[m]`` and ``[n]``, for example predicted classes. Samples are then compared within
            their group only, and those of groups without a counterpart are left out.
        roles: what the sentence calls the two.

    Returns:
        ``value`` is the AUROC. Details: ``low``, ``high`` (its 95 % interval), ``noticeable`` (the AUROC above which
        this control would have failed), ``features`` (those that differ most, with the AUROC of each), ``submitted``,
        ``others`` (how many could be compared), ``left_out`` (submitted without a counterpart). ``not checked``
        below 5 samples on one side or 20 on the other, if more than half the submission is left out, or if a
        difference of AUROC 0.9 would have been overlooked.

    Raises:
        UsageError: shapes that do not fit.
        NonFiniteError: NaN or infinity.
    """
    own, other = _table(submission, names, roles[0]), _table(calibration, names, roles[1])
    own_group, other_group = _codes(groups, len(own), len(other))
    own_rows = np.flatnonzero(np.isin(own_group, other_group))
    other_rows = np.flatnonzero(np.isin(other_group, own_group))
    m, n = len(own_rows), len(other_rows)
    details: dict[str, Any] = {"submitted": m, "others": n, "left_out": len(own) - m}
    others = roles[1] if groups is None else f"{roles[1]} of the same classes"
    if min(m, n) < _FEWEST or max(m, n) < _FEWEST_OTHERS or 2 * m < len(own):
        sentence = (
            f"Not checked whether {roles[0]} differs from {others}: {m} of {len(own)} samples can be compared with "
            f"{n}, and it takes {_FEWEST} on one side and {_FEWEST_OTHERS} on the other, and half of {roles[0]}."
        )
        return Control("blind baseline", "not checked", sentence, details=details)
    rng = np.random.default_rng(seed)
    own_rows, other_rows = rng.permutation(own_rows)[:_MOST], rng.permutation(other_rows)[:_MOST]
    features = np.concatenate([own[own_rows], other[other_rows]])
    group = np.concatenate([own_group[own_rows], other_group[other_rows]])
    found = separation(features, np.arange(len(group)) < len(own_rows), group, seed)
    differing = {names[column]: round(auroc, 3) for column, auroc in found.features.items()}
    noticeable = max(_CLEAR, found.null_995)
    details |= {"low": found.low, "high": found.high, "noticeable": noticeable, "features": differing}
    outcome, sentence = _judged(found, noticeable, (roles[0], others), ", ".join(differing), min(m, n))
    return Control("blind baseline", outcome, sentence, found.p_value, found.auroc, details)


def _judged(
    found: Separation, noticeable: float, roles: tuple[str, str], features: str, few: int
) -> tuple[Outcome, str]:
    figures = (
        f"(AUROC {found.auroc:.2f}, 95% interval {found.low:.2f} to {found.high:.2f}, 0.5 is guessing; "
        f"p = {found.p_value:.2g})"
    )
    differ = found.p_value <= _LEVEL
    how = "tells" if differ else "hardly tells" if found.p_value <= _SUGGESTIVE else "does not tell"
    tells = f"A classifier that never sees the model {how} {roles[0]} from {roles[1]}"
    if differ and found.auroc >= _CLEAR:
        why = f"most of all by {features}: a high score may show this difference and not membership"
        return "failed", f"{tells} {figures}, {why}."
    if noticeable > _WEAKEST:
        enough = math.ceil(few * ((noticeable - 0.5) / (_WEAKEST - 0.5)) ** 2) + 1
        weak = f"would overlook an AUROC of {_WEAKEST} with so few samples; about {enough} on the smaller side would do"
        return "not checked", f"{tells} {figures}, but {weak}."
    slightly = ", but only slightly," if differ else ""
    return "passed", f"{tells}{slightly} {figures}; it would have found an AUROC above {noticeable:.2f}."


def _table(values: ArrayLike, names: Sequence[str], role: str) -> Floats:
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or table.shape[1] != len(names) or not len(names):
        raise UsageError(f"features of {role} must be [n, {len(names)}], one column a name; found {list(table.shape)}")
    if not np.isfinite(table).all():
        raise NonFiniteError(f"features of {role} hold NaN or infinity; leave these rows or columns out")
    return table


def _codes(groups: tuple[ArrayLike, ArrayLike] | None, m: int, n: int) -> tuple[Integers, Integers]:
    own, other = (np.asarray(labels) for labels in groups or (np.zeros(m), np.zeros(n)))
    if own.shape != (m,) or other.shape != (n,):
        raise UsageError(f"groups must be one label a sample, [{m}] and [{n}]; found {own.shape} and {other.shape}")
    codes = np.unique(np.concatenate([own, other]), return_inverse=True)[1].astype(np.int64)
    return codes[:m], codes[m:]


def control_against_control(
    scores: ArrayLike, *, groups: ArrayLike | None = None, repeats: int = 200, seed: int
) -> Control:
    """Are the calibration scores one population?

    Of random halves one judges the other, ``repeats`` times: conformal p-values are then uniform or, with ties, larger.
    That holds by construction and checks the arithmetic; what can go wrong is order. So the second half as given is
    compared with the first (drift, a change of source), and each score with the next (several takes of one thing,
    which are fewer independent samples than they seem). ``failed``: p <= 0.005 for one of the two, with a drift of
    AUROC 0.6 either way or a rank correlation of neighbours of 0.2.

    Args:
        scores: ``[n]`` calibration scores in the order in which the samples were given, not sorted.
        groups: integers or texts ``[n]``, for example predicted classes, if the samples may be sorted by them.
        repeats: how many random splits.
        seed: of the splits.

    Returns:
        ``value`` is the AUROC of second half against first. Details: ``drift`` (the same) and ``drift_p``,
        ``neighbours`` (their rank correlation) and ``neighbours_p``, ``ks`` (largest excess of the p-values'
        distribution over the uniform), ``at_5_percent`` (share of p-values of at most 0.05). ``not checked`` below
        40 scores that have another of their group beside them, or if they come sorted.

    Raises:
        UsageError: scores or groups are not one-dimensional, or their lengths differ; no repeats.
        NonFiniteError: NaN or infinite scores.

    Sources: Lehmann 1975, section 3.3 (rank-sum tests in blocks); Wald and Wolfowitz 1943 (serial correlation).
    """
    values = score_array(scores, "calibration scores")
    codes = _codes(None if groups is None else (groups, ()), len(values), 0)[0]
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, found {repeats}")
    name, steps = "control against control", np.diff(values)
    is_sorted = steps.any() and ((steps >= 0).all() or (steps <= 0).all())
    of_groups = np.unique(codes, return_counts=True)[1]
    comparable = int(of_groups[of_groups > 1].sum())
    if comparable < _FEWEST_IN_ORDER or is_sorted:
        alone = len(values) >= _FEWEST_IN_ORDER
        which = f", but only {comparable} share their class with another" if alone else ""
        few = f"{len(values)}{which}, and it takes {_FEWEST_IN_ORDER}"
        why = "sorted, their order is lost" if is_sorted else few
        return Control(name, "not checked", f"Not checked against each other: the calibration scores are {why}.")
    order = _order(values, codes)
    drift, drift_p, neighbours, neighbours_p = order.values()
    ks, at_5 = _halves(values, repeats, seed)
    result = (min(1.0, 2 * min(drift_p, neighbours_p)), drift, order | {"ks": ks, "at_5_percent": at_5})
    figures = (
        f"(second half against first: AUROC {drift:.2f}, p = {drift_p:.2g}; rank correlation of neighbours "
        f"{neighbours:.2f}, p = {neighbours_p:.2g})"
    )
    drifts = drift_p <= _LEVEL_IN_ORDER and abs(drift - 0.5) >= _CLEAR - 0.5
    if drifts or (neighbours_p <= _LEVEL_IN_ORDER and neighbours >= _CLEAR_LIKENESS):
        what = "drift" if drifts else "resemble their neighbours"
        hint = "they may come from several sources, or show the same thing several times"
        return Control(name, "failed", f"The calibration scores {what} in the order given {figures}: {hint}.", *result)
    sentence = (
        f"The calibration scores vouch for each other: of one random half, {at_5:.1%} have p <= 0.05 by the other "
        f"(Kolmogorov-Smirnov {ks:.3f}), and their order does not matter {figures}."
    )
    return Control(name, "passed", sentence, *result)


def _halves(values: Floats, repeats: int, seed: int) -> tuple[float, float]:
    """Of p-values between random halves: largest excess over the uniform distribution, share of at most 0.05."""
    rng, half = np.random.default_rng(seed), len(values) // 2
    splits = (rng.permutation(values) for _ in range(repeats))
    p = np.concatenate([Calibration(split[:half]).p_values(split[half:]) for split in splits])
    return float(stats.ks_1samp(p, stats.uniform.cdf, alternative="greater").statistic), float((p <= 0.05).mean())


def _order(values: Floats, codes: Integers) -> dict[str, float]:
    """Second half against first and each with the next, within groups: AUROC and p, rank correlation and p."""
    parts = []
    for code in np.unique(codes):
        ranks = stats.rankdata(values[codes == code])
        n, m = len(ranks), len(ranks) // 2
        centred = ranks - (n + 1) / 2
        square = float((centred**2).sum())
        pairs, wins = m * (n - m), ranks[n - m :].sum() - m * (m + 1) / 2
        product = (centred[1:] * centred[:-1]).sum()
        parts.append([wins, pairs, pairs * square / max(n * (n - 1), 1), product, square, square / n, square**2 / n])
    # Under the null a product of neighbours is -square / n on average, since ranks are drawn without replacement.
    wins, pairs, wins_variance, product, square, bias, product_variance = np.sum(parts, axis=0).tolist()
    # Equal scores have no variance, and nothing to explain.
    drift_z = abs(wins - pairs / 2) / (wins_variance or 1.0) ** 0.5
    alike_z = (product + bias) / (product_variance or 1.0) ** 0.5
    drift_p, alike_p = 2 * float(stats.norm.sf(drift_z)), float(stats.norm.sf(alike_z))
    return {"drift": wins / pairs, "drift_p": drift_p, "neighbours": product / (square or 1.0), "neighbours_p": alike_p}


def duplicates(
    submitted: Marks, known: Mapping[str, Marks], *, paths: Sequence[str], most_bits: int = MOST_BITS
) -> tuple[Control, tuple[Duplicate, ...]]:
    """Is something submitted that already plays a role, exactly or nearly?

    A sample that is itself calibration or external data cannot be judged. ``failed`` if nothing else was submitted.
    Near duplicates are listed, together with how common such likeness is: digits resemble each other.

    Args:
        submitted: marks of the m submitted samples.
        known: role -> marks, for example ``{"calibration": ..., "external": ...}``.
        paths: names of the submitted samples, ``[m]``.
        most_bits: perceptual hashes that differ in more are not near.

    Returns:
        The control, and what :func:`amint.perceptual.find_duplicates` found. ``value`` is the share of submitted
        samples with an exact match. Details: ``submitted``, ``exact`` and ``near`` (samples by role), ``likeness``
        (share of the known of a role that are near to another of it), ``copies`` (samples equal to an earlier one),
        ``near_groups`` and ``in_near_groups`` (groups of near, not equal submitted images; images in them).
        ``not checked`` without submitted or known marks.

    Raises:
        UsageError: lengths that do not fit.
    """
    m = len(submitted.exact)
    if not m or not any(len(marks.exact) for marks in known.values()):
        return Control("duplicates", "not checked", "Not checked for duplicates: there is nothing to compare."), ()
    found = find_duplicates(submitted, known, paths, most_bits)
    exact, near = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    for duplicate in found:
        (exact if duplicate.bits is None else near)[duplicate.role] += 1
    distinct = np.unique(submitted.exact, return_index=True)[1]
    looks = np.empty(0, np.int64) if submitted.look is None else submitted.look[np.sort(distinct)]
    sizes = np.unique(near_groups(looks, most_bits), return_counts=True)[1]
    usual = {role: likeness(marks, most_bits) for role, marks in known.items()}
    groups, grouped = int((sizes > 1).sum()), int(sizes[sizes > 1].sum())
    details = {"submitted": m, "exact": exact, "near": near, "likeness": usual, "copies": m - len(distinct)}
    details |= {"near_groups": groups, "in_near_groups": grouped}
    taken = len({duplicate.item for duplicate in found if duplicate.bits is None})
    of_role, unjudged = " or ".join(known), " and cannot be judged" if taken else ""
    sentence = f"{taken or 'None'} of {m} submitted samples are {of_role} samples themselves{unjudged}"
    if m == 1:
        sentence = f"The submitted sample is {'' if taken else 'not '}a {of_role} sample itself{unjudged}"
    for role in known:
        if near[role]:
            common = f"{usual[role]:.0%} of {role} images are that near to another"
            sentence += f"; {near[role]} {'looks' if near[role] == 1 else 'look'} nearly like one of {role} ({common})"
    if groups:
        sentence += f"; {grouped} look nearly like another submitted one"
    control = Control("duplicates", "failed" if taken == m else "passed", f"{sentence}.", None, taken / m, details)
    return control, found


def shuffled_membership(is_member: ArrayLike, seed: int) -> NDArray[np.bool_]:
    """The labels ``[n]`` in random order: an attack that still succeeds against them sees something else.

    Raises:
        UsageError: not a one-dimensional array of booleans or 0/1.
    """
    return np.random.default_rng(seed).permutation(label_array(is_member))
