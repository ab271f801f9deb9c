"""What a verification reads of a model: MINT scores and, of a classifier, how sure it is of which class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amint.errors import NonFiniteError, UsageError
from amint.heads import MintHead
from amint.rebuilding import like_weights, shown_weight
from amint.taps import evaluating, prefix, tapped

__all__ = ["Reader", "Reading", "all_finite"]

_ROWS = 16

Predictions = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Reading:
    """One row a sample.

    Attributes:
        scores: float64 ``[n]``, MINT scores.
        confidence: float64 ``[n]``, log of the largest class probability; None unless the model is a classifier.
        classes: int64 ``[n]``, the predicted class; None unless the model is a classifier.
    """

    scores: NDArray[np.float64]
    confidence: NDArray[np.float64] | None = None
    classes: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Reader:
    """A model and its head as they are used, in evaluation mode, whatever mode they are in.

    Attributes:
        backbone: the audited model.
        taps: name -> module, shallow to deep.
        head: tapped maps -> membership score.
        input_shape: one input without the batch dimension.
    """

    backbone: nn.Module
    taps: Mapping[str, nn.Module]
    head: MintHead
    input_shape: tuple[int, ...]

    def scores(self, x: Tensor) -> Tensor:
        """MINT scores ``[n]`` of inputs ``[n, ...]``; the network runs only up to the deepest tap.

        Raises:
            UsageError: the model cannot take inputs of this shape or kind of number.
        """
        return self._run(x, lambda rows: (prefix(self.backbone, self.taps, rows), None))[0]

    def read(self, x: Tensor) -> Reading:
        """Everything, of inputs ``[n, ...]``: the same for a row whatever rows come with it.

        Raises:
            UsageError: the model cannot take inputs of this shape or kind of number.
            NonFiniteError: some inputs hold NaN or infinity, or lead to them.
        """
        if not isinstance(x, Tensor):
            raise UsageError(f"expected preprocessed inputs, a tensor [n, ...]; found {type(x).__name__}")
        # Kernels choose another order of summation for another batch size, so that size is always the same.
        parts = []
        for rows in x.split(_ROWS):
            last = rows[-1:] if len(rows) else x.new_zeros(1, *x.shape[1:])
            padded = torch.cat([rows, last.expand(_ROWS - len(rows), *x.shape[1:])])
            found, output = self._run(padded, lambda inputs: tapped(self.backbone, self.taps, inputs))
            parts.append((found[: len(rows)], _predictions(output, len(rows))))
        scores = all_finite(torch.cat([found for found, _ in parts])).double().cpu().numpy()
        predicted = [prediction for _, prediction in parts if prediction is not None]
        if len(predicted) < len(parts):
            return Reading(scores)
        return Reading(scores, *(np.concatenate(column) for column in zip(*predicted, strict=True)))

    def _run(self, x: Tensor, run: Callable[[Tensor], tuple[Sequence[Tensor], Any]]) -> tuple[Tensor, Any]:
        """The head on what ``run`` finds at the taps, and the model's output as far as it has one."""
        x = like_weights(self.backbone, x)
        weight = shown_weight(self.backbone)
        self.head.to(weight.device, weight.dtype)
        with evaluating(self.head), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                maps, output = run(x)
                return self.head(maps), output
            except RuntimeError as error:
                if not x.is_floating_point():
                    raise UsageError(
                        f"the model does not take inputs of {x.dtype}: {error}. Pass them as in training; pixels are "
                        "scaled to floating-point numbers first, see amint.Preprocessing"
                    ) from error
                if tuple(x.shape[1:]) == self.input_shape:
                    raise
                raise UsageError(
                    f"the model does not take inputs of shape {tuple(x.shape[1:])}; it was audited on inputs of shape "
                    f"{self.input_shape}, batch dimension first"
                ) from error


def all_finite(scores: Tensor) -> Tensor:
    """The same MINT scores ``[n]``.

    Raises:
        NonFiniteError: some are NaN or infinite.
    """
    broken = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if broken:
        raise NonFiniteError(
            f"{len(broken)} of {len(scores)} scores are not finite (rows {broken[:5]}); look for NaN or infinity "
            "in these inputs, or in the model's weights"
        )
    return scores


def _predictions(output: Any, first: int) -> Predictions | None:
    """Confidence and class of the first rows; None of anything but finite logits ``[n, c]`` of that many, c >= 2."""
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != _ROWS or output.shape[1] < 2:
        return None
    logits = output[:first].double().cpu()
    if not output.is_floating_point() or not bool(logits.isfinite().all()):
        return None
    best = torch.log_softmax(logits, dim=1).max(dim=1)
    return best.values.numpy(), best.indices.numpy()
