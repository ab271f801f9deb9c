"""Small networks that learn, from samples whose membership is known, to tell members by a column of signals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from amint.arrays import Floats, label_array
from amint.errors import NonFiniteError, UsageError
from amint.signals import Signals

__all__ = ["Classifier", "classifier", "features", "log_odds", "mlp"]

_BATCH, _EPOCHS, _PATIENCE = 128, 60, 8
_MOST_SPREADS = 10.0
_ROWS_AT_ONCE = 4096


class Classifier(nn.Module):
    """Standardise every channel by the known samples, then the body: ``[n, d, ...]`` -> logits ``[n]``."""

    mean: Tensor
    spread: Tensor

    def __init__(self, x: NDArray[Any], body: nn.Module) -> None:
        super().__init__()
        rest = (0, *range(2, x.ndim))
        mean, spread = x.mean(rest, np.float64, keepdims=True), x.std(rest, np.float64, keepdims=True)
        spread[x.max(rest, keepdims=True) == x.min(rest, keepdims=True)] = 1
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.shape, self.body = x.shape[1:], body

    def forward(self, x: Tensor) -> Tensor:
        # A channel that is nearly silent in the known samples must not drown the others once it speaks.
        standard = ((x.double() - self.mean) / self.spread).clamp(-_MOST_SPREADS, _MOST_SPREADS)
        logits: Tensor = self.body(standard.to(next(self.body.parameters()).dtype)).squeeze(1)
        return logits


def mlp(shape: tuple[int, ...]) -> nn.Module:
    """Three dense layers on a vector."""
    return nn.Sequential(nn.Linear(shape[0], 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))


def features(signals: Signals, name: str, ndim: int) -> NDArray[Any]:
    """The column as it is, once it is known to be numeric, finite and of ``ndim`` axes.

    Raises:
        UsageError: another type or number of axes.
        NonFiniteError: NaN or infinity.
    """
    x = np.asarray(signals[name])
    if x.ndim != ndim or x.dtype.kind != "f":
        raise UsageError(f"{name} must be a floating array of {ndim} axes; found shape {x.shape} and dtype {x.dtype}.")
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(1) if len(x) else np.zeros(0, np.bool_)
    if bad.any():
        raise NonFiniteError(
            f"{name}: {int(bad.sum())} of {len(x)} samples hold NaN or infinity, the first at index "
            f"{int(bad.argmax())}. Drop these samples and say so, or fix the signal they come from."
        )
    return x


def classifier(body: Any, x: NDArray[Any], is_member: NDArray[np.bool_], seed: int) -> Classifier:
    """A network that tells members from non-members, trained until a held-out fifth gets no better.

    Args:
        body: shape of one sample -> module that gives one logit, ``[n, 1]``.
        x: ``[n, ...]``.
        is_member: ``[n]``.
        seed: of everything drawn; the global random state is left alone.

    Raises:
        UsageError: fewer than two known members or non-members, or lengths that do not match.
    """
    member = label_array(is_member)
    counts = int(member.sum()), int((~member).sum())
    if len(member) != len(x) or min(counts) < 2:
        raise UsageError(
            f"the attack learns from at least 2 known members and 2 known non-members; found {len(x)} samples and "
            f"labels of {counts[0]} members and {counts[1]} non-members. Add known samples of the missing kind."
        )
    order = np.random.default_rng(seed).permutation(len(x))
    held_out = np.concatenate(
        [rows[: max(1, len(rows) // 5)] for rows in (order[member[order]], order[~member[order]])]
    )
    used = np.setdiff1d(order, held_out)
    weights = np.where(member, len(x) / (2 * counts[0]), len(x) / (2 * counts[1]))
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        network = Classifier(x, body(x.shape[1:]))
        target, weight = (torch.from_numpy(values.astype(np.float32)) for values in (member, weights))
        _train(network, x, target, weight, (used, held_out), seed)
        return network.double().eval().requires_grad_(False)


def log_odds(network: Classifier | None, x: NDArray[Any], name: str) -> Floats:
    """``[n]`` logits of a fitted classifier.

    Raises:
        UsageError: not fitted, or samples of another shape than it was fitted on.
    """
    if network is None:
        raise UsageError(f"{name} has no network; call fit with samples whose membership is known first")
    if x.shape[1:] != network.shape:
        raise UsageError(
            f"{name} was fitted on samples of shape {network.shape}, found {x.shape[1:]}; "
            "extract both from the same model at the same taps"
        )
    with torch.no_grad():
        parts = [network(torch.tensor(x[i : i + _ROWS_AT_ONCE])) for i in range(0, len(x), _ROWS_AT_ONCE)]
    logits = torch.cat([torch.empty(0, dtype=torch.float64), *parts])
    # How a product of matrices is summed depends on the number of rows; in float32 that is rounded away, so that equal
    # samples are tied whatever surrounds them.
    return logits.float().double().numpy()


def _train(
    network: Classifier,
    x: NDArray[Any],
    target: Tensor,
    weight: Tensor,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    seed: int,
) -> None:
    """Fit in place on the first rows; keep the weights that were best on the second."""
    used, held_out = rows
    draw = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)

    def loss(batch: NDArray[np.intp]) -> Tensor:
        logits = network(torch.from_numpy(x[batch]))
        return binary_cross_entropy_with_logits(logits, target[batch], weight[batch])

    best, best_epoch, best_weights = np.inf, 0, copy.deepcopy(network.state_dict())
    for epoch in range(_EPOCHS):
        shuffled = draw.permutation(used)
        for start in range(0, len(used), _BATCH):
            optimizer.zero_grad()
            loss(shuffled[start : start + _BATCH]).backward()
            optimizer.step()
        with torch.no_grad():
            now = float(loss(held_out))
        if now < best:
            best, best_epoch, best_weights = now, epoch, copy.deepcopy(network.state_dict())
        if epoch - best_epoch >= _PATIENCE:
            break
    network.load_state_dict(best_weights)
