"""How private can a training run still be, given what an attack found? A lower bound on epsilon from one run.

Source: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", 2023, theorem 5.2. If the run is
(epsilon, delta)-differentially private and each of m samples was put in or left out by its own fair coin, the number
of right guesses among r is hardly larger than a binomial number with r trials and success probability
e^epsilon / (1 + e^epsilon). Many right guesses therefore refute small epsilons.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from amint.arrays import by_class, label_array, score_array
from amint.errors import UsageError
from amint.intervals import error_rate

__all__ = ["EpsilonBound", "audit_p_value", "epsilon_lower_bound", "one_run_audit", "paired_audit"]

# Below this many guesses not even epsilon = 0 is refuted at a level of 1/2**8.
_FEWEST = 8


@dataclass(frozen=True)
class EpsilonBound:
    """With this ``confidence`` the run is not (e, ``delta``)-differentially private for any e below ``value``.

    Attributes:
        value: the lower bound, 0 if nothing is refuted.
        guesses: how many guesses it rests on.
        correct: how many of them were right.
        samples: how many samples were put in or left out at random.
        delta: of the refuted guarantee.
        confidence: of the whole statement, after paying for every number of guesses that was tried.
    """

    value: float
    guesses: int
    correct: int
    samples: int
    delta: float
    confidence: float


def audit_p_value(guesses: int, correct: int, samples: int, epsilon: float, delta: float = 0.0) -> float:
    """An upper bound on the chance of ``correct`` or more right ``guesses`` if the run is (epsilon, delta)-private.

    It is P[B >= v] + 2·m·delta·max over i of P[v > B >= v - i] / i with B binomial (theorem 5.2 of the paper).

    Raises:
        UsageError: counts that cannot be, a negative epsilon, or a delta outside [0, 1].
    """
    _check_counts(guesses, correct, samples, delta)
    if not epsilon >= 0:
        raise UsageError(f"epsilon must be 0 or more, found {epsilon}.")
    return _p_value(guesses, correct, samples, epsilon, delta)


def epsilon_lower_bound(
    guesses: int, correct: int, samples: int, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The largest epsilon below which everything is refuted by ``correct`` right ones of ``guesses``, at least 0.

    Args:
        guesses: r, fixed before looking at the answers; samples without a guess are abstentions.
        correct: v, right guesses.
        samples: m >= r, put in or left out by a fair coin each.
        delta: of the refuted guarantee, in [0, 1].
        confidence: 1 - the chance that the bound exceeds the truth.

    Raises:
        UsageError: counts that cannot be, or delta or confidence out of range.
    """
    level = error_rate(confidence)
    _check_counts(guesses, correct, samples, delta)
    if correct == 0 or _p_value(guesses, correct, samples, 0.0, delta) >= level:
        return 0.0
    # Without delta the bound is Clopper and Pearson's one-sided one for the success probability, and delta lowers it.
    highest = float(special.logit(stats.beta.ppf(level, correct, guesses - correct + 1)))
    # A delta below rounding lowers nothing, and leaves no change of sign to search for.
    if _p_value(guesses, correct, samples, highest, delta) <= level or delta == 0:
        return highest
    return float(optimize.brentq(lambda e: _p_value(guesses, correct, samples, e, delta) - level, 0.0, highest))


def one_run_audit(
    scores: ArrayLike,
    is_member: ArrayLike,
    *,
    guesses: int | None = None,
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> EpsilonBound:
    """Guess "in" for the highest scores and "out" for the lowest, abstain in between, and bound epsilon.

    It must have been decided by an independent fair coin for each sample whether it was trained on; for a given
    number of members and of non-members see :func:`paired_audit`. Half of the guesses (rounded up) are "in".

    The number of guesses may not depend on the answers. If it is not given, m, m/2, m/4, … are all tried, each with an
    equal share of the error probability (Bonferroni), and the best bound is returned.

    Args:
        scores: ``[m]``, higher = more likely a member.
        is_member: ``[m]``.
        guesses: a number fixed before looking at these samples.
        delta: of the refuted guarantee.
        confidence: of the returned bound.
        seed: of the order among equal scores, which must not come from the order of the rows.

    Raises:
        UsageError: arrays that do not match, more guesses than samples, or delta or confidence out of range.
        NonFiniteError: NaN or infinite scores.
    """
    values, labels = score_array(scores), label_array(is_member)
    if len(values) != len(labels) or len(values) == 0:
        raise UsageError(f"one score and one label a sample are needed, found {len(values)} and {len(labels)}.")
    shuffle = np.random.Generator(np.random.PCG64(seed)).permutation(len(values))
    answers = labels[shuffle][np.argsort(values[shuffle], kind="stable")]

    def right(guesses: int) -> int:
        lowest = guesses // 2
        return int((~answers[:lowest]).sum() + answers[len(answers) - (guesses - lowest) :].sum())

    return _best(right, len(answers), guesses, delta, confidence)


def paired_audit(
    scores: ArrayLike,
    is_member: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    guesses: int | None = None,
    delta: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> EpsilonBound:
    """Pair members with non-members at random, guess the higher score of each pair, widest first, and bound epsilon.

    A fixed number of members is not a coin for each sample: knowing some of them says something of the others. If the
    members were drawn at random from members and non-members together, which of a pair was trained on is a fair coin
    of its own, and the bound holds for neighbouring data sets that differ by the replacement of one sample. Of the
    number of guesses the same is true as in :func:`one_run_audit`.

    Args:
        scores: ``[n]``, higher = more likely a member.
        is_member: ``[n]``.
        groups: ``[n]``, for instance classes; pairs are formed inside a group, and the members must then have been
            drawn at random inside each group or over all.
        guesses: a number of pairs fixed before looking at these samples.
        delta: of the refuted guarantee.
        confidence: of the returned bound.
        seed: of the pairs, of the order among equal differences, and of guesses between equal scores.

    Returns:
        The bound; its samples are pairs, as many as the smaller counts of all groups together.

    Raises:
        UsageError: arrays that do not match, one class only, no group with both a member and a non-member, more guesses
            than pairs, or delta or confidence out of range.
        NonFiniteError: NaN or infinite scores, or differences too large to hold.
    """
    by_class(scores, is_member)
    values, labels = score_array(scores), label_array(is_member)
    kinds = np.zeros(len(values), np.intp) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(kinds) != len(values):
        raise UsageError(f"groups must be one a sample, found {len(kinds)} for {len(values)} scores.")
    generator = np.random.Generator(np.random.PCG64(seed))
    pairs = [_pairs(np.flatnonzero(kinds == kind), labels, generator) for kind in range(int(kinds.max()) + 1)]
    inside, outside = generator.permutation(np.concatenate(pairs, axis=1), axis=1)
    if len(inside) == 0:
        raise UsageError("no group holds both a member and a non-member, so that no pair can be formed.")
    differences = score_array(values[inside] - values[outside])
    found = np.where(differences == 0, generator.random(len(differences)) < 0.5, differences > 0)
    found = found[np.argsort(-np.abs(differences), kind="stable")]
    return _best(lambda guesses: int(found[:guesses].sum()), len(found), guesses, delta, confidence)


def _pairs(rows: NDArray[np.intp], labels: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.intp]:
    inside, outside = generator.permutation(rows[labels[rows]]), generator.permutation(rows[~labels[rows]])
    count = min(len(inside), len(outside))
    return np.stack([inside[:count], outside[:count]])


def _best(right: Callable[[int], int], m: int, guesses: int | None, delta: float, confidence: float) -> EpsilonBound:
    """The best bound over the numbers of guesses, of which ``right`` says how many were right."""
    level = error_rate(confidence)
    tried = [m >> k for k in range(64) if m >> k >= _FEWEST] or [m]
    if guesses is not None:
        tried = [guesses]
    bounds = []
    for r in tried:
        _check_counts(r, 0, m, delta)
        correct = right(r)
        value = epsilon_lower_bound(r, correct, m, delta, 1 - level / len(tried))
        bounds.append(EpsilonBound(value, r, correct, m, delta, confidence))
    return max(bounds, key=lambda bound: bound.value)


def _p_value(r: int, v: int, m: int, epsilon: float, delta: float) -> float:
    right = float(special.expit(epsilon))
    tail = float(stats.binom.sf(v - 1, r, right))
    if delta == 0 or v == 0:
        return tail
    window = np.cumsum(stats.binom.pmf(np.arange(v - 1, -1, -1), r, right))
    return min(1.0, tail + 2 * m * delta * float((window / np.arange(1, v + 1)).max()))


def _check_counts(guesses: int, correct: int, samples: int, delta: float) -> None:
    if not (0 <= correct <= guesses <= samples and samples >= 1):
        raise UsageError(
            "expected 0 <= correct <= guesses <= samples and at least one sample, found "
            f"correct={correct}, guesses={guesses}, samples={samples}."
        )
    if not (math.isfinite(delta) and 0 <= delta <= 1):
        raise UsageError(f"delta must lie between 0 and 1, found {delta}.")
