"""A network and its MINT head: learning together, a new head alone at the end, a head afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from common import Parts
from data import Rows
from settings import Settings
from torch import nn

import amint
from amint.metrics import Measurement, summary

Scores = np.ndarray[Any, np.dtype[np.float64]]

Balances = amint.Balance | amint.GradientBalance


def attached(
    use: Settings, parts: Parts, model: nn.Module, balance: Balances | None = None, **changes: Any
) -> amint.Auditable:
    """The network with its MINT head; ``changes`` are arguments of ``amint.attach`` that differ."""
    if balance is None and use.trunk_gradient:
        balance = amint.NormalisedByFirst(mint=use.lambda_)
    told = {"trunk_gradient": use.trunk_gradient} | head_of(use, parts)
    return amint.attach(model, balance=balance, **told | changes)


def head_of(use: Settings, parts: Parts) -> dict[str, Any]:
    """What the head is told, whether it learns along with the network or afterwards."""
    external = parts.external.shuffled(256)
    split, negatives = use.taps(), parts.negatives if use.hard_negatives else None
    return {
        "external": external,
        "split": split,
        "ratio": use.ratio,
        "negatives": negatives,
        "head": use.head_size(),
        "seed": use.seed,
    }


def head_alone(use: Settings, parts: Parts, audit: amint.Auditable) -> None:
    """A new head learns when the network is done."""
    if use.head_epochs:
        audit.train_head(parts.members.shuffled(use.batch), epochs=use.head_epochs, lr=use.head_lr, seed=use.seed)


def registered(use: Settings, parts: Parts, model: nn.Module, epochs: int | None = None) -> amint.Audit:
    """A head on a finished network, for as many epochs as one that learns along with it has in all, or others."""
    told, most = parts.members.shuffled(use.batch), use.epochs + use.head_epochs
    return amint.register(model, told, epochs=epochs or most, lr=use.head_lr, **head_of(use, parts))


def found_by(audit: amint.Audit, parts: Parts) -> dict[str, Measurement]:
    """What a trained head finds, once calibrated."""
    audit.calibrate(parts.calibration)
    return audit.evaluate(parts.members, parts.unseen)


def measured_by(score: Callable[[Rows], Scores], parts: Parts) -> dict[str, Measurement]:
    """How well scores find members, at the threshold that calibration rows set for alpha = 0.05."""
    inside, outside, known = (score(rows) for rows in (parts.members, parts.unseen, parts.calibration))
    labels = np.arange(len(inside) + len(outside)) < len(inside)
    return summary(np.concatenate([inside, outside]), labels, amint.Calibration(known).threshold(0.05))
