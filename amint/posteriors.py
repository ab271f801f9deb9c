"""Per-sample numbers that passive attacks read off a classifier's logits, exact where the model is very sure.

Members of an overfitted model have posteriors so close to 1 that 1 - p is lost if it is formed from p. Everything here
starts from logits and from the sum over the *other* classes, so that p = 1 - 1e-40 and p = 1 - 1e-60 still differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amint.errors import NonFiniteError, UsageError

__all__ = ["posterior_columns"]

_LOG_FLOOR = math.log(1e-30)
# Where probabilities are clipped, and the numbers of decimals that they are rounded to.
_CLIPPED, _DIGITS = 1e-6, (2, 3, 4, 5)
# Below so many rows, values in [0, 1] that come close to 1 may be anything.
_FEWEST_SATURATED, _NEAR_ONE = 20, 0.99


def posterior_columns(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Columns for the attacks on one model; each is float64 on the device of ``logits``.

    ==================== ========== ======================================================================
    ``logprob``          ``[n]``    log p_y, the log-softmax of the true class, in nats
    ``max_logprob``      ``[n]``    log of the largest posterior
    ``correct``          ``[n]``    1 where the first largest logit is the true class's, else 0
    ``entropy``          ``[n]``    -sum_j p_j log p_j, in nats
    ``modified_entropy`` ``[n]``    -(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j), in nats, logarithms
                                    floored at log 1e-30 (Song and Mittal 2021)
    ``hinge``            ``[n]``    z_y - max_{j != y} z_j
    ``scaled_logit``     ``[n]``    log(p_y / (1 - p_y)) = z_y - logsumexp_{j != y} z_j (Carlini et al. 2022)
    ``top3``             ``[n, k]`` the k = min(3, C) largest posteriors, descending
    ==================== ========== ======================================================================

    Args:
        logits: floating ``[n, C]``, C >= 2, before the softmax.
        labels: integers ``[n]``, 0 <= label < C: the true classes.

    Raises:
        UsageError: shapes or types that do not fit, fewer than two classes, labels out of range, or probabilities
            in the place of logits.
        NonFiniteError: NaN or infinite logits.
    """
    _check(logits, labels)
    raw = logits.double()
    z = raw - raw.amax(1, keepdim=True)
    y = labels.to(z.device).long().unsqueeze(1)
    first_max = z.argmax(1, keepdim=True)
    others = _without(z, first_max).logsumexp(1, keepdim=True)
    # The largest class stands at 0 after the shift: the whole sum is e^0 + e^others.
    total = torch.logaddexp(others.new_zeros(()), others)
    log_p = z - total
    p = log_p.exp()
    # log(1 - p) from p is exact for p <= 1/2, which all but the largest class have.
    log_rest = torch.log1p(-p).scatter(1, first_max, others - total)
    of_y, rest_of_y = log_p.gather(1, y).squeeze(1), log_rest.gather(1, y).squeeze(1)
    wrong = (p * log_rest.clamp(min=_LOG_FLOOR)).scatter(1, y, 0.0)
    return {
        "logprob": of_y,
        "max_logprob": log_p.amax(1),
        "correct": (first_max == y).squeeze(1).double(),
        "entropy": -(p * log_p).sum(1),
        "modified_entropy": -rest_of_y.exp() * of_y.clamp(min=_LOG_FLOOR) - wrong.sum(1),
        "hinge": raw.gather(1, y).squeeze(1) - _without(raw, y).amax(1),
        "scaled_logit": of_y - rest_of_y,
        "top3": p.topk(min(3, p.shape[1]), dim=1).values,
    }


def _without(z: Tensor, column: Tensor) -> Tensor:
    return z.scatter(1, column, -math.inf)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise UsageError(
            f"logits must be a floating tensor [n, classes]; found shape {tuple(logits.shape)} and {logits.dtype}. "
            "Pass the model's output before the softmax, one row a sample."
        )
    n, classes = logits.shape
    if classes < 2:
        raise UsageError(
            f"attacks on posteriors need at least 2 classes, found {classes} for {n} samples. "
            "Turn a single logit z of a binary classifier into two columns, [0, z]."
        )
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(
            f"labels must be integers [{n}], one class index for each row of logits; found shape "
            f"{tuple(labels.shape)} and {labels.dtype}."
        )
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise UsageError(
            f"{int(outside.sum())} of {n} labels lie outside 0..{classes - 1} for {classes} classes; found "
            f"{int(labels.min())} to {int(labels.max())} in this batch. Pass class indices in the order of the model's "
            "outputs."
        )
    bad = ~logits.isfinite().all(1)
    if bad.any():
        raise NonFiniteError(
            f"{int(bad.sum())} of {n} rows of logits in this batch hold NaN or infinity, the first is row "
            f"{int(bad.int().argmax())} of it. Drop these samples and say so, or run the model in float32; "
            "mask a class with a large negative logit such as -1e4, not with -inf."
        )
    if not n or logits.amin() < 0 or logits.amax() > 1:
        return
    if _sums_to_one(logits):
        raise UsageError(
            f"logits are needed, found what looks like probabilities: all {n} rows lie in [0, 1] and sum to 1. "
            "Pass the output before the softmax; if there is none, pass the logarithm of the probabilities."
        )
    if _saturates(logits):
        raise UsageError(
            f"logits are needed, found what looks like probabilities of independent classes: all {n} rows lie in "
            "[0, 1], most come close to 1, and they do not sum to 1. Pass the output before the sigmoid."
        )


def _sums_to_one(logits: Tensor) -> bool:
    """Whether every row in [0, 1] sums to 1, up to how coarse its entries are written.

    A few rows of real logits may come close to 1, above all those of a constant network; but they lie on no coarse
    grid, and only numbers that do are given more than the rounding of full precision.
    """
    values, classes = logits.double(), logits.shape[1]
    off = float((values.sum(1) - 1).abs().amax())
    allowed = 1e-5 + _CLIPPED * classes
    # A softmax in 16 bits rounds each of its entries at about 1e-3 of its size.
    if any(torch.equal(logits.to(half).to(logits.dtype), logits) for half in (torch.float16, torch.bfloat16)):
        allowed = max(allowed, 1e-2)
    # What was clipped before or after the rounding ends on no decimal.
    ended = values.where(values > 2 * _CLIPPED, 0.0).where(values < 1 - 2 * _CLIPPED, 1.0)
    for digits in _DIGITS:
        if torch.equal(ended.round(decimals=digits).to(logits.dtype), ended.to(logits.dtype)):
            allowed = max(allowed, 1e-5 + (_CLIPPED + 0.5 * 10.0**-digits) * classes)
    # Rows of zeros, of a head that was just made, are never near.
    return off <= min(allowed, 0.5)


def _saturates(logits: Tensor) -> bool:
    """Whether rows in [0, 1] crowd below 1 as a trained sigmoid's do, while a class goes from near 0 to near 1.

    An untrained or constant network may lie in [0, 1] throughout, but its rows differ little. Logits that differ much
    do not stop at 1 unless something holds them there, and most rows' largest does not end within 0.01 of it.
    """
    crowded = (logits.amax(1) > _NEAR_ONE).double().mean() >= 0.5
    moves = (logits.amin(0) < 0.1) & (logits.amax(0) > 0.9)
    return len(logits) >= _FEWEST_SATURATED and bool(crowded and moves.any())
