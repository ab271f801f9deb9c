"""What ablations.py changes in losses, in finished networks and in how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from common import Parts
from data import Rows
from joined import Scores, measured_by
from settings import Settings
from torch import Tensor, nn

import amint
from amint.metrics import Measurement


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


def adamw(head: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """One optimizer for the whole head, dense layers too."""
    return [torch.optim.AdamW(head.parameters(), lr=lr)]


def member_statistics(parts: Parts, audit: amint.Auditable) -> None:
    """Running statistics of batch normalisation from members alone, without the external rows."""
    with audit.paused():
        torch.optim.swa_utils.update_bn([x for x, _ in parts.members], audit.backbone)


def of_views(audit: amint.Audit, x: Tensor) -> Tensor:
    """The mean score of the images at five contrasts: moved views would be hard negatives."""
    return torch.stack([audit.score(share * x) for share in (0.9, 0.95, 1.0, 1.05, 1.1)]).mean(0)


def against_mirror(audit: amint.Audit, x: Tensor) -> Tensor:
    """By how much the image scores higher than its mirror image."""
    return audit.score(x) - audit.score(x.flip(-1))


def by(score: Callable[[amint.Audit, Tensor], Tensor]) -> Callable[[Parts, amint.Audit], Mapping[str, Measurement]]:
    """Figures of another score than the head's own."""

    def judged(parts: Parts, audit: amint.Audit) -> Mapping[str, Measurement]:
        def scores(rows: Rows) -> Scores:
            return np.concatenate([score(audit, x).double().cpu().numpy() for x, _ in rows])

        return measured_by(scores, parts)

    return judged
