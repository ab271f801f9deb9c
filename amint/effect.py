"""How large is the difference, beside how sure: a p-value alone says nothing about size.

Scores are HIGHER = MORE LIKELY A MEMBER.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from amint.arrays import Floats, score_array
from amint.errors import UsageError
from amint.intervals import Interval, error_rate
from amint.metrics import auroc, auroc_interval

__all__ = ["Effect", "effect", "effect_by_class", "members_at_least"]

# Fixed beforehand, whatever the scores: members may stand out a little in the middle or far out at the top.
_LEVELS = (0.5, 0.75, 0.9, 0.97, 1.0)


@dataclass(frozen=True)
class Effect:
    """How far a submission stands above its calibration.

    Attributes:
        superiority: the probability that a submitted sample outscores a calibration sample, ties counted 1/2:
            0.5 = no difference, 1 = complete separation.
        interval: of the superiority.
        members_at_least: a lower confidence bound, at the level that was asked for, on how many submitted samples
            were used; 0 = none can be counted.
        samples: submitted samples.
        calibration_n: calibration non-members.
    """

    superiority: float
    interval: Interval
    members_at_least: int
    samples: int
    calibration_n: int


def effect(
    submitted: ArrayLike, calibration: ArrayLike, confidence: float = 0.95, bound: float | None = None
) -> Effect:
    """The effect size of a submission ``[m]`` against calibration scores ``[n]``.

    The probability of superiority is the AUROC of the two: free of scale and distribution, unlike a standardised
    difference of means. Its interval holds at ``confidence``, the lower bound on members at ``bound``, or at
    ``confidence`` too; each of them, not both jointly.

    Raises UsageError for an empty side or a confidence outside (0, 1), NonFiniteError for NaN or infinity.
    """
    x, y = _sides(submitted, calibration)
    scores, labels = np.concatenate([x, y]), np.arange(len(x) + len(y)) < len(x)
    return Effect(
        superiority=auroc(scores, labels),
        interval=auroc_interval(scores, labels, confidence),
        members_at_least=members_at_least(x, y, confidence if bound is None else bound),
        samples=len(x),
        calibration_n=len(y),
    )


def effect_by_class(
    submitted: ArrayLike,
    classes: NDArray[np.int64],
    calibration: ArrayLike,
    calibration_classes: NDArray[np.int64],
    confidence: float = 0.95,
    bound: float | None = None,
) -> Effect:
    """The effect size of a submission ``[m]`` of these classes, each sample against calibration of its own class.

    Each score is replaced by its place within its class: 0.5 in the middle of the calibration. The superiority is that
    of these places; the bound on members is the sum of those of the classes, which share its error. Samples of a class
    without calibration samples are left out; if that is all of them, the effect is 0.5, anywhere from 0 to 1.

    Raises as :func:`effect`.
    """
    x, y = _sides(submitted, calibration)
    shared = np.intersect1d(classes, calibration_classes)
    if not len(shared):
        return Effect(0.5, Interval(0.0, 1.0, confidence), 0, len(x), len(y))
    places, known_places, found = [], [], 0
    each = 1 - error_rate(confidence if bound is None else bound) / len(shared)
    for group in shared:
        own, known = x[classes == group], np.sort(y[calibration_classes == group])
        places.append((_mid_ranks(own, known) + 0.5) / (len(known) + 1))
        # Its own tie with itself does not count.
        known_places.append(_mid_ranks(known, known) / len(known))
        found += members_at_least(own, known, each)
    whole = effect(np.concatenate(places), np.concatenate(known_places), confidence)
    return Effect(whole.superiority, whole.interval, found, len(x), len(y))


def _mid_ranks(scores: Floats, known: Floats) -> Floats:
    """How many of the sorted ``known`` lie below each score, ties counted 1/2."""
    sides = [np.searchsorted(known, scores, side=side) for side in ("left", "right")]
    return np.asarray(np.mean(sides, axis=0), np.float64)


def members_at_least(submitted: ArrayLike, calibration: ArrayLike, confidence: float = 0.95) -> int:
    """A lower confidence bound on how many of the submitted samples ``[m]`` were used.

    If K of them were not used, the number of those at or below the k-th smallest calibration score is at least
    negative hypergeometric, whatever the members do: the largest K that leaves as few samples there as were seen is
    an upper bound on it. Five k's, fixed by n alone, share the error between them. Assumes only that unused samples
    are exchangeable with the calibration; finite-sample, with any ties.

    There is no upper bound, and so no estimate of the share in between: members that score like non-members cannot
    be counted without knowing how members score.

    Raises as :func:`effect`. Source: the idea of Meinshausen and Rice 2006, with exact finite-sample bounds.
    """
    x, y = _sides(submitted, calibration)
    n, y = len(y), np.sort(y)
    places = sorted({max(1, math.ceil(level * n)) for level in _LEVELS})
    error = error_rate(confidence) / len(places)
    at_or_below = np.searchsorted(np.sort(x), y[np.array(places) - 1], side="right")
    unused = min(
        _most_unused(len(x), n, k, int(seen), error) for k, seen in zip(places, at_or_below.tolist(), strict=True)
    )
    return len(x) - unused


def _most_unused(m: int, n: int, k: int, seen: int, error: float) -> int:
    """The largest K <= ``m`` for which at most ``seen`` of K lie below the k-th of n with a chance above ``error``."""
    low, high = seen, m
    while low < high:
        middle = (low + high + 1) // 2
        # At most ``seen`` of them come before the k-th: k of the first k + seen, in random order, are calibration.
        plausible = float(stats.hypergeom.sf(k - 1, middle + n, n, k + seen)) > error
        low, high = (middle, high) if plausible else (low, middle - 1)
    return low


def _sides(submitted: ArrayLike, calibration: ArrayLike) -> tuple[Floats, Floats]:
    x, y = score_array(submitted), score_array(calibration, "calibration scores")
    if not (len(x) and len(y)):
        raise UsageError(f"an effect size needs both sides, found {len(x)} submitted and {len(y)} calibration scores.")
    return x, y
