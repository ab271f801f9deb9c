"""What the recipes share: a data set, and who in it is member, external, calibration and unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import timm
import torch
from data import Images, Rows, held
from settings import LEAST, Settings
from torch import Tensor, nn

import amint
from amint.errors import UsageError


@dataclass(frozen=True)
class Pool:
    """A data set: images uint8 ``[n, c, h, w]`` (or read as it goes), labels; ``groups`` are drawn as one.

    Where there is a ``test`` part, images and labels, calibration and unseen rows come from it; otherwise from what
    members and external rows leave over.
    """

    images: Images
    labels: Tensor
    look: amint.Preprocessing
    negatives: amint.HardNegatives | Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    groups: Tensor | None = None
    test: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """The rows by role, what makes further "not a member" rows of them, and what the task trains on."""

    members: Rows
    external: Rows
    calibration: Rows
    unseen: Rows
    classes: int
    negatives: amint.HardNegatives | Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, use: Settings, pool: Pool) -> Self:
        """Draw the roles at random; copies of a row that has a role play no other one.

        Raises:
            UsageError: more rows are asked for than there are, or too few are left to calibrate or to be judged.
        """
        whole = Rows(pool.images, pool.labels, pool.look, range(len(pool.labels)), use.device)
        source = whole
        if pool.test is not None:
            source = Rows(*pool.test, pool.look, range(len(pool.test[1])), use.device)
        roles = outside = amint.assign_roles(
            whole.n,
            members=use.members,
            external=use.external,
            calibration=use.calibration if pool.test is None else 0,
            seed=use.seed,
            groups=pool.groups,
        )
        if pool.test is not None:
            outside = amint.assign_roles(source.n, members=0, external=0, calibration=use.calibration, seed=use.seed)
        alone = pool.groups if pool.test is None else None
        told = [whole.take(roles.members), whole.take(roles.external)]
        kept = [
            source.take(one_each(outside.calibration, alone, use.seed)),
            source.take(at_most(use.most_unseen, one_each(outside.unseen, alone, use.seed), use.seed)),
        ]
        if kept[0].n < LEAST["calibration"] or not kept[1].n:
            raise UsageError(
                f"{kept[0].n} calibration and {kept[1].n} unseen rows are left; expected at least "
                f"{LEAST['calibration']} and 1: ask for fewer members and external rows, or another --calibration"
            )
        members, external, *kept = held(told + kept) if pool.test is None else held(told) + held(kept)
        first = members.marks()
        external, second = external.but(first)
        calibration, third = kept[0].but(first, second)
        unseen, _ = kept[1].but(first, second, third)
        augment = pool.augment if use.augment else plainly
        classes = int(pool.labels.max()) + 1
        return cls(members, external, calibration, unseen, classes, pool.negatives, augment)

    def network(self, use: Settings) -> nn.Module:
        """A timm network for these rows, with PyTorch's own initial convolutions and classifier.

        timm draws them for their fan-out: with ten classes the first loss is above 5 instead of ln 10, and Adam on a
        few thousand images does not recover (MobileNet on 5,000 MNIST digits: 0.55 instead of 0.83 after 6 epochs).
        """
        x, _ = next(iter(self.members))
        torch.manual_seed(use.seed)
        sized: dict[str, Any] = {"img_size": x.shape[-1]} if use.arch.startswith(("vit", "swin", "deit")) else {}
        model: Any = timm.create_model(use.arch, num_classes=self.classes, in_chans=x.shape[1], **sized)
        for module in [*model.modules(), model.get_classifier()]:
            if isinstance(module, nn.Conv2d) or module is model.get_classifier():
                module.reset_parameters()
        network: nn.Module = model.to(use.device).to(memory_format=torch.channels_last)
        return network


def plainly(x: Tensor) -> Tensor:
    """No augmentation, as in the paper."""
    return x


def one_each(rows: Sequence[int], groups: Tensor | None, seed: int) -> Sequence[int]:
    """One row of each group, drawn at random: only then do p-values hold for rows that come in groups."""
    if groups is None:
        return rows
    order = [rows[i] for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return sorted({int(groups[row]): row for row in order}.values())


def at_most(n: int, rows: Sequence[int], seed: int) -> Sequence[int]:
    """As many of the rows, drawn at random: the first ones may all be of one class."""
    if len(rows) <= n:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return sorted(rows[i] for i in order[:n].tolist())
