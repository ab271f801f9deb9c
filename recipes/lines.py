"""Lines of a comparison: an audited network with one thing changed, or a plain one and what else finds its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from common import Parts, Pool, at_most
from joined import Balances, attached, found_by, head_alone, measured_by, registered
from settings import Settings
from torch import nn
from training import HeadOptimizers, accuracy, train

import amint
from amint.metrics import Measurement, clopper_pearson

KEYS = ("accuracy", "balanced_accuracy", "auroc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")

# Value, and the ends of its 95 % interval.
Interval = tuple[float, float, float]
Figures = dict[str, Interval]
Line = Callable[[Settings, Pool], Figures]


@dataclass(frozen=True)
class Audited:
    """Trains, calibrates and measures an audited network.

    Attributes:
        change: fields of the settings that differ.
        balance: of the two losses; None for the recipes' own.
        attach: arguments of ``amint.attach`` that differ.
        averaged: share of the old in a running average of all weights, which is what is judged; 0 for none.
        of_head: what the head learns with while the network trains.
        plain_view: whether the head sees plain members while the task trains on augmented ones.
        settle: what is done with the network before its head is trained alone.
        judged: the figures of the finished audit.
    """

    change: Mapping[str, Any] | None = None
    balance: Callable[[], Balances] | None = None
    attach: Mapping[str, Any] | None = None
    averaged: float = 0.0
    of_head: HeadOptimizers = amint.head_optimizers
    plain_view: bool = True
    settle: Callable[[Parts, amint.Auditable], None] | None = None
    judged: Callable[[Parts, amint.Audit], Mapping[str, Measurement]] | None = None

    def __call__(self, use: Settings, data: Pool) -> Figures:
        """The figures with these settings and this data."""
        use, most = replace(use, **(self.change or {})), use.external
        # Drawn with the most external rows, so that members and unseen rows are the same in every line.
        parts = Parts.of(replace(use, external=most), data)
        parts = replace(parts, external=parts.external.take(at_most(use.external, parts.external.numbers, use.seed)))
        model = parts.network(use)
        balance = None if self.balance is None else self.balance()
        trained = attached(use, parts, model, balance, **(self.attach or {}))
        train(model, parts.members, use, parts.augment, trained, self.averaged, self.of_head, self.plain_view)
        if self.settle is not None:
            self.settle(parts, trained)
        head_alone(use, parts, trained)
        trained.calibrate(parts.calibration)
        judge = self.judged
        measured = trained.evaluate(parts.members, parts.unseen) if judge is None else judge(parts, trained)
        return figures_of(accuracy(model, parts.unseen), parts.unseen.n, measured)


def afterwards(use: Settings, parts: Parts, model: nn.Module) -> Mapping[str, Measurement]:
    """What a head finds that is trained on the finished network."""
    return found_by(registered(use, parts, model), parts)


def listed(_use: Settings, parts: Parts, _model: nn.Module) -> Mapping[str, Measurement]:
    """What a list of the members' hashes finds, whatever the network."""
    return measured_by(amint.HashRegister.of(parts.members).scores, parts)


@dataclass(frozen=True)
class Plain:
    """Trains a network without any audit, and measures what is ``found`` about its members all the same."""

    found: Callable[[Settings, Parts, nn.Module], Mapping[str, Measurement]]

    def __call__(self, use: Settings, data: Pool) -> Figures:
        """The figures with these settings and this data."""
        parts = Parts.of(use, data)
        model = parts.network(use)
        train(model, parts.members, use, parts.augment)
        return figures_of(accuracy(model, parts.unseen), parts.unseen.n, self.found(use, parts, model))


BASELINES: dict[str, Line] = {
    "trained plainly, registered afterwards": Plain(afterwards),
    "trained plainly, members' hashes in a list": Plain(listed),
}


def figures_of(right: float, n: int, measured: Mapping[str, Measurement]) -> Figures:
    """The accuracy on ``n`` rows and what was measured."""
    interval = clopper_pearson(round(right * n), n)
    found = {key: measured[key] for key in KEYS[1:]}
    return {"accuracy": (right, interval.low, interval.high)} | {
        key: (one.value, one.interval.low, one.interval.high) for key, one in found.items()
    }
