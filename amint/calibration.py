"""From scores to p-values: known non-members say how often a score this high occurs by itself.

Everything here assumes that a submitted non-member is exchangeable with the calibration non-members, and
nothing else: no normality, no sample size. Scores are float arrays with HIGHER = MORE LIKELY A MEMBER.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from amint.arrays import Floats, rounded_up, samples_needed, score_array
from amint.errors import AlphaError, UsageError
from amint.ranksum import rank_sum_p
from amint.set_tests import welch_p

__all__ = ["Calibration", "benjamini_hochberg", "holm"]

_SET_TESTS: dict[str, Callable[[Floats, Floats], float]] = {"rank-sum": rank_sum_p, "welch": welch_p}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of known non-members that nothing was trained on.

    Attributes:
        scores: float64 ``[n]``, n >= 1, finite, ascending, read-only; any order is accepted.

    Raises UsageError for an empty or not one-dimensional array, NonFiniteError for NaN or infinity.
    """

    scores: Floats

    def __post_init__(self) -> None:
        values = np.sort(score_array(self.scores, "calibration scores"))
        if len(values) == 0:
            raise UsageError(
                "calibration scores are empty; score at least 1/alpha - 1 known non-members, 99 for alpha 0.01."
            )
        values.setflags(write=False)
        object.__setattr__(self, "scores", values)

    def __repr__(self) -> str:
        return f"<Calibration: {len(self.scores):,} non-members, scores {self.scores[0]:.3g} to {self.scores[-1]:.3g}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and np.array_equal(self.scores, other.scores)

    def __hash__(self) -> int:
        return hash(tuple(self.scores.tolist()))

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that one sample can get: 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def p_values(self, scores: ArrayLike) -> Floats:
        """One conformal p-value a sample: ``[m]`` scores -> ``[m]``, (1 + #{calibration >= score}) / (n + 1).

        For an unused sample P(p <= alpha) <= alpha. Values of one submission share the calibration and so are
        dependent, in the positive way that Benjamini-Hochberg allows (Bates et al. 2023, theorem 2).

        Raises UsageError unless the scores are one-dimensional, NonFiniteError for NaN or infinity.
        """
        n = len(self.scores)
        at_least = n - np.searchsorted(self.scores, score_array(scores), side="left")
        return np.asarray((1 + at_least) / (n + 1), dtype=np.float64)

    def check_alpha(self, alpha: float) -> None:
        """Refuse, with AlphaError, a false-alarm rate outside (0, 1) or below the smallest p-value, 1/(n + 1)."""
        try:
            sound = bool(0 < alpha < 1)
        except TypeError:
            raise AlphaError(f"alpha must be a number between 0 and 1, e.g. 0.01; found {alpha!r}.") from None
        if not sound:
            raise AlphaError(f"alpha must lie strictly between 0 and 1, e.g. 0.01; found {alpha}.")
        if alpha < self.smallest_p:
            n = len(self.scores)
            raise AlphaError(
                f"alpha={alpha:g} is out of reach with {n} calibration samples: no p-value can be smaller than "
                f"1/{n + 1} = {self.smallest_p:.3g}. Use at least {samples_needed(alpha) - 1} calibration samples, "
                f"or an alpha of {rounded_up(self.smallest_p):g} or more."
            )

    def threshold(self, alpha: float) -> float:
        """The smallest float64 that gets a p-value of at most ``alpha``.

        ``score >= threshold`` exactly where ``p_values(score) <= alpha``, ties included: it is the next float64
        above a calibration score, because a score equal to that one already has too many at or above it.
        Compare in float64; rounded to float32 the step is lost. Raises AlphaError as :meth:`check_alpha`.
        """
        self.check_alpha(alpha)
        n = len(self.scores)
        # Counted on the very floats that p_values returns, so that no rounding can come between the two.
        allowed = int(np.searchsorted(np.arange(1, n + 1) / (n + 1), alpha, side="right")) - 1
        return float(np.nextafter(self.scores[n - 1 - allowed], np.inf))

    def set_p_value(self, scores: ArrayLike, test: str = "rank-sum") -> float:
        """One p-value for a whole submission ``[m]``: do its scores lie above the calibration scores?

        One-sided, all scores at once: strong where many samples are each a little high. ``rank-sum`` is valid for
        any m >= 1, n >= 1 and any ties (:func:`amint.ranksum.rank_sum_p`); heavily tied scores in numbers too large
        to enumerate use seeded permutations and cannot get below 1e-4. ``welch`` compares means and is approximate
        (:func:`amint.set_tests.welch_p`). One sample has its conformal p-value in both; constant scores give 1.

        Raises UsageError for an empty submission or an unknown test, NonFiniteError for NaN or infinity.
        """
        if test not in _SET_TESTS:
            raise UsageError(f"test must be one of {', '.join(_SET_TESTS)}; found {test!r}.")
        submitted = score_array(scores)
        if len(submitted) == 0:
            raise UsageError("The submission holds no scores; a set-level p-value needs at least one sample.")
        if len(submitted) == 1:
            return float(self.p_values(submitted)[0])
        return _SET_TESTS[test](submitted, self.scores)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """Adjusted p-values ``[m]`` -> ``[m]``: rejecting those <= alpha keeps the false-discovery rate <= alpha.

    Empty in, empty out. Raises UsageError outside [0, 1], NonFiniteError for NaN. Source: Benjamini and
    Hochberg 1995; valid for conformal p-values that share a calibration set.
    """
    p = _p_array(p_values)
    return p if len(p) == 0 else np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64)


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values ``[m]`` -> ``[m]``: rejecting those <= alpha keeps the chance of any false alarm <= alpha.

    Valid under every dependence. Empty in, empty out. Raises as :func:`benjamini_hochberg`. Source: Holm 1979.
    """
    p = _p_array(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def _p_array(p_values: ArrayLike) -> Floats:
    p = score_array(p_values, "p-values")
    if ((p < 0) | (p > 1)).any():
        raise UsageError(f"p-values must lie between 0 and 1, found {p.min()} to {p.max()}.")
    return p
