"""Confidence intervals that hold for small samples and at the edges."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from amint.errors import UsageError

__all__ = ["Interval", "clopper_pearson", "error_rate", "hoeffding_interval"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval: both ends belong to it; ``confidence`` is its nominal coverage, e.g. 0.95."""

    low: float
    high: float
    confidence: float


def error_rate(confidence: float) -> float:
    """1 - ``confidence``. Raises UsageError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie strictly between 0 and 1, e.g. 0.95; found {confidence}.")
    return 1 - confidence


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval for a proportion of which ``k`` of ``n`` were seen (Clopper and Pearson 1934).

    Raises UsageError unless 0 <= k <= n, n >= 1 and 0 < confidence < 1.
    """
    alpha = error_rate(confidence)
    if n < 1 or not 0 <= k <= n:
        raise UsageError(f"k of n must satisfy 0 <= k <= n and n >= 1, found k={k}, n={n}.")
    low = 0.0 if k == 0 else float(stats.beta.ppf(alpha / 2, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.isf(alpha / 2, k + 1, n - k))
    return Interval(low, high, confidence)


def hoeffding_interval(mean: float, n: int, confidence: float = 0.95) -> Interval:
    """All x with n·KL(mean, x) <= log(2/alpha), for a ``mean`` of ``n`` independent values in [0, 1].

    Holds for every n and every distribution, and for a two-sample U-statistic such as the AUROC with n the
    size of the smaller sample (Hoeffding 1963, theorem 1 and section 5). For a mean of 0 or 1 it is the
    Clopper-Pearson bound, (alpha/2)^(1/n). Raises UsageError as :func:`clopper_pearson`.
    """
    limit = math.log(2 / error_rate(confidence)) / n
    edge = float(np.finfo(np.float64).eps)

    def excess(x: float) -> float:
        return float(special.rel_entr(mean, x) + special.rel_entr(1 - mean, 1 - x)) - limit

    def crossing(end: float) -> float:
        return end if excess(end) <= 0 else float(optimize.brentq(excess, mean, end))

    low = crossing(edge) if mean > edge else 0.0
    high = crossing(1 - edge) if mean < 1 - edge else 1.0
    return Interval(low, high, confidence)
