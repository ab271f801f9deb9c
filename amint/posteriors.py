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
            f"{int(labels.min())} to {int(labels.max())}. Pass class indices in the order of the model's outputs."
        )
    bad = ~logits.isfinite().all(1)
    if bad.any():
        raise NonFiniteError(
            f"{int(bad.sum())} of {n} rows of logits hold NaN or infinity, the first is row "
            f"{int(bad.int().argmax())}. Drop these samples and say so, or run the model in float32; "
            "mask a class with a large negative logit such as -1e4, not with -inf."
        )
    if n and bool(_looks_like_probabilities(logits)):
        raise UsageError(
            f"logits are needed, found what looks like probabilities: all {n} rows lie in [0, 1] and sum to 1. "
            "Pass the output before the softmax; if there is none, pass the logarithm of the probabilities."
        )


def _looks_like_probabilities(logits: Tensor) -> Tensor:
    # A softmax in 16 bits rounds each of its entries at about 1e-3 of its size.
    tolerance = 1e-5 if logits.dtype in (torch.float32, torch.float64) else 1e-2
    return (logits.amin() >= 0) & (logits.amax() <= 1) & ((logits.double().sum(1) - 1).abs() <= tolerance).all()
