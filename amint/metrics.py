"""How well do scores tell members from non-members? ROC, AUROC, TPR at a fixed FPR, each with an interval.

Scores are float arrays ``[n]`` with HIGHER = MORE LIKELY A MEMBER; labels are bool or 0/1 arrays ``[n]``.
One convention holds everywhere: a sample is called a member if its score is at or above the threshold,
which is also what :meth:`amint.calibration.Calibration.threshold` promises.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from amint.arrays import Floats, by_class, label_array, samples_needed
from amint.errors import UsageError
from amint.intervals import Interval, clopper_pearson, error_rate, hoeffding_interval

__all__ = [
    "LOW_FPRS",
    "Interval",
    "Measurement",
    "Roc",
    "auroc",
    "auroc_interval",
    "balanced_accuracy",
    "balanced_accuracy_interval",
    "clopper_pearson",
    "fpr_note",
    "roc",
    "summary",
    "tpr_at_fpr",
    "tpr_at_fpr_interval",
    "tpr_name",
]

LOW_FPRS = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Measurement:
    """A measured number, its uncertainty and the sizes behind it.

    ``note`` is empty, or says in words why the number cannot be taken at face value.
    """

    name: str
    value: float
    interval: Interval
    n_members: int
    n_nonmembers: int
    note: str = ""

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.interval.low:.3f} to {self.interval.high:.3f}){self.note and f'; {self.note}'}"


@dataclass(frozen=True, eq=False)
class Roc:
    """A step ROC: ``fpr``, ``tpr`` and ``thresholds``, each ``[k]``, from (0, 0) to (1, 1).

    Point ``i`` calls every score at or above ``thresholds[i]`` a member; the first threshold is +inf.
    """

    fpr: Floats
    tpr: Floats
    thresholds: Floats


def tpr_name(fpr: float) -> str:
    """The key of a TPR: ``tpr_at_fpr_0.001`` for 0.001."""
    return f"tpr_at_fpr_{np.format_float_positional(fpr, trim='-')}"


def roc(scores: ArrayLike, is_member: ArrayLike) -> Roc:
    """The ROC, with one point a distinct score: tied scores move as one step. O(n log n).

    Raises UsageError for arrays that do not match, labels other than 0/1, or one class only;
    NonFiniteError for NaN or infinite scores.
    """
    members, others = by_class(scores, is_member)
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    return Roc(
        fpr=np.concatenate([[0.0], _at_or_above(others, thresholds) / len(others)]),
        tpr=np.concatenate([[0.0], _at_or_above(members, thresholds) / len(members)]),
        thresholds=np.concatenate([[np.inf], thresholds]),
    )


def auroc(scores: ArrayLike, is_member: ArrayLike) -> float:
    """The probability that a member outscores a non-member, ties counted 1/2. Raises as :func:`roc`."""
    value, _, _ = _auroc_parts(*by_class(scores, is_member))
    return value


def auroc_interval(scores: ArrayLike, is_member: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval for the AUROC: DeLong's variance on the logit scale, held inside a finite-sample bound.

    With m the size of the smaller class and A the AUROC, two corrections that vanish as m grows keep the
    coverage near nominal for small or unequal classes and high A: A(1-A)/m² is added to the variance (about
    one discordant pair that the sample did not happen to show), and the quantile is Student's with m-1
    degrees of freedom.

    The bound is :func:`amint.intervals.hoeffding_interval`, sound for every size and distribution. It is used
    alone where DeLong's variance says nothing: A of 0 or 1, constant scores, a class of one.

    Sources: DeLong et al. 1988; Sun and Xu 2014 (by ranks); Pepe 2003, section 5.2 (logit). Raises UsageError
    for a confidence outside (0, 1), and as :func:`roc`.
    """
    alpha = error_rate(confidence)
    value, variance, smaller = _auroc_parts(*by_class(scores, is_member))
    bound = hoeffding_interval(value, smaller, confidence)
    if variance == 0 or value in (0, 1):
        return bound
    spread = value * (1 - value)
    error = math.sqrt(variance + spread / smaller**2) / spread
    reach = float(stats.t.isf(alpha / 2, smaller - 1)) * error
    centre = float(special.logit(value))
    low, high = float(special.expit(centre - reach)), float(special.expit(centre + reach))
    return Interval(max(bound.low, low), min(bound.high, high), confidence)


def tpr_at_fpr(scores: ArrayLike, is_member: ArrayLike, fpr: float) -> float:
    """The largest TPR on the step ROC whose FPR does not exceed ``fpr`` in [0, 1]; no interpolation.

    Raises UsageError for an ``fpr`` outside [0, 1], and as :func:`roc`.
    """
    if not 0 <= fpr <= 1:
        raise UsageError(f"fpr must lie between 0 and 1, found {fpr}.")
    curve = roc(scores, is_member)
    return float(curve.tpr[curve.fpr <= fpr][-1])


def tpr_at_fpr_interval(scores: ArrayLike, is_member: ArrayLike, fpr: float, confidence: float = 0.95) -> Interval:
    """Interval for the TPR at the threshold whose FPR on *all* non-members, not only on these, is ``fpr``.

    Two things are uncertain, and each end of the interval gives half of its error rate to each: where that threshold
    lies (between two of these non-members' scores, by the binomial distribution of how many score above it), and how
    many members score above it (Clopper-Pearson). Sound for every size and distribution, ties included. Where not even
    the highest non-member is surely above the threshold, below about 4.4 / fpr non-members for 95 %, the low end is 0.

    Source: order-statistic bounds on a quantile (David and Nagaraja 2003, section 7.1). Raises as :func:`tpr_at_fpr`.
    """
    tail = error_rate(confidence) / 4
    tpr_at_fpr(scores, is_member, fpr)
    members, others = by_class(scores, is_member)
    # With so many above it, a score can hardly have an FPR above (first), or up to (second), the one asked for.
    above_few = int(stats.binom.ppf(tail, len(others), fpr))
    above_many = int(stats.binom.isf(tail, len(others), fpr)) + 1
    falling = np.r_[np.inf, np.sort(others)[::-1], -np.inf]
    fewest, most = (int((members > falling[k]).sum()) for k in (above_few, above_many))
    part = 1 - 2 * tail
    low, high = (clopper_pearson(found, len(members), part) for found in (fewest, most))
    return Interval(low.low, high.high, confidence)


def balanced_accuracy(scores: ArrayLike, is_member: ArrayLike, threshold: float) -> float:
    """Mean of TPR and TNR when exactly the scores >= ``threshold`` are called members.

    Raises UsageError for a NaN threshold, and as :func:`roc`.
    """
    found, n_members, rejected, n_others = _decisions(scores, is_member, threshold)
    return (found / n_members + rejected / n_others) / 2


def balanced_accuracy_interval(
    scores: ArrayLike, is_member: ArrayLike, threshold: float, confidence: float = 0.95
) -> Interval:
    """Mean of two Clopper-Pearson intervals, each at the square root of ``confidence``.

    Members and non-members are independent samples, so both rates are covered at once with at least
    ``confidence``, and then their mean is covered: sound, and somewhat wide. Valid for a threshold that was
    fixed without these scores, e.g. on calibration non-members. Raises as :func:`balanced_accuracy`.
    """
    error_rate(confidence)
    found, n_members, rejected, n_others = _decisions(scores, is_member, threshold)
    tpr = clopper_pearson(found, n_members, math.sqrt(confidence))
    tnr = clopper_pearson(rejected, n_others, math.sqrt(confidence))
    return Interval((tpr.low + tnr.low) / 2, (tpr.high + tnr.high) / 2, confidence)


def summary(
    scores: ArrayLike,
    is_member: ArrayLike,
    threshold: float,
    fprs: Iterable[float] = LOW_FPRS,
    confidence: float = 0.95,
) -> dict[str, Measurement]:
    """All measurements by name: ``auroc``, ``balanced_accuracy`` and ``tpr_at_fpr_<fpr>`` for each of ``fprs``.

    Raises as :func:`balanced_accuracy` and :func:`tpr_at_fpr`.
    """
    n_members = int(label_array(is_member).sum())
    n_others = len(label_array(is_member)) - n_members

    def measured(name: str, value: float, interval: Interval, note: str = "") -> Measurement:
        return Measurement(name, value, interval, n_members, n_others, note)

    found = [
        measured("auroc", auroc(scores, is_member), auroc_interval(scores, is_member, confidence)),
        measured(
            "balanced_accuracy",
            balanced_accuracy(scores, is_member, threshold),
            balanced_accuracy_interval(scores, is_member, threshold, confidence),
        ),
    ]
    for fpr in fprs:
        value = tpr_at_fpr(scores, is_member, fpr)
        interval = tpr_at_fpr_interval(scores, is_member, fpr, confidence)
        found.append(measured(tpr_name(fpr), value, interval, fpr_note(fpr, n_others)))
    return {measurement.name: measurement for measurement in found}


def fpr_note(fpr: float, n_others: int) -> str:
    """Why a TPR at this FPR cannot be taken at face value with so many non-members, or an empty text."""
    if fpr <= 0:
        return "an FPR of 0 cannot be shown by any number of non-members"
    needed = samples_needed(fpr)
    return "" if n_others >= needed else f"needs at least {needed} non-members, has {n_others}"


def _at_or_above(scores: Floats, thresholds: Floats) -> NDArray[np.intp]:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _decisions(scores: ArrayLike, is_member: ArrayLike, threshold: float) -> tuple[int, int, int, int]:
    if math.isnan(threshold):
        raise UsageError("threshold is NaN; take it from calibration non-members: Calibration.threshold(alpha).")
    members, others = by_class(scores, is_member)
    return int((members >= threshold).sum()), len(members), int((others < threshold).sum()), len(others)


def _auroc_parts(members: Floats, others: Floats) -> tuple[float, float, int]:
    """AUROC, DeLong's variance and the size of the smaller class, by ranks in O(n log n)."""
    m, n = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    # Wins stay multiples of 1/2, exact in floating point: equal ones have a variance of exactly 0.
    member_wins = ranks[:m] - stats.rankdata(members)
    other_wins = ranks[m:] - stats.rankdata(others)
    value = float(member_wins.sum()) / (m * n)
    if min(m, n) < 2:
        return value, 0.0, 1
    variance = member_wins.var(ddof=1) / (n**2 * m) + other_wins.var(ddof=1) / (m**2 * n)
    return value, float(variance), min(m, n)
