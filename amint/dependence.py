"""Pictures that look alike are fewer independent draws than they seem: how many groups of them a submission holds."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from amint.near_groups import near_groups
from amint.perceptual import Hashes, near_shares

__all__ = ["groups_of_copies", "p_value_of_groups", "share_of_draws"]

# Of independent pictures, at most this share is taken for copies of each other.
_BY_CHANCE = 0.05


def groups_of_copies(looks: Hashes | None, known: Hashes | None, m: int) -> Hashes:
    """For each of ``m`` submitted samples the first one that it is a copy of, often itself: int64 ``[m]``.

    Copies are pictures with nearly the same perceptual hash. How nearly depends on what is usual: independent digits
    resemble each other, photographs do not. Calibration pictures, which are independent, show at how many bits a set
    of ``m`` would hardly hold two that are near by chance.

    Args:
        looks: perceptual hashes of the samples, ``[m]``, or None for what is not an image.
        known: those of the calibration samples, or None.
        m: how many samples.

    Raises:
        UsageError: not int64 arrays.
    """
    if looks is None or known is None or m < 2:
        return np.arange(m)
    shares = near_shares(known)
    fitting = np.flatnonzero(shares * (m - 1) <= _BY_CHANCE)
    return near_groups(looks, int(fitting[-1])) if len(fitting) else np.arange(m)


def share_of_draws(groups: Hashes) -> float:
    """How many independent draws the samples of these groups are worth at least, as a share of them.

    The variance of a mean grows by the factor 1 / share if the samples of a group always agree (Kish 1965).
    """
    sizes = np.unique(groups, return_counts=True)[1]
    return float(len(groups) / (sizes.astype(np.float64) ** 2).sum())


def p_value_of_groups(of_all: float, of_firsts: float, share: float) -> float:
    """One p-value for a set of samples in groups.

    Valid if groups are copies of one picture, through the p-value of each group's first sample; and if pictures that
    merely look alike were grouped, which would leave out some kinds of pictures more often than others, through that
    of all samples with its deviate shrunk to the number of draws.

    Args:
        of_all: rank-sum p-value of all samples.
        of_firsts: of the first of each group.
        share: :func:`share_of_draws`.
    """
    if share >= 1:
        return of_all
    return max(of_firsts, float(stats.norm.sf(stats.norm.isf(of_all) * math.sqrt(share))))
