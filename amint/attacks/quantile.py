"""Quantile regression: how high may the margin of *this* sample be, had the model never seen it?

A regressor learns the margin's distribution from known non-members only, given the features and the label; a sample
far above what is usual for its like is a member. No reference model is needed. Features of a network other than the
audited one are the better choice: the audited model's own last layer computes the margin from its features, and a
regressor that finds that function again has explained membership away.

Source: Bertran et al. 2023, "Scalable Membership Inference Attacks via Quantile Regression".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from amint.arrays import Floats, label_array, samples_needed, score_array
from amint.errors import AlphaError, UsageError
from amint.signals import Signals

__all__ = ["GaussianQuantile", "QuantileHeads"]

_FEWEST = 20
_ALPHAS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


@dataclass(frozen=True, eq=False)
class GaussianQuantile:
    """The margin of a non-member is taken as Gaussian, with mean and variance depending on the sample.

    Boosted trees fit the mean; a second set fits the squares of residuals that cross-validation leaves, whose size is
    honest about new samples where that of training residuals is not.

    Attributes:
        seed: of the folds and of the samples that stop the boosting.
        regressors: of the mean, and of the variance; None before :meth:`fit`.
        classes: the labels that the known non-members have; any other label counts as unknown.
        n_nonmembers: how many non-members were fitted.
    """

    seed: int = 0
    regressors: tuple[HistGradientBoostingRegressor, HistGradientBoostingRegressor] | None = None
    classes: tuple[int, ...] = ()
    n_nonmembers: int = 0

    name = "quantile"
    needs = frozenset({"hinge", "features", "label"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> GaussianQuantile:
        """Learn from the known non-members; known members are left out.

        Raises:
            UsageError: fewer than 20 known non-members, or arrays that do not match.
            NonFiniteError: a margin or a feature is NaN or infinite.
        """
        margins, x, classes = _nonmembers(known, is_member)
        folds = KFold(5, shuffle=True, random_state=self.seed)
        squares = (margins - cross_val_predict(_trees(self.seed), x, margins, cv=folds)) ** 2
        mean = _trees(self.seed).fit(x, margins)
        # The Gamma loss needs positive targets: a millionth of a logit is as good as exact.
        variance = _trees(self.seed, loss="gamma").fit(x, squares + 1e-12)
        return GaussianQuantile(self.seed, (mean, variance), classes, len(margins))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member: (margin - mean) / standard deviation of a non-member like it.

        Raises:
            UsageError: not fitted, or features of another length.
            NonFiniteError: a margin or a feature is NaN or infinite.
        """
        if self.regressors is None:
            raise UsageError("quantile is not fitted; call fit with known non-members first")
        margins, x = score_array(signals["hinge"], "hinge"), _inputs(signals, self.classes)
        mean, variance = (_predict(regressor, x) for regressor in self.regressors)
        return np.asarray((margins - mean) / np.sqrt(variance), np.float64)

    def decide(self, signals: Signals, alpha: float) -> NDArray[np.bool_]:
        """``[n]``: member, iff the margin exceeds mean + Phi^-1(1 - alpha) standard deviations.

        Non-members are called members at the rate ``alpha`` as far as the Gaussian holds; a threshold from calibration
        samples (:class:`amint.calibration.Calibration`) promises that without.

        Raises:
            AlphaError: ``alpha`` outside (0, 1), or below 1 / the number of fitted non-members.
            UsageError, NonFiniteError: as :meth:`score`.
        """
        return _decide(self.score(signals), alpha, self.n_nonmembers)


@dataclass(frozen=True, eq=False)
class QuantileHeads:
    """One set of boosted trees a quantile, by the pinball loss; no shape of the distribution is assumed.

    Attributes:
        seed: of the samples that stop the boosting.
        regressors: one an alpha, falling from 0.5 to at most 0.001, as far as the non-members suffice: 1 / alpha of
            them each; empty before :meth:`fit`.
        classes: the labels that the known non-members have; any other label counts as unknown.
        n_nonmembers: how many non-members were fitted.
    """

    seed: int = 0
    regressors: tuple[HistGradientBoostingRegressor, ...] = ()
    classes: tuple[int, ...] = ()
    n_nonmembers: int = 0

    name = "quantile-heads"
    needs = GaussianQuantile.needs

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> QuantileHeads:
        """Learn from the known non-members; raises as :meth:`GaussianQuantile.fit`."""
        margins, x, classes = _nonmembers(known, is_member)
        alphas = [alpha for alpha in _ALPHAS if samples_needed(alpha) <= len(margins)]
        heads = tuple(_trees(self.seed, loss="quantile", quantile=1 - alpha).fit(x, margins) for alpha in alphas)
        return QuantileHeads(self.seed, heads, classes, len(margins))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member: the margin's rank among non-members like it, as a Gaussian quantile.

        Linear between the fitted quantiles, which are sorted where they cross, and beyond the first and the last.
        Raises as :meth:`GaussianQuantile.score`.
        """
        if not self.regressors:
            raise UsageError("quantile-heads is not fitted; call fit with known non-members first")
        margins, x = score_array(signals["hinge"], "hinge"), _inputs(signals, self.classes)
        quantiles = np.sort(np.column_stack([_predict(regressor, x) for regressor in self.regressors]), axis=1)
        return _position(margins, quantiles, -ndtri(_ALPHAS[: len(self.regressors)]))

    def decide(self, signals: Signals, alpha: float) -> NDArray[np.bool_]:
        """``[n]``: member, iff the margin exceeds the quantile 1 - alpha; see :meth:`GaussianQuantile.decide`."""
        return _decide(self.score(signals), alpha, self.n_nonmembers)


def _position(margins: Floats, quantiles: Floats, levels: Floats) -> Floats:
    """Where ``[n]`` margins stand on the scale ``levels [k]`` that the ascending ``quantiles [n, k]`` mark."""
    first, last = quantiles[:, 0], quantiles[:, -1]
    unit = np.maximum(last - first, 1e-6) / (levels[-1] - levels[0])
    below = (quantiles <= margins[:, None]).sum(1)
    rows, right = np.arange(len(margins)), np.clip(below, 1, len(levels) - 1)
    left_at, right_at = quantiles[rows, right - 1], quantiles[rows, right]
    # Inside, the margin is in [left, right), so that the two differ; outside, the share is not used.
    share = (margins - left_at) / np.where(right_at > left_at, right_at - left_at, 1)
    inside = levels[right - 1] + share * (levels[right] - levels[right - 1])
    beyond = np.where(below == 0, levels[0] + (margins - first) / unit, levels[-1] + (margins - last) / unit)
    return np.asarray(np.where((below == 0) | (below == len(levels)), beyond, inside), np.float64)


def _decide(scores: Floats, alpha: float, n: int) -> NDArray[np.bool_]:
    if not 0 < alpha < 1:
        raise AlphaError(f"alpha must lie strictly between 0 and 1, e.g. 0.01; found {alpha}.")
    if n < samples_needed(alpha):
        raise AlphaError(
            f"alpha={alpha:g} is out of reach of a regressor fitted on {n} non-members; fit it on at least "
            f"{samples_needed(alpha)}, or use an alpha of 1/{n} or more."
        )
    return np.asarray(scores > -ndtri(alpha))


def _nonmembers(known: Signals, is_member: NDArray[np.bool_]) -> tuple[Floats, Floats, tuple[int, ...]]:
    """Margins, inputs and classes of the known non-members."""
    margins, others = score_array(known["hinge"], "hinge"), ~label_array(is_member)
    if len(margins) != len(others) or others.sum() < _FEWEST:
        raise UsageError(
            f"quantile regression learns from at least {_FEWEST} known non-members; found {len(margins)} samples and "
            f"{len(others)} labels, {int(others.sum())} of them non-members. Add known non-members."
        )
    classes = tuple(int(label) for label in np.unique(known["label"][others]))
    return margins[others], _inputs(known, classes)[others], classes


def _inputs(signals: Signals, classes: tuple[int, ...]) -> Floats:
    """``[n, d + classes]``: the features, then one indicator a class."""
    x = np.asarray(signals["features"])
    if x.ndim != 2 or x.dtype.kind != "f":
        raise UsageError(f"features must be a floating array [n, d]; found shape {x.shape} and dtype {x.dtype}.")
    x = score_array(x.ravel(), "features").reshape(x.shape)
    return np.hstack([x, np.equal.outer(signals["label"], classes)])


def _predict(regressor: HistGradientBoostingRegressor, x: Floats) -> Floats:
    if x.shape[1] != regressor.n_features_in_:
        raise UsageError(
            f"the regressor was fitted on {regressor.n_features_in_} columns (features and classes), found "
            f"{x.shape[1]}. Extract both with the same model."
        )
    return np.asarray(regressor.predict(x), np.float64) if len(x) else np.empty(0)


def _trees(seed: int, **loss: Any) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        learning_rate=0.05, max_leaf_nodes=8, early_stopping=True, random_state=seed, **loss
    )
