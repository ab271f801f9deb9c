"""Calibration class by class, where the score of a sample depends on its class.

A class that the model finds easy may score high, seen or not. Compared with calibration samples of its own class a
non-member raises no more false alarms in an easy class than in a hard one; compared with all of them it does.
Classes are what can be known of a submitted sample without its label: the audited model's prediction. Scores are
HIGHER = MORE LIKELY A MEMBER.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from amint.arrays import Floats, samples_needed, score_array
from amint.calibration import Calibration
from amint.errors import UsageError
from amint.ranksum import PERMUTATIONS, rank_sum_p

__all__ = ["ConditionalCalibration", "depends_on_class"]

Groups = NDArray[Any]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ConditionalCalibration:
    """Scores of known non-members that nothing was trained on, each with its class (Mondrian calibration).

    Attributes:
        scores: float64 ``[n]``, n >= 1, finite, read-only.
        groups: ``[n]`` integers or strings, read-only: which class each belongs to.

    Raises UsageError for arrays that are empty, not one-dimensional or of different lengths, NonFiniteError for
    NaN or infinity. Source: Vovk, Gammerman and Shafer 2005, section 4.5.
    """

    scores: Floats
    groups: Groups

    def __post_init__(self) -> None:
        scores, groups = _paired(self.scores, self.groups, "calibration ")
        if len(scores) == 0:
            raise UsageError("calibration scores are empty; score known non-members of every class.")
        for name, values in (("scores", scores), ("groups", groups)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def counts(self) -> dict[Any, int]:
        """Class -> number of calibration samples."""
        names, counts = np.unique(self.groups, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    @property
    def pooled(self) -> Calibration:
        """All classes together."""
        return Calibration(self.scores)

    def check_alpha(self, alpha: float) -> None:
        """Refuse, with AlphaError, what :meth:`amint.calibration.Calibration.check_alpha` refuses of all classes.

        Where a class by itself is too small for ``alpha`` the p-values are pooled, so this is all that is needed.
        """
        self.pooled.check_alpha(alpha)

    def per_class(self, groups: ArrayLike, alpha: float) -> NDArray[np.bool_]:
        """Which submitted samples ``[m]`` are compared with their own class: those with every class large enough.

        Large enough means that every class, the submitted sample counted with its own, has at least 1/alpha
        samples. Counting it makes the choice the same whichever of them was submitted, and so keeps the false-alarm
        rate; deciding by 19 calibration samples alone raised 26.4 % at 25 %. A sample of a class without calibration
        samples makes that class too small and is compared with all.

        Raises UsageError unless the groups are one-dimensional integers or strings, AlphaError as
        :meth:`check_alpha`.
        """
        self.check_alpha(alpha)
        classes = _group_array(groups)
        self._check_kind(classes)
        needed, counts = samples_needed(alpha), self.counts
        short = sum(count < needed for count in counts.values())
        own = np.array([counts.get(group, 0) for group in classes.tolist()], dtype=np.int64)
        still_short = short - (own == needed - 1) + (own == 0)
        return np.asarray(still_short == 0, dtype=np.bool_)

    def together(self, groups: ArrayLike, alpha: float) -> bool:
        """Whether a submission as a whole, ``[m]`` classes, is compared within classes: if every class is large enough.

        Large enough means that every class, all submitted samples counted with their own, has at least 1/alpha
        samples: a choice that depends on calibration and submission alike, as in :meth:`per_class`, which it equals
        for one sample. Where it says no, :meth:`per_class` says no of every sample. Raises as :meth:`per_class`.
        """
        self.check_alpha(alpha)
        classes = _group_array(groups)
        self._check_kind(classes)
        counts = np.unique(np.concatenate([self.groups, classes]), return_counts=True)[1]
        return bool(counts.min() >= samples_needed(alpha))

    def p_values(self, scores: ArrayLike, groups: ArrayLike, alpha: float) -> Floats:
        """One conformal p-value a sample, ``[m]`` scores and classes -> ``[m]``: per class or pooled.

        Which of the two is told by :meth:`per_class` and, in words, by :meth:`explain`; ``alpha`` in (0, 1) is the
        rate that will be compared with, and a class must be able to reach it. For an unused sample
        P(p <= alpha) <= alpha over all classes, and within each class for those compared with their own.

        Raises UsageError for arrays of different lengths or shapes, NonFiniteError for NaN or infinity, AlphaError
        as :meth:`check_alpha`.
        """
        values, classes = _paired(scores, groups)
        own_class = self.per_class(classes, alpha)
        p = self.pooled.p_values(values)
        for group in np.unique(classes[own_class]):
            rows = own_class & (classes == group)
            p[rows] = Calibration(self.scores[self.groups == group]).p_values(values[rows])
        return p

    def explain(self, groups: ArrayLike, alpha: float) -> str:
        """In a sentence: with what :meth:`p_values` compares these samples, and why. Raises as :meth:`per_class`."""
        own_class, counts = self.per_class(groups, alpha), self.counts
        if own_class.all():
            smallest = min(counts.values())
            return f"Each sample is compared with its own class ({len(counts)} classes, {smallest} or more in each)."
        smallest_class = min(counts, key=lambda group: counts[group])
        needed = samples_needed(alpha)
        if counts[smallest_class] < needed:
            reason = f"class {smallest_class} has {counts[smallest_class]} calibration samples, alpha={alpha:g} "
            reason += f"takes {needed} in every class"
        else:
            reason = "there are no calibration samples of their class"
        which = f"{int((~own_class).sum())} of {len(own_class)} samples are" if own_class.any() else "All samples are"
        return f"{which} compared with all classes together, because {reason}."

    def set_p_value(self, scores: ArrayLike, groups: ArrayLike) -> float:
        """One p-value for a whole submission ``[m]``, compared within classes only (van Elteren's rank-sum test).

        Midranks within each class, weighted by 1 / (samples of the class + 1), over exchanges within classes: for
        classes of any size and any ties, and whatever the mixture of classes in the submission. One class by itself
        is :func:`amint.ranksum.rank_sum_p`; several take seeded permutations (p >= 1e-4), or the normal
        approximation where they are many. Classes without calibration samples say nothing; if there are no others
        the p-value is 1.

        Raises UsageError for an empty submission or arrays of different lengths, NonFiniteError for NaN or
        infinity. Source: van Elteren 1960; Lehmann 1975, section 3.3.
        """
        values, classes = _paired(scores, groups)
        if len(values) == 0:
            raise UsageError("The submission holds no scores; a set-level p-value needs at least one sample.")
        self._check_kind(classes)
        known = np.intersect1d(classes, self.groups)
        sides = [(values[classes == group], self.scores[self.groups == group]) for group in known]
        if len(sides) <= 1:
            return rank_sum_p(*sides[0]) if sides else 1.0
        return _stratified_p([_Stratum.of(submitted, control) for submitted, control in sides])

    def _check_kind(self, classes: Groups) -> None:
        if len(classes) and (classes.dtype.kind == "U") != (self.groups.dtype.kind == "U"):
            raise UsageError(
                f"groups must name classes as the calibration does, by {self.groups.dtype}; found {classes.dtype}."
            )


def depends_on_class(scores: ArrayLike, groups: ArrayLike) -> float:
    """P-value of "the score does not depend on the class", ``[n]`` calibration scores (Kruskal and Wallis 1952).

    To be reported, not to choose by: a weak dependence that it misses still shifts false alarms between classes.
    1 with one class or constant scores. Raises as :class:`ConditionalCalibration`.
    """
    values, classes = _paired(scores, groups)
    samples = [values[classes == group] for group in np.unique(classes)]
    if len(samples) < 2 or len(np.unique(values)) < 2:
        return 1.0
    return float(stats.kruskal(*samples).pvalue)


@dataclass(frozen=True, eq=False)
class _Stratum:
    """One class: its distinct doubled midranks, how often each occurs, and what the submission has of them."""

    doubled: Integers
    ties: Integers
    submitted: int
    observed: int

    @classmethod
    def of(cls, submitted: Floats, control: Floats) -> "_Stratum":
        _, level, counts = np.unique(np.concatenate([submitted, control]), return_inverse=True, return_counts=True)
        ties = counts.astype(np.int64)
        doubled: Integers = 2 * np.cumsum(ties) - ties + 1
        return cls(doubled, ties, len(submitted), int(doubled[level[: len(submitted)]].sum()))

    @property
    def size(self) -> int:
        return int(self.ties.sum())

    @property
    def smaller(self) -> int:
        return min(self.submitted, self.size - self.submitted)

    @property
    def weight(self) -> float:
        return 1 / (self.size + 1)

    @property
    def excess(self) -> float:
        """The weighted sum of midranks above its mean over exchanges."""
        return self.weight * (self.observed - self.submitted * (self.size + 1))

    def moments(self) -> tuple[float, float]:
        """Variance and third central moment of the excess over exchanges within the class."""
        m, n, total = self.submitted, self.size - self.submitted, self.size
        centred = self.weight * (self.doubled - (total + 1))
        second = float((self.ties * centred**2).sum()) * m * n / (total * (total - 1))
        if total == 2:
            return second, 0.0
        third = float((self.ties * centred**3).sum()) * m * n * (n - m) / (total * (total - 1) * (total - 2))
        return second, third

    def draw(self, size: int, rng: np.random.Generator) -> Floats:
        """``[size]`` excesses of random exchanges."""
        method: Literal["count", "marginals"] = "count" if self.smaller < len(self.ties) else "marginals"
        chunk = max(1, 10**7 // len(self.ties))
        sums = [
            rng.multivariate_hypergeometric(self.ties, self.submitted, size=min(chunk, size - start), method=method)
            @ self.doubled
            for start in range(0, size, chunk)
        ]
        return self.weight * (np.concatenate(sums) - self.submitted * (self.size + 1))


def _stratified_p(strata: list[_Stratum]) -> float:
    observed = sum(stratum.excess for stratum in strata)
    variance, third = (sum(parts) for parts in zip(*(stratum.moments() for stratum in strata), strict=True))
    untied = sum(stratum.smaller * (1 - int(stratum.ties.max()) / stratum.size) for stratum in strata)
    # Judged, as the rank-sum is, by the pooled scores alone.
    if untied >= 30 and abs(third) <= 0.05 * variance**1.5:
        step = max(stratum.weight * int(stratum.ties.max()) for stratum in strata)
        p = float(stats.norm.sf((observed - step) / math.sqrt(variance)))
        return max(p, float(np.finfo(np.float64).tiny))
    # A fixed seed: the same submission must always get the same verdict.
    rng = np.random.default_rng(0)
    drawn = sum((stratum.draw(PERMUTATIONS, rng) for stratum in strata), np.zeros(PERMUTATIONS))
    # Sums of weighted ranks that are equal may differ by rounding, which must not turn a tie into a win.
    reached = int((drawn >= observed - 1e-9).sum())
    return (1 + reached) / (1 + PERMUTATIONS)


def _group_array(groups: ArrayLike) -> Groups:
    raw = np.array(groups)
    if raw.ndim != 1 or not (raw.size == 0 or raw.dtype.kind in "biuU"):
        raise UsageError(
            "groups must be a one-dimensional array of integers or strings, the class of each sample; "
            f"found shape {raw.shape} and dtype {raw.dtype}."
        )
    return raw


def _paired(scores: ArrayLike, groups: ArrayLike, whose: str = "") -> tuple[Floats, Groups]:
    values, classes = score_array(scores, f"{whose}scores"), _group_array(groups)
    if len(values) != len(classes):
        raise UsageError(
            f"{whose}scores and groups must have the same length, found {len(values)} scores and "
            f"{len(classes)} groups. Pass the class of each sample, in the same order."
        )
    return values, classes
