"""Passive MINT: a network learns, after training, to tell members by the activations of the frozen audited model.

It needs the owner's help, since some members must be known, and external samples from the members' distribution: with
others it learns the difference between two sources and calls that membership. Fit it on samples other than those it is
judged on.

Source: DeAlcala et al. 2024, "Is my Data in your AI Model? Membership Inference Test", section 3 (vanilla and CNN
MINT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from amint.arrays import Floats
from amint.attacks._networks import Classifier, classifier, features, log_odds, mlp
from amint.signals import Signals

__all__ = ["PassiveMint", "PassiveMintCNN"]


@dataclass(frozen=True, eq=False)
class PassiveMint:
    """Vanilla MINT: a three-layer network on the mean of every tapped channel.

    Attributes:
        seed: of the weights, the batches and the rows held out to stop in time.
        network: the fitted network; None before :meth:`fit`.
    """

    seed: int = 0
    network: Classifier | None = None

    name = "passive-mint"
    needs = frozenset({"activations"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> PassiveMint:
        """Train on known samples, members and non-members weighing the same.

        Raises:
            UsageError: members and non-members are not both known, or arrays that do not match.
            NonFiniteError: an activation is NaN or infinite.
        """
        x = features(known, "activations", 2)
        return PassiveMint(self.seed, classifier(mlp, x, is_member, self.seed))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member: the network's logit.

        Raises:
            UsageError: not fitted, or activations of another shape.
            NonFiniteError: an activation is NaN or infinite.
        """
        return log_odds(self.network, features(signals, "activations", 2), self.name)


@dataclass(frozen=True, eq=False)
class PassiveMintCNN:
    """CNN MINT: a small convolutional network on the tapped maps.

    Attributes:
        seed: of the weights, the batches and the rows held out to stop in time.
        network: the fitted network; None before :meth:`fit`.
    """

    seed: int = 0
    network: Classifier | None = None

    name = "passive-mint-cnn"
    needs = frozenset({"maps"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> PassiveMintCNN:
        """Train on known samples; see :meth:`PassiveMint.fit`, also for what it raises."""
        x = features(known, "maps", 4)
        return PassiveMintCNN(self.seed, classifier(_cnn, x, is_member, self.seed))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member; see :meth:`PassiveMint.score`, also for what it raises."""
        return log_odds(self.network, features(signals, "maps", 4), self.name)


def _cnn(shape: tuple[int, ...]) -> nn.Module:
    channels, *side = shape
    cells = [min(2, cells) for cells in side]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d((cells[0], cells[1])),
        nn.Flatten(),
        nn.Linear(32 * cells[0] * cells[1], 64),
        nn.ReLU(),
        nn.Linear(64, 1),
    )
