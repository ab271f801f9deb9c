"""Tests of a whole submission beside the rank-sum: Welch, permutation of a pipeline, disjoint halves.

Each asks whether the submission stands apart from the control: known non-members, exchangeable with what was not
trained on. Whatever else sets the two apart (date, camera, compression) is found as well, and where a scorer is
fitted, in either direction; nothing here can tell why. Rows must not repeat one another: a copy in both halves, or
in submission and control, is no independent sample. Scores are HIGHER = MORE LIKELY A MEMBER.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from amint.arrays import Floats, score_array
from amint.errors import NonFiniteError, UsageError
from amint.ranksum import PERMUTATIONS, rank_sum_p

__all__ = [
    "Fit",
    "Scorer",
    "combined_p",
    "discriminant",
    "permutation_p",
    "scaled_sum",
    "separation",
    "split_test",
    "welch_p",
]

Scorer: TypeAlias = Callable[[Floats], Floats]
Fit: TypeAlias = Callable[[Floats, NDArray[np.bool_]], Scorer]
# Permutations that reach the observation, after which a p-value above 1 % is known well enough.
_ENOUGH = 100
_TINY = float(np.finfo(np.float64).tiny)


def welch_p(submitted: ArrayLike, control: ArrayLike) -> float:
    """One-sided p-value of Welch's t on scores ``[m]`` and ``[n]``: is the submission's mean above the control's?

    Variances with ddof 1, Satterthwaite's degrees of freedom. Unlike the rank-sum this is an approximation, good
    where both means are close to normal. Where they need not be, which is judged on the pooled scores alone (few
    samples, long tails, ties, skew with unequal sizes), the larger of Welch's p and the exact one of the same
    statistic over seeded permutations is returned, so that it can be conservative but raises no extra alarms; it
    then cannot get below 1e-4. Taken by itself Welch's p raises, at a level of 1 % and with 1,000 controls, 3 %
    false alarms for 2 normal scores, 7 % for 5 scores skewed to the left (minus an exponential), and 94 % for 2
    scores of which 3 % are 0 and the others saturated at 1.

    1 with fewer than two scores on a side (no variance) and with two constant sides (no t): never a rejection.

    Raises UsageError for an empty or not one-dimensional side, NonFiniteError for NaN or infinity.
    Source: Welch 1947; permutations of a studentised statistic: Janssen 1997.
    """
    # Sorted, so that not even the rounding depends on the order.
    x, y = np.sort(score_array(submitted)), np.sort(score_array(control, "control scores"))
    if not (len(x) and len(y)):
        raise UsageError(f"Welch's test needs scores on both sides, found {len(x)} submitted and {len(y)} control.")
    if min(len(x), len(y)) < 2 or (np.ptp(x / 2) == 0 and np.ptp(y / 2) == 0):
        return 1.0
    pooled = np.concatenate([x, y])
    # In this range neither a sum nor a square can overflow, and a large common offset costs no digits later on.
    pooled /= np.abs(pooled).max()
    pooled -= np.median(pooled)
    t, dof = _welch(pooled[None], len(x))
    if not np.isfinite(t[0]):
        return 1.0
    p = float(stats.t.sf(t[0], dof[0]))
    if not _close_to_normal(pooled, len(x)):
        p = max(p, _permuted_welch(pooled, len(x), float(t[0])))
    return max(p, _TINY)


def permutation_p(
    submission_features: ArrayLike,
    control_features: ArrayLike,
    statistic: Callable[[Floats, Floats], float],
    permutations: int = 999,
    seed: int = 0,
) -> float:
    """Exact p-value of a whole pipeline: who was submitted is permuted, and the pipeline runs again each time.

    ``statistic`` takes the rows ``[m, d]`` of a submission and ``[n, d]`` of a control and returns a number, larger
    = more evidence. It must hold everything that sees both, fitting, scaling and choices included; then the p-value
    (1 + b) / (1 + ``permutations``), b permutations at least as large, is valid whatever the statistic does, for
    any m and n. Nothing smaller than 1 / (1 + ``permutations``) can come out. :func:`separation` is one statistic.

    Raises UsageError for arrays that are not ``[rows, d]`` with the same d, or fewer than 1 permutation;
    NonFiniteError for NaN or infinity, in features or statistics. Source: Phipson and Smyth 2010.
    """
    x, y = _feature_pair(submission_features, control_features)
    if permutations < 1:
        raise UsageError(f"permutations must be at least 1, e.g. 999; found {permutations}.")
    rng, m = np.random.default_rng(seed), len(x)
    rows = np.concatenate([x, y])
    observed = _finite(statistic(x, y))
    drawn = []
    for _ in range(permutations):
        order = rng.permutation(len(rows))
        drawn.append(_finite(statistic(rows[order[:m]], rows[order[m:]])))
    return (1 + int(_at_least(np.array(drawn), observed).sum())) / (1 + permutations)


def discriminant(features: Floats, is_submitted: NDArray[np.bool_]) -> Scorer:
    """Fisher's linear discriminant on standardised features ``[k, d]``, with a ridge: the default scorer.

    The direction is the first Newton step of logistic regression with an L2 penalty of C = 1: the same ranking to
    first order, in closed form, for any d and k, so that 999 refits take seconds. Means and deviations are those of
    ``features``; a feature that is constant there gets no weight.
    """
    largest = np.maximum(np.abs(features).max(axis=0), _TINY)
    # The mean of equal values can differ from them by rounding, which must not pass for a spread.
    live = (features / largest).std(axis=0) > 1e-12
    scaled = features[:, live] / largest[live]
    centre, spread = scaled.mean(axis=0), scaled.std(axis=0)
    z = (scaled - centre) / spread
    label = is_submitted - is_submitted.mean()
    weights = np.linalg.solve(z.T @ z / 4 + np.eye(z.shape[1]), z.T @ label) / spread

    def score(rows: Floats) -> Floats:
        # What overflows here is refused as a score, with a message.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((rows[:, live] / largest[live] - centre) @ weights, dtype=np.float64)

    return score


def split_test(
    submission_features: ArrayLike,
    control_features: ArrayLike,
    *,
    splits: int = 10,
    fit: Fit = discriminant,
    test: Callable[[Floats, Floats], float] = rank_sum_p,
    seed: int = 0,
) -> float:
    """P-value of several signals together: a scorer is fitted on one half and tested on the other, disjoint one.

    Rows are ``[m, d]`` and ``[n, d]``. Each split draws its halves at random; ``fit`` gets the rows of the first
    halves and which of them were submitted, and returns what scores other rows; ``test`` compares the scores of the
    second halves, one-sided. Scaling belongs into ``fit``, where test rows cannot reach it. The p-values of several
    splits are combined by :func:`combined_p`.

    As valid as ``test`` is: exact with the default. One split alone is valid too and stronger at the limit, but its
    outcome hangs on the seed. Scores that were cross-fitted and pooled are no substitute: they depend on one
    another, and raised 12 % false alarms at 5 %.

    Args:
        fit: ``(features [k, d], is_submitted [k]) -> scorer``, and ``scorer(rows [j, d]) -> scores [j]``.
        test: ``(submitted scores, control scores) -> p``.

    Raises UsageError with fewer than 2 rows on a side, fewer than 1 split, or arrays as in :func:`permutation_p`;
    NonFiniteError for NaN or infinity. Source: Maini et al. 2024 (arXiv 2406.06443).
    """
    x, y = _feature_pair(submission_features, control_features)
    if min(len(x), len(y)) < 2:
        raise UsageError(
            f"two halves need at least 2 rows on each side, found {len(x)} submitted and {len(y)} control; "
            "test a single score with rank_sum_p instead."
        )
    if splits < 1:
        raise UsageError(f"splits must be at least 1, found {splits}.")
    rng = np.random.default_rng(seed)
    p_values = []
    for _ in range(splits):
        (fit_x, test_x), (fit_y, test_y) = _halves(x, rng), _halves(y, rng)
        is_submitted = np.arange(len(fit_x) + len(fit_y)) < len(fit_x)
        scorer = fit(np.concatenate([fit_x, fit_y]), is_submitted)
        # Scored together, so that a scorer cannot treat the two sides differently.
        scores = score_array(scorer(np.concatenate([test_x, test_y])), "scores from fit")
        if len(scores) != len(test_x) + len(test_y):
            raise UsageError(f"the scorer must return one score a row, {len(test_x) + len(test_y)}; got {len(scores)}.")
        p_values.append(test(scores[: len(test_x)], scores[len(test_x) :]))
    return combined_p(p_values)


def combined_p(p_values: Sequence[float]) -> float:
    """One p-value from several of the same hypothesis: min(1, 2 x mean), or the p-value itself if there is one.

    Valid however they depend on one another; the plain mean is not, and can raise twice as many alarms as allowed.
    Raises UsageError for none or one outside [0, 1], NonFiniteError for NaN. Source: Rüschendorf 1982; Vovk and
    Wang 2020, section 3.
    """
    p = score_array(p_values, "p-values")
    if len(p) == 0 or p.min() < 0 or p.max() > 1:
        raise UsageError(f"expected at least one p-value, all between 0 and 1; found {p.tolist()[:5]}.")
    return float(p[0]) if len(p) == 1 else min(1.0, 2 * float(p.mean()))


def separation(submitted: Floats, control: Floats) -> float:
    """How far :func:`discriminant` gets the two sides apart, in standard deviations: for :func:`permutation_p`.

    It is judged on the very rows it was fitted on and so always finds something; the permutations say how much of
    it is nothing.
    """
    rows = np.concatenate([submitted, control])
    scores = discriminant(rows, np.arange(len(rows)) < len(submitted))(rows)
    spread = float(scores.std())
    return float(scores[: len(submitted)].mean() - scores[len(submitted) :].mean()) / spread if spread else 0.0


def scaled_sum(submission_features: ArrayLike, control_features: ArrayLike) -> tuple[Floats, Floats]:
    """Several signals as one score, without fitting: each scaled to [0, 1] over both sides together, then summed.

    ``[m, d]`` and ``[n, d]``, each feature HIGHER = MORE LIKELY A MEMBER by a choice made beforehand -> ``[m]`` and
    ``[n]``. The scaling does not know who was submitted: all rows may be tested, no half is given away. A constant
    feature counts as 0. Raises as :func:`permutation_p`. Source: arXiv 2502.02514 (IAR).
    """
    x, y = _feature_pair(submission_features, control_features)
    rows = np.concatenate([x, y])
    rows = rows / np.maximum(np.abs(rows).max(axis=0), _TINY)
    low, width = rows.min(axis=0), np.ptp(rows, axis=0)
    scores = np.where(width > 0, (rows - low) / np.where(width > 0, width, 1.0), 0.0).sum(axis=1)
    return scores[: len(x)], scores[len(x) :]


def _welch(samples: Floats, m: int) -> tuple[Floats, Floats]:
    """t and degrees of freedom of each row, whose first ``m`` values are the submission."""
    x, y = samples[:, :m], samples[:, m:]
    vx, vy = x.var(axis=1, ddof=1) / m, y.var(axis=1, ddof=1) / y.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (x.mean(axis=1) - y.mean(axis=1)) / np.sqrt(vx + vy)
        dof = (vx + vy) ** 2 / (vx**2 / (m - 1) + vy**2 / (y.shape[1] - 1))
    return np.asarray(t), np.asarray(dof)


def _close_to_normal(pooled: Floats, m: int) -> bool:
    """Whether Welch's p keeps the level, by the pooled scores alone, so that the answer cannot favour a side."""
    n = len(pooled) - m
    centred = pooled - pooled.mean()
    variance = float((centred**2).mean())
    kurtosis = float((centred**4).mean()) / variance**2
    skewness = float((centred**3).mean()) / variance**1.5
    # The skewness of the difference of means: to first order what t inherits, towards more alarms where negative.
    inherited = skewness * (1 / m**2 - 1 / n**2) / (1 / m + 1 / n) ** 1.5
    largest_tie = int(np.unique(pooled, return_counts=True)[1].max())
    # Limits set by simulation: inside them false alarms at 5 % and 1 % stay within a tenth of the level.
    return kurtosis <= 0.1 * min(m, n) and inherited >= -0.02 and largest_tie <= 0.05 * len(pooled)


def _permuted_welch(pooled: Floats, m: int, observed: float) -> float:
    """The exact p-value of Welch's t, sampled until it is known well enough (Besag and Clifford 1991)."""
    # A fixed seed, and one order: the same submission must always get the same verdict.
    rng = np.random.default_rng(0)
    pooled = np.sort(pooled)
    chunk = max(1, min(1_000, 10**6 // len(pooled)))
    reached = 0
    for start in range(0, PERMUTATIONS, chunk):
        rows = np.tile(pooled, (min(chunk, PERMUTATIONS - start), 1))
        counts = reached + np.cumsum(_at_least(_welch(rng.permuted(rows, axis=1, out=rows), m)[0], observed))
        if counts[-1] >= _ENOUGH:
            return _ENOUGH / (start + 1 + int(np.searchsorted(counts, _ENOUGH)))
        reached = int(counts[-1])
    return (1 + reached) / (1 + PERMUTATIONS)


def _at_least(drawn: Floats, observed: float) -> NDArray[np.bool_]:
    """Which are at least ``observed``; equal up to rounding counts, or a tie could pass for a win."""
    slack = 1e-9 * max(abs(observed), float(np.median(np.abs(drawn))))
    return np.asarray(drawn >= observed - slack, dtype=np.bool_)


def _halves(rows: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    order = rng.permutation(len(rows))
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


def _finite(statistic: float) -> float:
    if not math.isfinite(statistic):
        raise NonFiniteError(f"the statistic is {statistic}; return a finite number for every permutation.")
    return float(statistic)


def _feature_pair(submitted: ArrayLike, control: ArrayLike) -> tuple[Floats, Floats]:
    x, y = _feature_rows(submitted, "submission features"), _feature_rows(control, "control features")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"both sides must have the same features, found {x.shape[1]} submitted, {y.shape[1]} control.")
    return x, y


def _feature_rows(values: ArrayLike, name: str) -> Floats:
    raw = np.asarray(values)
    if raw.ndim != 2 or 0 in raw.shape:
        raise UsageError(f"{name} must be an array [rows, features], neither of them 0; found shape {raw.shape}.")
    return score_array(raw.ravel(), name).reshape(raw.shape)
