"""ML-Leaks: what one shadow model teaches about posteriors, and what the largest posterior says by itself.

Both attacks are free of labels: they see the shape of the posteriors, never the true class.

Source: Salem et al. 2019, "ML-Leaks", adversary 1 (one shadow model, section 3) and adversary 3 (no shadow model,
section 5).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from amint.arrays import Floats, label_array, score_array
from amint.errors import UsageError
from amint.signals import Signals

__all__ = ["SalemNet", "SalemThreshold"]


@dataclass(frozen=True, eq=False)
class SalemNet:
    """Adversary 1: a network with 64 hidden units learns "in" or "out" from one shadow model's posteriors.

    The inputs are the three largest posteriors, descending (two classes: both), each standardised over the shadow's
    samples. The shadow model has the target's task. In the paper it shares no training sample with the target; here it
    is the first model of a fleet, trained on a random half of the pool, and so on about half of those members of the
    target that the pool holds. :func:`amint.compare` says how many of the audited members these are.

    Attributes:
        seed: of the network's weights and batches.
        pipeline: the fitted network; None before :meth:`fit`.
    """

    seed: int = 0
    pipeline: Pipeline | None = None

    name = "salem"
    needs = frozenset({"top3", "shadow_top3", "shadow_in"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> SalemNet:  # noqa: ARG002
        """Train on the shadow's posteriors; the target's membership is not looked at.

        Raises:
            UsageError: the shadow model trained on none or on all of these samples.
            NonFiniteError: a posterior is NaN or infinite.
        """
        posteriors, trained_on = _posteriors(known, "shadow_top3"), label_array(known["shadow_in"])
        if not 0 < trained_on.sum() < len(trained_on):
            raise UsageError(
                f"the attack learns from samples that the shadow model trained on and from others; found "
                f"{int(trained_on.sum())} of {len(trained_on)} in its training. Add samples of the missing kind."
            )
        network = MLPClassifier(hidden_layer_sizes=(64,), activation="relu", random_state=self.seed)
        with warnings.catch_warnings():
            # Three inputs: what is not learned within its 200 epochs is not there to be learned.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return SalemNet(self.seed, make_pipeline(StandardScaler(), network).fit(posteriors, trained_on))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member: the log-odds that the network gives.

        Raises:
            UsageError: not fitted, or another number of classes than the shadow model has.
            NonFiniteError: a posterior is NaN or infinite.
        """
        if self.pipeline is None:
            raise UsageError("salem has no attack network; call fit with the shadow model's signals first")
        scaler, network = (step for _, step in self.pipeline.steps)
        posteriors, width = _posteriors(signals, "top3"), scaler.n_features_in_
        if posteriors.shape[1] != width:
            raise UsageError(
                f"the shadow model gave {width} posteriors a sample and the target {posteriors.shape[1]}: they do not "
                "have the same classes. Train the shadow model on the target's task."
            )
        # The network's own probabilities round to 1 from log-odds of 37 on, and would tie there.
        (inner, outer), (inner_bias, outer_bias) = network.coefs_, network.intercepts_
        hidden = np.maximum(np.einsum("nd,dh->nh", (posteriors - scaler.mean_) / scaler.scale_, inner) + inner_bias, 0)
        return np.asarray(np.einsum("nh,ho->n", hidden, outer) + outer_bias, np.float64)


class SalemThreshold:
    """Adversary 3: score = log of the largest posterior, whatever its class."""

    name = "salem-threshold"
    needs = frozenset({"max_logprob"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member. Raises NonFiniteError for NaN or infinity."""
        return score_array(signals["max_logprob"], "max_logprob")


def _posteriors(signals: Signals, name: str) -> NDArray[np.float64]:
    columns = np.asarray(signals[name])
    if columns.ndim != 2:
        raise UsageError(f"{name} must be [n, 3], or [n, 2] for two classes; found shape {columns.shape}.")
    return score_array(columns.ravel(), name).reshape(columns.shape)
