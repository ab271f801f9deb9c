"""The measurements of :mod:`amint.metrics` as torchmetrics, for training loops and ``self.log``.

All scores are kept until ``compute``, because a TPR at a low FPR cannot be merged from parts; under DDP they
are gathered. Call ``update`` where one batch may hold members only: ``forward`` also computes on the batch
alone, and then raises as the plain functions do.
"""

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from amint.arrays import Floats, score_array
from amint.calibration import Calibration
from amint.errors import UsageError
from amint.metrics import LOW_FPRS, auroc, balanced_accuracy, tpr_at_fpr, tpr_name

__all__ = ["CalibratedBalancedAccuracy", "MembershipAUROC", "TPRAtFPR", "membership_metrics"]


class _ScoreMeter(Metric):
    """Collects scores and labels; the subclass says what to compute from all of them."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    scores: list[Tensor]
    is_member: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("is_member", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_member: Tensor) -> None:
        """Add a batch: ``scores`` ``[n]``, higher = more likely a member; ``is_member`` ``[n]``, bool or 0/1.

        Raises UsageError for other shapes. Values are checked by ``compute``, which leaves the device anyway.
        """
        if scores.ndim != 1 or scores.shape != is_member.shape:
            raise UsageError(
                "scores and is_member must both have shape [n], one number a sample; found "
                f"{list(scores.shape)} and {list(is_member.shape)}."
            )
        self.scores.append(scores.detach())
        # Collectives and concatenation need one dtype; 0 and 1 are exact in it, and a wrong 0.5 stays visible.
        self.is_member.append(is_member.detach().to(torch.float32))

    def compute(self) -> Tensor:
        """The value over everything seen since ``reset``, a scalar.

        Raises UsageError before the first batch, or for one class only; NonFiniteError for NaN or infinite scores.
        """
        value = self._value(_array(self.scores), _array(self.is_member))
        return torch.tensor(value, device=self.device)

    @abstractmethod
    def _value(self, scores: Floats, is_member: Floats) -> float: ...


class MembershipAUROC(_ScoreMeter):
    """:func:`amint.metrics.auroc` of members against non-members, ties 1/2."""

    def _value(self, scores: Floats, is_member: Floats) -> float:
        return auroc(scores, is_member)


class TPRAtFPR(_ScoreMeter):
    """:func:`amint.metrics.tpr_at_fpr`: the largest TPR whose FPR does not exceed ``fpr``.

    Args:
        fpr: in [0, 1]; below 1 / number of non-members it is measured at an FPR of 0.

    Raises UsageError for an ``fpr`` outside [0, 1].
    """

    def __init__(self, fpr: float) -> None:
        super().__init__()
        if not 0 <= fpr <= 1:
            raise UsageError(f"fpr must lie between 0 and 1, found {fpr}.")
        self.fpr = fpr

    def _value(self, scores: Floats, is_member: Floats) -> float:
        return tpr_at_fpr(scores, is_member, self.fpr)


class CalibratedBalancedAccuracy(_ScoreMeter):
    """:func:`amint.metrics.balanced_accuracy` at the threshold that calibration non-members set for ``alpha``.

    Args:
        calibration: a Calibration, or the scores ``[n]`` of known non-members, which must be none of the
            samples that the meter is updated with.
        alpha: accepted false-alarm rate.

    Raises AlphaError where there are too few calibration scores for ``alpha``, NonFiniteError for NaN ones.
    """

    def __init__(self, calibration: Calibration | Tensor | ArrayLike, alpha: float = 0.05) -> None:
        super().__init__()
        if not isinstance(calibration, Calibration):
            given = _array(calibration) if isinstance(calibration, Tensor) else calibration
            calibration = Calibration(score_array(given, "calibration scores"))
        self.alpha = alpha
        # A Python float: as a buffer it would follow .half() and lose the step that separates ties.
        self.threshold = calibration.threshold(alpha)

    def _value(self, scores: Floats, is_member: Floats) -> float:
        return balanced_accuracy(scores, is_member, self.threshold)


def membership_metrics(fprs: Iterable[float] = LOW_FPRS) -> MetricCollection:
    """``auroc`` and ``tpr_at_fpr_<fpr>`` for each of ``fprs``, which share one copy of the scores."""
    meters: dict[str, Metric | MetricCollection] = {"auroc": MembershipAUROC()}
    return _DottedNames(meters | {_undotted(tpr_name(fpr)): TPRAtFPR(fpr) for fpr in fprs})


class _DottedNames(MetricCollection):
    """Shows ``tpr_at_fpr_0.1`` as a name, which torch does not allow as the name of a module."""

    def __getitem__(self, key: str, copy_state: bool = True) -> Metric:
        return super().__getitem__(_undotted(key), copy_state)

    def _set_name(self, base: str) -> str:
        return super()._set_name(base.replace("_fpr_0_", "_fpr_0."))


def _undotted(name: str) -> str:
    return name.replace("_fpr_0.", "_fpr_0_")


def _array(values: Tensor | list[Tensor]) -> Floats:
    """float64 on the CPU; a state is a list, or one tensor once it was gathered from other processes."""
    parts = [values] if isinstance(values, Tensor) else values
    arrays = [part.detach().to("cpu", torch.float64).numpy() for part in parts]
    return np.concatenate(arrays) if arrays else np.empty(0)
