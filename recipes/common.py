"""What the recipes share: their arguments, and who is member, external, calibration and unseen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import timm
import torch
from cyclopts import Parameter
from torch import Tensor, nn
from torch.utils.data import Dataset
from training import Rows

import amint


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of every recipe. A row is scaled down unless it has the paper's numbers of members and external.

    ``split`` is entry, middle, output, or module names with commas; ``lambda`` is lambda2/lambda1 of the paper.
    """

    data_root: Path
    arch: str = "mobilenetv1_100"
    split: str = "entry"
    members: int
    external: int
    calibration: int
    epochs: int = 10
    lambda_: Annotated[float, Parameter(name="--lambda")] = 10.0
    lr: float = 4e-3
    tap_lr: float = 1e-3
    head_lr: float = 1e-3
    label_smoothing: float = 0.1
    augment: bool = True
    batch: int = 64
    ratio: float = 1.0
    most_unseen: int = 10_000
    hard_negatives: bool = True
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    out: Path
    smoke: bool = False

    def budget(self) -> Self:
        """These settings, or with ``--smoke`` a few rows, one epoch and a small network: does everything run?"""
        if not self.smoke:
            return self
        few = replace(self, members=64, external=96, calibration=120, most_unseen=60)
        return replace(few, arch="resnet10t", epochs=1, batch=16)

    def deepest_tap(self, model: nn.Module, x: Tensor) -> str:
        """The name of the last module that the head reads."""
        taps = self.taps()
        if isinstance(taps, list):
            return taps[-1]
        return next(p.name for p in reversed(amint.tap_points(model, x)) if self.split in p.setups)

    def taps(self) -> str | list[str]:
        """The split, as amint takes it."""
        named = [name for name in self.split.split(",") if name]
        return self.split if named in (["entry"], ["middle"], ["output"]) else named


@dataclass(frozen=True)
class Pool:
    """A data set: images uint8 ``[n, c, h, w]`` (or read as it goes), labels; ``groups`` are drawn as one.

    Where there is a ``test`` part, images and labels, calibration and unseen rows come from it; otherwise from what
    members and external rows leave over.
    """

    images: Tensor | Dataset[tuple[Tensor, int]]
    labels: Tensor
    look: amint.Preprocessing
    negatives: amint.HardNegatives | Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    groups: Tensor | None = None
    test: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Parts:
    """The rows by role, what makes further "not a member" rows of them, and what the task trains on."""

    members: Rows
    external: Rows
    calibration: Rows
    unseen: Rows
    negatives: amint.HardNegatives | Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, use: Settings, pool: Pool) -> Self:
        """Draw the roles at random."""

        def rows(images: Tensor | Dataset[tuple[Tensor, int]], labels: Tensor) -> Rows:
            held = images.to(use.device) if isinstance(images, Tensor) else images
            return Rows(held, labels, pool.look, range(len(labels)), use.device)

        whole = rows(pool.images, pool.labels)
        source = whole if pool.test is None else rows(*pool.test)
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
        return cls(
            whole.take(roles.members),
            whole.take(roles.external),
            source.take(one_each(outside.calibration, alone, use.seed)),
            source.take(one_each(outside.unseen, alone, use.seed)[: use.most_unseen]),
            pool.negatives,
            pool.augment if use.augment else plainly,
        )

    def network(self, use: Settings) -> nn.Module:
        """A timm network for these rows, with PyTorch's own initial convolutions and classifier.

        timm draws them for their fan-out: with ten classes the first loss is above 5 instead of ln 10, and Adam on a
        few thousand images does not recover (MobileNet on 5,000 MNIST digits: 0.55 instead of 0.83 after 6 epochs).
        """
        x, _ = next(iter(self.members))
        torch.manual_seed(use.seed)
        sized: dict[str, Any] = {"img_size": x.shape[-1]} if use.arch.startswith(("vit", "swin", "deit")) else {}
        classes = int(self.members.labels.max()) + 1
        model: Any = timm.create_model(use.arch, num_classes=classes, in_chans=x.shape[1], **sized)
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
