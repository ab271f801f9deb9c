"""gMINT: MINT on the gradient that a sample would send into the model, instead of on its activations.

No code of gMINT was published; this is the reading "per-sample gradient of the task loss with the true label: that of
the last layer, and the norms in all layers, then a network as in MINT". Needs and limits are those of
:mod:`amint.attacks.passive_mint`.

Source: DeAlcala et al. 2025, "gMINT: Gradient-based Membership Inference Test".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.attacks._networks import Classifier, classifier, features, log_odds, mlp
from amint.errors import UsageError
from amint.signals import Signals

__all__ = ["GMint"]


@dataclass(frozen=True, eq=False)
class GMint:
    """A three-layer network on the direction of a sample's gradient and the logarithms of its norms, layer by layer.

    Norms of learned samples span ten powers of ten and more; as they are, the network would see the unlearned only.

    Attributes:
        seed: of the weights, the batches and the rows held out to stop in time.
        network: the fitted network; None before :meth:`fit`.
    """

    seed: int = 0
    network: Classifier | None = None

    name = "gmint"
    needs = frozenset({"gradient", "gradient_norms"})

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> GMint:
        """Train on known samples, members and non-members weighing the same.

        Raises:
            UsageError: members and non-members are not both known, or arrays that do not match.
            NonFiniteError: a gradient is NaN or infinite.
        """
        return GMint(self.seed, classifier(mlp, _inputs(known), is_member, self.seed))

    def score(self, signals: Signals) -> Floats:
        """``[n]``, higher = more likely a member: the network's logit.

        Raises:
            UsageError: not fitted, or gradients of another length.
            NonFiniteError: a gradient is NaN or infinite.
        """
        return log_odds(self.network, _inputs(signals), self.name)


def _inputs(signals: Signals) -> NDArray[np.float32]:
    """``[n, d + l]``: unit gradient, then log norms, which have columns of their own because float16 underflows."""
    gradient, norms = features(signals, "gradient", 2), features(signals, "gradient_norms", 2)
    if (norms < 0).any():
        negative = int((norms < 0).any(axis=1).sum())
        raise UsageError(f"gradient_norms must be 0 or more; {negative} of {len(norms)} rows hold negative ones.")
    gradient = gradient.astype(np.float32)
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    direction = np.divide(gradient, length, out=np.zeros_like(gradient), where=length > 0)
    return np.hstack([direction, np.log(np.maximum(norms, 1e-30))]).astype(np.float32)
