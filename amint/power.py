"""How many samples does it take? Power of the set-level test for one model, from scores of its known members.

The scores of known members stand for those of a future submission: power holds for samples like them, and for the
calibration that it was measured with. Both are samples themselves: where hundreds are needed, 3,000 members and 5,000
calibration scores left the power on fresh data as low as 0.55 instead of 0.8. Scores are HIGHER = MORE LIKELY A MEMBER.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from amint.arrays import Floats, score_array
from amint.calibration import Calibration
from amint.errors import AlphaError, UsageError
from amint.intervals import Interval, clopper_pearson

__all__ = [
    "SIZES",
    "Power",
    "PowerCurve",
    "false_alarm_rate",
    "power",
    "power_curve",
    "samples_needed",
    "samples_needed_by_mean_p",
]

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# From this many a side, without ties, the normal approximation of the rank-sum is within a few percent of its p.
_NORMAL = 20
# Submissions beyond this size are not drawn, to bound the memory.
_LARGEST = 10_000


@dataclass(frozen=True)
class Power:
    """How often submissions of ``n`` samples were found.

    Attributes:
        n: samples in each submission.
        rate: share of the random submissions with a set-level p-value of at most alpha.
        interval: Clopper-Pearson, for the choice of submissions; which members were scored at all is not in it.
        mean_p: their mean p-value, from the normal approximation.
    """

    n: int
    rate: float
    interval: Interval
    mean_p: float


@dataclass(frozen=True)
class PowerCurve:
    """Power by size of the submission; ``dataclasses.asdict`` gives plain values for JSON.

    Attributes:
        points: ascending sizes.
        needed: :func:`samples_needed` for ``target``, or None if half the members do not suffice.
        needed_by_mean_p: :func:`samples_needed_by_mean_p`, for comparison with papers, or None.
        target: the power asked for, e.g. 0.8.
        alpha: false-alarm rate of the test.
        repeats: random submissions of each size.
        members_n: known members that submissions were drawn from.
        calibration_n: calibration non-members.
    """

    points: tuple[Power, ...]
    needed: int | None
    needed_by_mean_p: int | None
    target: float
    alpha: float
    repeats: int
    members_n: int
    calibration_n: int


def power(
    members: ArrayLike, calibration: ArrayLike, n: int, alpha: float = 0.01, repeats: int = 200, seed: int = 0
) -> Power:
    """How often the rank-sum test at ``alpha`` finds ``n`` of the members: ``[k]`` scores against ``[c]``.

    Over ``repeats`` random subsets without replacement; one seed draws nested subsets for growing n. Subsets of
    more than half the members are much alike, so that the rate is too close to 0 or 1.

    Raises UsageError for empty scores, n outside 1..k or above 10,000, or fewer than 1 repeat, NonFiniteError for
    NaN or infinity, AlphaError for an alpha outside (0, 1). An alpha out of reach for n samples gives a rate of 0.
    """
    return _Study.of(members, calibration, alpha, repeats, seed).at(n)


def false_alarm_rate(calibration: ArrayLike, n: int, alpha: float = 0.01, repeats: int = 2_000, seed: int = 0) -> Power:
    """As :func:`power` for ``n`` of the calibration scores ``[c]`` against the other c - n: a rate of about alpha.

    Subsets of one calibration are not independent of one another, so that the interval is somewhat narrow. Raises
    as :func:`power`, and UsageError unless 1 <= n < c.
    """
    known = score_array(calibration, "calibration scores")
    _check(alpha, repeats)
    _check_size(n, min(len(known) - 1, _LARGEST), "all calibration scores but one")
    subsets = _orders(len(known), repeats, seed)[:, :n]
    ranks = stats.rankdata(known)
    wins = ranks[subsets].sum(axis=1) - n * (n + 1) / 2
    rest = len(known) - n

    def test(row: int) -> float:
        return Calibration(np.delete(known, subsets[row])).set_p_value(known[subsets[row]])

    return _measured(n, wins, rest, known, alpha, test)


def samples_needed(
    members: ArrayLike,
    calibration: ArrayLike,
    alpha: float = 0.01,
    power: float = 0.8,
    repeats: int = 200,
    seed: int = 0,
) -> int | None:
    """The smallest submission that the test finds with at least this power, or None if half the members are too few.

    Beyond half of them random subsets are too much alike to speak for other members; nor is anything above 10,000
    tried. Raises as :func:`power`, and UsageError for a power outside (0, 1].
    """
    return _Study.of(members, calibration, alpha, repeats, seed).needed(power)


def samples_needed_by_mean_p(
    members: ArrayLike, calibration: ArrayLike, alpha: float = 0.01, repeats: int = 1_000, seed: int = 0
) -> int | None:
    """The smallest submission whose mean p-value is at most ``alpha``: the criterion of the papers, for comparison.

    It says nothing about how often the test succeeds. Up to half the members; raises as :func:`power`. Source:
    arXiv 2411.12858 (CDI), arXiv 2502.02514 (IAR), arXiv 2512.09654.
    """
    return _Study.of(members, calibration, alpha, repeats, seed).needed_by_mean_p()


def power_curve(
    members: ArrayLike,
    calibration: ArrayLike,
    sizes: Iterable[int] | None = None,
    *,
    alpha: float = 0.01,
    target: float = 0.8,
    repeats: int = 200,
    seed: int = 0,
) -> PowerCurve:
    """:func:`power` for several sizes, by default those of ``SIZES`` up to half the members, and what is needed.

    Raises as :func:`power` and :func:`samples_needed`.
    """
    study = _Study.of(members, calibration, alpha, repeats, seed)
    if sizes is None:
        sizes = [size for size in SIZES if size <= study.half]
    return PowerCurve(
        points=tuple(study.at(size) for size in sorted(set(sizes))),
        needed=study.needed(target),
        needed_by_mean_p=study.needed_by_mean_p(),
        target=target,
        alpha=alpha,
        repeats=repeats,
        members_n=len(study.members),
        calibration_n=len(study.calibration.scores),
    )


@dataclass(frozen=True, eq=False)
class _Study:
    """Random submissions, drawn once and nested: the first n columns of a row are its submission of n members."""

    members: Floats
    calibration: Calibration
    alpha: float
    orders: NDArray[np.int64]
    wins: Floats

    @classmethod
    def of(cls, members: ArrayLike, calibration: ArrayLike, alpha: float, repeats: int, seed: int) -> "_Study":
        values, known = score_array(members, "members' scores"), Calibration(np.asarray(calibration))
        _check(alpha, repeats)
        if len(values) == 0:
            raise UsageError("members' scores are empty; score samples that are known to have been trained on.")
        below = np.searchsorted(known.scores, values, side="left") + np.searchsorted(known.scores, values, side="right")
        orders = _orders(len(values), repeats, seed)
        return cls(values, known, alpha, orders, np.cumsum(below[orders] / 2, axis=1))

    @property
    def half(self) -> int:
        return max(1, min(len(self.members) // 2, _LARGEST))

    def at(self, n: int) -> Power:
        _check_size(n, min(len(self.members), _LARGEST), "the members")
        known = self.calibration.scores

        def test(row: int) -> float:
            return self.calibration.set_p_value(self.members[self.orders[row, :n]])

        return _measured(n, self.wins[:, n - 1], len(known), known, self.alpha, test)

    def needed(self, target: float) -> int | None:
        if not 0 < target <= 1:
            raise UsageError(f"power must lie above 0 and not above 1, e.g. 0.8; found {target}.")
        enough = (self._approximate() <= self.alpha).mean(axis=0) >= target
        # The approximation says where to look; the test itself decides.
        n = int(enough.argmax()) + 1 if enough.any() else self.half
        while n > 1 and self.at(n - 1).rate >= target:
            n -= 1
        while self.at(n).rate < target:
            n += 1
            if n > self.half:
                return None
        return n

    def needed_by_mean_p(self) -> int | None:
        enough = self._approximate().mean(axis=0) <= self.alpha
        return int(enough.argmax()) + 1 if enough.any() else None

    def _approximate(self) -> Floats:
        """P-values ``[repeats, half]`` of every submission of 1, 2, ... members."""
        known = self.calibration.scores
        return _normal_p(self.wins[:, : self.half], np.arange(1, self.half + 1), len(known), known)


def _measured(n: int, wins: Floats, rest: int, known: Floats, alpha: float, test: Callable[[int], float]) -> Power:
    p = _normal_p(wins, np.array(n), rest, known)
    if min(n, rest) >= _NORMAL and len(np.unique(known)) == len(known):
        found = int((p <= alpha).sum())
    else:
        # More wins never mean a larger p-value, so that the test runs a few times instead of once a submission.
        order = np.argsort(wins, kind="stable").tolist()
        found = len(order) - bisect_left(order, True, key=lambda row: test(row) <= alpha)
    return Power(n, found / len(p), clopper_pearson(found, len(p)), float(p.mean()))


def _normal_p(wins: Floats, n: NDArray[np.int64], rest: int, known: Floats) -> Floats:
    """Rank-sum p-values for ``n`` samples that won so often against ``rest``, with the ties among ``known``."""
    ties = np.unique(known, return_counts=True)[1].astype(np.float64)
    total = n + rest
    untied = 1 - float((ties**3 - ties).sum()) / max(1, len(known) ** 3 - len(known))
    # Half the largest tie is the coarsest step that the statistic can take, as in the rank-sum itself.
    step = np.maximum(1.0, ties.max() * total / len(known) if untied < 1 else 1.0) / 2
    spread = np.sqrt(n * rest * (total + 1) / 12 * untied)
    if math.isclose(untied, 0, abs_tol=1e-12):
        return np.ones(wins.shape)
    return np.asarray(stats.norm.sf((wins - n * rest / 2 - step) / spread), dtype=np.float64)


def _orders(size: int, repeats: int, seed: int) -> NDArray[np.int64]:
    """The first ``_LARGEST`` places of ``repeats`` random permutations."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(size)[:_LARGEST] for _ in range(repeats)])


def _check_size(n: int, largest: int, whose: str) -> None:
    if not 1 <= n <= largest:
        raise UsageError(f"n must lie between 1 and {largest}, {whose} or {_LARGEST}; found {n}.")


def _check(alpha: float, repeats: int) -> None:
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, and 200 or more for a rate; found {repeats}.")
    if not 0 < alpha < 1:
        raise AlphaError(f"alpha must lie strictly between 0 and 1, e.g. 0.01; found {alpha}.")
