"""LiRA: is the target's logit that of a model which trained on the sample, or of one which did not?

Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570), sections IV-V.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats, label_array
from amint.attacks._masked import (
    Mask,
    Referenced,
    mean,
    median,
    needs_of,
    one_of,
    referenced,
    require_inside,
    require_outside,
    variance,
)
from amint.errors import UsageError
from amint.signals import Signals

__all__ = ["Lira", "Spread"]

MODES = ("online", "offline")
VARIANCES = ("auto", "per_example", "pooled", "shrunk", "official", "official_bug")

# From this many references on, the paper trusts the variance of each example by itself.
ENOUGH_REFERENCES = 64

# References that differ by less than float32 logits can resolve have no measured spread.
SMALLEST_STD = 1e-6


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviations over the known samples, one a query, float64 ``[q]``; NaN where no reference measured one.

    Attributes:
        inside: of the IN references.
        outside: of the OUT references.
    """

    inside: Floats
    outside: Floats


@dataclass(frozen=True)
class Lira:
    """Gaussian likelihood ratio of the scaled logit z_y - logsumexp of the others, in nats, summed over queries.

    Online, the score is log N(phi; IN) - log N(phi; OUT). Offline it is the one-sided z-score of phi among the OUT
    references: it ranks like the paper's P[Z <= phi] without its ties at 1. (The official code's offline score is
    the two-sided z²/2 + log s, by which very unsure samples look like members too.)

    Attributes:
        mode: ``"offline"`` needs OUT references only.
        variance: where each hypothesis takes its variance from.
            ``"auto"``: per example from 64 references on, else pooled (the paper's rule).
            ``"per_example"``: of the example's own references; at least two of each kind.
            ``"pooled"``: one value, the mean squared distance of references from their own example's mean, over the
            known samples.
            ``"shrunk"``: (n s² + nu s_pooled²) / (n + nu) with n references of the example.
            ``"official"``: of all raw values over all known samples, as in the authors' code for few references;
            it counts the differences between examples as noise.
            ``"official_bug"``: the same, with the IN value for OUT too, as the authors' online code computes it.
        location: ``"mean"`` (the paper's text) or ``"median"`` (its code) of the references.
        nu: weight of the pooled variance in ``"shrunk"``, in references. 8 stayed within 0.01 AUROC of the better of
            the two on simulated fleets of 4 to 64 references, whether the examples' variances differ or not.
        queries: read the signals of augmented queries.
        spread: after :meth:`fit`, the pooled standard deviations.

    Raises UsageError for options that are unknown, out of range or do not go together.
    """

    mode: Literal["online", "offline"]
    variance: Literal["auto", "per_example", "pooled", "shrunk", "official", "official_bug"] = "auto"
    location: Literal["mean", "median"] = "mean"
    nu: float = 8.0
    queries: bool = False
    spread: Spread | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES)
        one_of("variance", self.variance, VARIANCES)
        one_of("location", self.location, ("mean", "median"))
        if not 0 <= self.nu < math.inf:
            raise UsageError(f"nu must be at least 0 and finite, found {self.nu}.")
        if self.mode == "offline" and self.variance == "official_bug":
            raise UsageError('The error that variance="official_bug" repeats is in the online attack; use "official".')

    @property
    def name(self) -> str:
        """``lira-online`` or ``lira-offline``."""
        return f"lira-{self.mode}"

    @property
    def needs(self) -> frozenset[str]:
        """The columns that are read."""
        return needs_of(self._signal)

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:
        """A new attack that holds the known samples' pooled spread; their membership of the target plays no part.

        Raises UsageError for columns that do not match, NonFiniteError for NaN or infinity.
        """
        if len(label_array(is_member)) != len(known):
            raise UsageError(f"known and is_member must have one length, found {len(known)} and {len(is_member)}.")
        columns = referenced(known, self._signal)
        over = _raw_std if self.variance.startswith("official") else _residual_std
        return replace(
            self, spread=Spread(over(columns.reference, columns.inside), over(columns.reference, ~columns.inside))
        )

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member.

        Raises UsageError before :meth:`fit`, for a sample without the references that mode and variance need, or
        columns that do not match; NonFiniteError for NaN or infinity.
        """
        if self.spread is None:
            raise UsageError("LiRA has no pooled variance yet; call fit with known samples first.")
        columns = referenced(signals, self._signal)
        if len(self.spread.outside) != columns.target.shape[1]:
            raise UsageError(
                f"fit saw {len(self.spread.outside)} queries a sample, score {columns.target.shape[1]}; use the same "
                f"ones."
            )
        require_outside(columns.inside, "samples")
        outside, outside_std = self._gaussian(columns, ~columns.inside, self.spread.outside, "OUT")
        if self.mode == "offline":
            return np.asarray(((columns.target - outside) / outside_std).sum(axis=1), dtype=np.float64)
        require_inside(columns.inside, "samples")
        inside, inside_std = self._gaussian(columns, columns.inside, self.spread.inside, "IN")
        if self.variance == "official_bug":
            outside_std = inside_std
        ratio = _log_density(columns.target, inside, inside_std) - _log_density(columns.target, outside, outside_std)
        return np.asarray(ratio.sum(axis=1), dtype=np.float64)

    @property
    def _signal(self) -> str:
        return "scaled_logit_queries" if self.queries else "scaled_logit"

    def _gaussian(self, columns: Referenced, mask: Mask, pooled: Floats, kind: str) -> tuple[Floats, Floats]:
        """Location and standard deviation, ``[n, q]`` each, under one hypothesis."""
        rule = self.variance
        if rule == "auto":
            rule = "per_example" if mask.shape[1] >= ENOUGH_REFERENCES else "pooled"
        centre = (mean if self.location == "mean" else median)(columns.reference, mask)
        count = mask.sum(axis=1)[:, None]
        if rule == "per_example":
            _require_two(count, kind)
            std = np.sqrt(variance(columns.reference, mask))
        elif np.isnan(pooled).any():
            raise UsageError(
                f"None of the known samples had two {kind} references, so nothing says how much models differ on one "
                f'sample. Fit with known samples that have some, or use variance="per_example".'
            )
        elif rule == "shrunk":
            own = count * variance(columns.reference, mask)
            std = np.sqrt((own + self.nu * pooled**2) / (count + self.nu))
        else:
            std = np.broadcast_to(pooled, centre.shape)
        return centre, np.maximum(std, SMALLEST_STD)


def _require_two(count: NDArray[np.intp], kind: str) -> None:
    if bad := int((count < 2).sum()):
        raise UsageError(
            f"{bad} of {len(count)} samples have fewer than 2 {kind} references, too few for a variance of their own. "
            f'Use variance="pooled" or "shrunk", or add references.'
        )


def _log_density(value: Floats, centre: Floats, std: Floats) -> Floats:
    """Of a Gaussian, up to the constant that cancels."""
    return np.asarray(-(((value - centre) / std) ** 2) / 2 - np.log(std), dtype=np.float64)


def _residual_std(values: NDArray[Any], mask: Mask) -> Floats:
    """Root mean square distance of the masked values from their own sample's mean, one a query; NaN without any.

    A sample with one value says nothing about the spread and is left out.
    """
    count = mask.sum(axis=1)[:, None]
    count = np.where(count > 1, count, 0)
    if not count.any():
        return np.full(values.shape[2], np.nan)
    return np.asarray(np.sqrt((count * variance(values, mask)).sum(axis=0) / count.sum()), dtype=np.float64)


def _raw_std(values: NDArray[Any], mask: Mask) -> Floats:
    """Standard deviation of all masked values at once, over queries too, repeated for each query."""
    count = mask.sum(axis=1)[:, None]
    if not count.any():
        return np.full(values.shape[2], np.nan)
    means, total = mean(values, mask), count.sum() * values.shape[2]
    around = means - (count * means).sum() / total
    squares = (count * (variance(values, mask) + around**2)).sum()
    return np.full(values.shape[2], math.sqrt(squares / total))
