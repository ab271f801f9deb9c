"""Is a sample unlike all calibration data, whatever the model makes of it? For submissions too small to be classified.

A classifier that tells two sets apart takes about ten samples (:func:`amint.controls.blind_baseline`). One strange
sample shows by itself: a network often reacts to it as to a member, or is surer of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amint.arrays import Floats, samples_needed
from amint.calibration import Calibration
from amint.conditional import ConditionalCalibration
from amint.findings import Control, Outcome

__all__ = ["odd_samples"]

# Each of two tests keeps it: sound submissions fail once in a hundred times at most.
_LEVEL = 0.005
# Fewer say too little of how 60 features vary together, though any number would keep the level.
_FEWEST, _FEWEST_FITTED = 20, 100
# Added to the variances, so that features which all but repeat each other do not decide alone.
_RIDGE = 0.1
# What never varied where it was fitted, and does here, is stranger than anything that varied.
_NEVER_SEEN = 1e6
_MOST_NAMED = 20
_NAME = "odd samples"
_REACTS = ": a network may react to what is strange as it does to what it knows."
_SLIGHT = "; a slight difference would not be found with so few."


def odd_samples(
    submission: ArrayLike,
    calibration: ArrayLike,
    *,
    seed: int,
    names: Sequence[str | None],
    groups: tuple[ArrayLike, ArrayLike] | None = None,
) -> Control:
    """Are submitted samples further from the calibration data than calibration data is from itself?

    Mean and covariance of the features are those of a random part of the calibration samples, oddness is the
    Mahalanobis distance from them, and it is ranked among that of the other part, which needs no assumption but
    exchangeability. ``failed``: for one of the m samples a conformal p <= 0.005 / m, or for all of them a rank-sum test
    with p <= 0.005; data like the calibration fails with a chance of at most 1 %.

    Args:
        submission: ``[m, f]`` finite numbers that come from the samples alone (:func:`amint.blind.blind_features`).
        calibration: ``[n, f]``, the same of the calibration samples.
        seed: of the part that is fitted to.
        names: of the submitted samples, ``[m]``.
        groups: integers ``[m]`` and ``[n]``, such as predicted classes: samples are then ranked within their group.

    Returns:
        ``value`` is the share of samples that are odd by themselves, ``p_value`` the smaller of both p-values, that of
        the samples times m. Details: ``odd`` (their names, 20 at most), ``submitted``, ``ranked`` (calibration samples
        that each is ranked among, at least). ``not checked`` if nothing failed and one odd sample could not have: that
        takes 200 m - 1 ranked samples. Nor is it checked with fewer than 40 calibration samples.

    Sources: Vovk, Gammerman and Shafer 2005 (conformal p-values); Lehmann 1975 (rank-sum test).
    """
    own, known = np.asarray(submission, np.float64), np.asarray(calibration, np.float64)
    labels = groups or (np.zeros(len(own)), np.zeros(len(known)))
    own_group, known_group = (np.asarray(side).astype(np.int64) for side in labels)
    m, n = len(own), len(known)
    if not m or n < 2 * _FEWEST:
        sentence = f"Not checked for odd samples: {m} can be compared with {n}, and it takes {2 * _FEWEST} of these."
        return Control(_NAME, "not checked", sentence)
    needed = samples_needed(_LEVEL / m) - 1
    fitted, ranked = _parts(n, needed, seed)
    distances = _distances(known[fitted], np.concatenate([own, known[ranked]]))
    scale = ConditionalCalibration(distances[m:], known_group[ranked])
    singly, whole = _singly(scale, distances[:m], own_group), scale.set_p_value(distances[:m], own_group)
    odd = np.flatnonzero(singly <= _LEVEL / m).tolist()
    fewest = min(scale.counts.get(group, 0) for group in own_group.tolist())
    p_value = float(min(whole, m * singly.min(), 1.0))
    outcome: Outcome = "failed" if odd or whole <= _LEVEL else "passed" if fewest >= needed else "not checked"
    if outcome == "not checked":
        sentence = _too_few(m, needed, fewest, groups is not None)
    else:
        sentence = _found(m, len(odd), outcome) + f" (p = {p_value:.2g}){_REACTS if outcome == 'failed' else _SLIGHT}"
    details: dict[str, Any] = {"submitted": m, "ranked": fewest, "odd": [names[i] for i in odd[:_MOST_NAMED]]}
    return Control(_NAME, outcome, sentence, p_value, len(odd) / m, details)


def _found(m: int, odd: int, outcome: Outcome) -> str:
    where = "the calibration data, in what can be seen without the model"
    if outcome == "passed":
        none = "The submitted sample does not stand" if m == 1 else f"None of the {m} submitted samples stands"
        return f"{none} out from {where}"
    if not odd:
        return f"Taken together, the {m} submitted samples lie outside {where}"
    some = "The submitted sample lies" if m == 1 else f"{odd} of {m} submitted samples {'lies' if odd == 1 else 'lie'}"
    return f"{some} far outside {where}"


def _too_few(m: int, needed: int, fewest: int, grouped: bool) -> str:
    sample = "the submitted sample is" if m == 1 else f"one of the {m} submitted samples is"
    among, takes = " of its class" if grouped else "", "" if grouped else f", so {needed + _FEWEST_FITTED} in all"
    return (
        f"Not checked whether {sample} unlike all calibration data: there are {fewest} calibration samples{among} to "
        f"rank it among, and it takes {needed}{takes}."
    )


def _parts(n: int, needed: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which to fit to and which to rank among: half each, or as many to rank as needed if enough are left."""
    order, half = np.random.default_rng(seed).permutation(n), n // 2
    ranked = needed if n - half < needed <= n - _FEWEST_FITTED else n - half
    return order[ranked:], order[:ranked]


def _distances(fitted: Floats, rows: Floats) -> Floats:
    """Squared Mahalanobis distances of rows ``[r, f]`` from those fitted to ``[k, f]``, shrunk a little."""
    centre, spread = fitted.mean(axis=0), fitted.std(axis=0)
    varies = spread > 1e-6 * np.maximum(np.abs(centre), 1e-6)
    never = (np.abs(rows - centre) > 1e-6 * np.maximum(np.abs(centre), 1e-6))[:, ~varies].sum(axis=1)
    if not varies.any():
        return np.asarray(_NEVER_SEEN * never, np.float64)
    z, own = ((part - centre)[:, varies] / spread[varies] for part in (fitted, rows))
    inner = z.T @ z / len(z) + _RIDGE * np.eye(z.shape[1])
    return np.asarray((own @ np.linalg.inv(inner) * own).sum(axis=1) + _NEVER_SEEN * never, np.float64)


def _singly(scale: ConditionalCalibration, distances: Floats, codes: NDArray[np.int64]) -> Floats:
    """Conformal p-values within the groups, 1 where a group has nobody to rank among."""
    p = np.ones(len(distances))
    for code in np.intersect1d(codes, scale.groups):
        rows = codes == code
        p[rows] = Calibration(scale.scores[scale.groups == code]).p_values(distances[rows])
    return p
