"""What a verification reads of a model: MINT logits and, of a classifier, how sure it is of which class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amint.errors import NonFiniteError
from amint.rebuilding import like_weights
from amint.taps import evaluating

__all__ = ["Reading", "all_finite", "predictions"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One row a sample.

    Attributes:
        scores: float64 ``[n]``, MINT logits.
        confidence: float64 ``[n]``, log of the largest class probability; None unless the model is a classifier.
        classes: int64 ``[n]``, the predicted class; None unless the model is a classifier.
    """

    scores: NDArray[np.float64]
    confidence: NDArray[np.float64] | None = None
    classes: NDArray[np.int64] | None = None


def predictions(model: nn.Module, x: Tensor, first: int) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Confidence and predicted class, as in :class:`Reading`, of the ``first`` rows of ``x`` ``[n, ...]``.

    None where the model gives anything but finite logits ``[n, c]``, c >= 2.
    """
    x = like_weights(model, x)
    with evaluating(model), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        output = model(x)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x) or output.shape[1] < 2:
        return None
    logits = output[:first].double().cpu()
    if not output.is_floating_point() or not bool(logits.isfinite().all()):
        return None
    best = torch.log_softmax(logits, dim=1).max(dim=1)
    return best.values.numpy(), best.indices.numpy()


def all_finite(logits: Tensor) -> Tensor:
    """The same MINT logits ``[n]``.

    Raises:
        NonFiniteError: some are NaN or infinite.
    """
    broken = (~torch.isfinite(logits)).nonzero().flatten().tolist()
    if broken:
        raise NonFiniteError(
            f"{len(broken)} of {len(logits)} scores are not finite (rows {broken[:5]}); look for NaN or infinity "
            "in these inputs, or in the model's weights"
        )
    return logits
