"""RMIA: does the sample's likelihood ratio dominate those of the population?

Source: Zarifzadeh et al. 2024, "Low-Cost High-Power Membership Inference Attacks" (arXiv 2312.03262), section 3.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from amint.arrays import Floats
from amint.attacks._masked import (
    Referenced,
    known_nonmembers,
    log_mean_exp,
    needs_of,
    one_of,
    referenced,
    require_inside,
    require_outside,
)
from amint.attacks._tuning import UNTUNED_A, fitted_a, log_guess, tuned_a
from amint.errors import NonFiniteError, UsageError
from amint.signals import Signals

__all__ = [
    "UNTUNED_A",
    "Mode",
    "Population",
    "Rmia",
    "check_reference_options",
    "fitted_a",
    "log_ratio",
    "taylor_logprob",
    "tuned_a",
]

Mode = Literal["online", "offline"]

VOTES = 2**22


@dataclass(frozen=True, eq=False)
class Population:
    """What an attack keeps of Z, the known non-members; all arrays read-only.

    Attributes:
        a: the offline guess's parameter, None online.
        log_ratios: log r_z, float64 ``[q, m]``, ascending for each query.
        ranks: where each z stands in ``log_ratios``, integers ``[q, m]``.
        note: that a could not be tuned, or empty.
    """

    a: float | None
    log_ratios: Floats
    ranks: NDArray[np.unsignedinteger[Any]]
    note: str = ""


@dataclass(frozen=True)
class Rmia:
    """Score = share of the population z with r_x / r_z > gamma, where r = p(y | target) / p(y), in steps of 1/m.

    p(y) is the mean probability over references. Online it is the mean of the IN mean and the OUT mean; offline the
    IN mean is guessed as a * OUT mean + 1 - a. A z that no reference trained on has no IN mean: its p(y) is the OUT
    mean. For one target the score never decreases in r_x, so its ROC is that of r_x up to the ties of the steps.

    With queries, each of a sample's queries is compared with the same query of z; a majority of them decides whether
    z is dominated, and a tie counts 1/2. Up to two queries cost O((n + m) log m); more cost O(n m q) simple
    comparisons, in constant memory.

    Attributes:
        mode: ``"offline"`` needs OUT references only.
        gamma: at least 1.
        a: 0 to 1; None tunes it in :meth:`fit`, with references in the place of the target, or takes
            :data:`UNTUNED_A` where none can take it.
        queries: read the signals of augmented queries.
        population: after :meth:`fit`, the known non-members.

    Raises UsageError for options out of range.
    """

    mode: Mode
    gamma: float = 1.0
    a: float | None = None
    queries: bool = False
    population: Population | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_reference_options(self.mode, self.a)
        if not 1 <= self.gamma < math.inf:
            raise UsageError(f"gamma must be at least 1, found {self.gamma}.")

    @property
    def name(self) -> str:
        """``rmia-online`` or ``rmia-offline``."""
        return f"rmia-{self.mode}"

    @property
    def needs(self) -> frozenset[str]:
        """The columns that are read."""
        return needs_of(self._signal)

    @property
    def note(self) -> str:
        """What to mind after :meth:`fit`, or empty."""
        return "" if self.population is None else self.population.note

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:
        """A new attack that holds the known non-members' ratios, and a tuned a if none was given.

        Raises UsageError where there is no known non-member, or where one has no OUT reference; NonFiniteError for NaN
        or infinity.
        """
        a, note = fitted_a(self.mode, self.a, known, self._signal)
        z = referenced(known_nonmembers(known, is_member, self.needs), self._signal)
        ratios = log_ratio(z, self.mode, a, "population samples (known non-members)").T
        order = np.argsort(ratios, axis=1, kind="stable")
        ranks = np.empty(order.shape, dtype=np.min_scalar_type(order.shape[1]))
        np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=ranks.dtype)[None], axis=1)
        ascending = np.take_along_axis(ratios, order, axis=1)
        for array in (ranks, ascending):
            array.setflags(write=False)
        return replace(self, population=Population(a, ascending, ranks, note))

    def score(self, signals: Signals) -> Floats:
        """``[n]`` in [0, 1], higher = more likely a member, for samples that are not in the population.

        Raises UsageError before :meth:`fit`, for a sample without the references that the mode needs, or columns
        that do not match; NonFiniteError for NaN or infinity.
        """
        z = self._fitted()
        x = referenced(signals, self._signal)
        if x.target.shape[1] != len(z.ranks):
            raise UsageError(f"fit saw {len(z.ranks)} queries a sample, score {x.target.shape[1]}; use the same ones.")
        if self.mode == "online":
            require_inside(x.inside, "samples")
        return self._dominated_share(log_ratio(x, self.mode, z.a, "samples"), z, z.ranks.shape[1])

    def population_scores(self) -> Floats:
        """``[m]``: each known non-member against the m - 1 others, in the order that :meth:`fit` saw them.

        Comparable with :meth:`score`, e.g. for a threshold; a z never dominates itself, so only the divisor changes.
        Raises UsageError before :meth:`fit`, or for a population of one.
        """
        z = self._fitted()
        m = z.ranks.shape[1]
        if m < 2:
            raise UsageError("Leaving one out needs at least 2 known non-members, found 1; fit with more.")
        ratios = np.take_along_axis(z.log_ratios, z.ranks.astype(np.intp), axis=1).T
        return self._dominated_share(ratios, z, m - 1)

    @property
    def _signal(self) -> str:
        return "logprob_queries" if self.queries else "logprob"

    def _fitted(self) -> Population:
        if self.population is None:
            raise UsageError("RMIA has no population yet; call fit with known non-members first.")
        return self.population

    def _dominated_share(self, ratios: Floats, z: Population, others: int) -> Floats:
        """How many z each of the ``[n, q]`` log ratios dominates, ``[n]``, as a share of the ``others``."""
        thresholds = (ratios - math.log(self.gamma)).T
        below = np.stack([np.searchsorted(*pair, side="left") for pair in zip(z.log_ratios, thresholds, strict=True)])
        # Of one or two votes, the majority with ties at 1/2 is their mean.
        if len(below) <= 2:
            return np.asarray(below.mean(axis=0) / others, dtype=np.float64)
        return np.asarray(_majorities(below.astype(z.ranks.dtype), z.ranks) / others, dtype=np.float64)


def check_reference_options(mode: str, a: float | None) -> None:
    """Raise UsageError for a mode or an a out of range, or for an a that the mode does not use."""
    one_of("mode", mode, ("online", "offline"))
    if a is not None and not 0 <= a <= 1:
        raise UsageError(f"a must lie between 0 and 1, or be None to be tuned; found {a}.")
    if a is not None and mode == "online":
        raise UsageError(f"a={a} belongs to the offline guess of the IN mean; the online attack measures it. Drop a.")


def log_ratio(columns: Referenced, mode: Mode, a: float | None, what: str) -> Floats:
    """``[n, q]``: log p(y | target) - log p(y), in nats; ``what`` names the samples in the error.

    Online, a sample without IN references has the OUT mean for its p(y). Raises UsageError for a sample without an
    OUT reference.
    """
    require_outside(columns.inside, what)
    outside = log_mean_exp(columns.reference, ~columns.inside)
    if mode == "online":
        seen = columns.inside.any(axis=1, keepdims=True)
        inside = log_mean_exp(columns.reference, np.where(seen, columns.inside, ~columns.inside))
        both = np.stack([inside, outside], axis=1)
        return columns.target - log_mean_exp(both, np.ones(both.shape[:2], dtype=bool))
    return columns.target - log_guess(outside, 1.0 if a is None else a)


def taylor_logprob(
    logits: ArrayLike, labels: ArrayLike, temperature: float = 2.0, margin: float = 0.6, order: int = 4
) -> Floats:
    """``[n]``: the signal of RMIA's image experiments, to take the place of ``logprob`` for target and references.

    The log of a softmax whose exponentials are Taylor sums up to ``order``, with the true class's logit lowered by
    ``margin``, from logits ``[n, c]`` and labels ``[n]``. (The authors' code stops a term early, at order 3, where
    the sums of logits below about -1.6 are negative.)

    Raises UsageError for an odd order, whose sums can be negative, a temperature that is not positive, or shapes and
    labels that do not fit; NonFiniteError for NaN or infinity.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if order < 2 or order % 2 or not 0 < temperature < math.inf:
        raise UsageError(f"order must be even and temperature positive; found {order} and {temperature}.")
    fits = z.ndim == 2 and y.shape == z.shape[:1] and y.dtype.kind in "iu"
    if not fits or not ((y >= 0) & (y < z.shape[1])).all():
        raise UsageError(
            f"Expected logits [n, c] and integer labels [n] in 0 ... c - 1; found {z.shape} and {y.shape}."
        )
    if not np.isfinite(z).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(z)).any(axis=1).sum())} of {len(z)} samples have NaN or infinite logits."
        )
    scaled = z / temperature
    truth = (np.arange(len(z)), y)
    scaled[truth] -= margin
    sums = np.polynomial.polynomial.polyval(scaled, 1 / special.factorial(np.arange(order + 1)))
    return np.asarray(np.log(sums[truth] / sums.sum(axis=1)), dtype=np.float64)


def _majorities(below: NDArray[Any], ranks: NDArray[Any]) -> Floats:
    """How many z win a majority of queries, ``[n]``: z wins query i of sample x if its rank is under ``below[i, x]``.

    Ranks stand for the ratios because narrow integers compare several times faster.
    """
    q, m = ranks.shape
    rows = max(1, VOTES // m)
    dominated = np.empty(below.shape[1])
    for start in range(0, below.shape[1], rows):
        part = below[:, start : start + rows, None]
        votes = np.zeros((part.shape[1], m), dtype=np.min_scalar_type(2 * q))
        for rank, bound in zip(ranks, part, strict=True):
            votes += rank < bound
        won = np.count_nonzero(2 * votes > q, axis=1)
        tied = np.count_nonzero(2 * votes == q, axis=1)
        dominated[start : start + rows] = won + tied / 2
    return dominated
