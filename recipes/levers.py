"""What ablations.py changes in losses, in finished networks and in how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from common import Parts
from row import head_of
from settings import Settings
from torch import Tensor

import amint
from amint.metrics import Measurement, summary


class Scheduled(amint.NormalisedByFirst):
    """The weight of the MINT loss goes from ``first`` to ``last`` along a straight line of ``steps``."""

    def __init__(self, first: float, last: float, steps: int) -> None:
        super().__init__(mint=max(first, last))
        self.first, self.last, self.steps, self.done = first, last, steps, 0

    def combine(self, task: Tensor, mint: Tensor) -> Tensor:
        """The weighted sum at this step."""
        self.mint = self.first + (self.last - self.first) * min(1.0, self.done / self.steps)
        self.done += 1
        return super().combine(task, mint)

    @classmethod
    def over(cls, use: Settings, first: float, last: float) -> Callable[[], Scheduled]:
        """For a training with these settings, in shares of its lambda."""
        steps = use.epochs * (use.members // min(use.batch, use.members))
        return lambda: cls(first * use.lambda_, last * use.lambda_, steps)


def member_statistics(_: Settings, parts: Parts, audit: amint.Auditable) -> amint.Audit:
    """Running statistics of batch normalisation from members alone, without the external rows."""
    with audit.paused():
        torch.optim.swa_utils.update_bn([x for x, _ in parts.members], audit.backbone)
    return audit


def trained_on(use: Settings, parts: Parts, audit: amint.Auditable) -> amint.Audit:
    """The head alone for as many epochs again, on the finished network."""
    audit.train_head(parts.members.shuffled(use.batch), epochs=use.epochs, lr=use.head_lr, seed=use.seed)
    return audit


def new_head(use: Settings, parts: Parts, audit: amint.Auditable, times: int = 1) -> amint.Audit:
    """A head trained from its beginning on the finished audited network, ``times`` as many epochs as the network."""
    told = parts.members.shuffled(use.batch)
    return amint.register(audit.detach(), told, epochs=times * use.epochs, lr=use.head_lr, **head_of(use, parts))


def of_views(audit: amint.Audit, x: Tensor) -> Tensor:
    """The mean score of the images and of themselves moved by a pixel each way."""
    moved = [x.roll(step, axis) for axis in (-1, -2) for step in (-1, 1)]
    return torch.stack([audit.score(view) for view in (x, *moved)]).mean(0)


def against_mirror(audit: amint.Audit, x: Tensor) -> Tensor:
    """By how much the image scores higher than its mirror image."""
    return audit.score(x) - audit.score(x.flip(-1))


def by(score: Callable[[amint.Audit, Tensor], Tensor]) -> Callable[[Parts, amint.Audit], Mapping[str, Measurement]]:
    """Figures of another score than the head's own."""

    def judged(parts: Parts, audit: amint.Audit) -> Mapping[str, Measurement]:
        known, inside, outside = (
            np.concatenate([score(audit, x).double().cpu().numpy() for x, _ in rows])
            for rows in (parts.calibration, parts.members, parts.unseen)
        )
        labels = np.arange(len(inside) + len(outside)) < len(inside)
        return summary(np.concatenate([inside, outside]), labels, amint.Calibration(known).threshold(0.05))

    return judged
