"""The arguments of every recipe, and which of them cannot work."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import timm
import torch
from cyclopts import Parameter

import amint
from amint.errors import UsageError

# A threshold at alpha = 0.05 takes 19 calibration rows; below 2 rows there are no batch statistics.
LEAST = {"members": 2, "external": 1, "calibration": 19, "most_unseen": 1}
LEAST |= {"side": 8, "batch": 2, "epochs": 1, "head_epochs": 0}
POSITIVE = ("lambda", "lr", "tap_lr", "head_lr", "ratio")
SHARES = ("trunk_gradient", "label_smoothing")
MOST_RATIO = 1000


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of every recipe. A row is scaled down unless it has the paper's numbers of members and external.

    Attributes:
        data_root: the folder that holds the data.
        arch: any network of timm.
        split: entry, middle, output, or module names with commas.
        members: training images.
        external: images that the head sees as "not a member".
        calibration: images that nothing is trained on, which set the threshold.
        side: height and width of inputs.
        epochs: of the network.
        lambda_: lambda2/lambda1 of the paper, the weight of the MINT loss; counts for nothing without a trunk gradient.
        trunk_gradient: share of the MINT gradient that enters the network: 1 in the paper, 0 trains as without amint,
            and finds as many, as heads whiten what they read.
        lr: highest learning rate of the network.
        tap_lr: the same of the layers that the head reads; as the rest without it.
        head_lr: the same of the head.
        head_width: channels that the head makes of a map.
        head_pool: places, in each direction, that it keeps of a map.
        head_hidden: units of its dense layers.
        head_ensemble: heads that learn apart, their scores averaged.
        head_epochs: of the head alone, after those of the network.
        label_smoothing: of the task's loss.
        augment: whether the task trains on turned and moved images.
        batch: members a step.
        ratio: external rows a member and step.
        most_unseen: images to judge on, at most.
        hard_negatives: whether moved or mirrored images are shown to the head as "not a member", too.
        seed: of roles, weights and order.
        device: such as cpu or cuda.
        precision: bf16 trains the network under autocast, not the head alone, and judges nothing so.
        out: where the row, and the bundle, are written.
        smoke: a few images, one epoch, a small network: does everything run?

    Raises:
        UsageError: a value with which no row can be made.
    """

    data_root: Path
    arch: str = "mobilenetv1_100"
    split: str = "entry"
    members: int
    external: int
    calibration: int
    side: int = 32
    epochs: int = 10
    lambda_: Annotated[float, Parameter(name="--lambda")] = 1.0
    trunk_gradient: float = 0.0
    lr: float = 4e-3
    tap_lr: float | None = None
    head_lr: float = 3e-3
    head_width: int | None = None
    head_pool: int = 4
    head_hidden: int = 128
    head_ensemble: int = 1
    head_epochs: int = 12
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

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, found {getattr(self, name)}")
        for name in POSITIVE:
            value = self.lambda_ if name == "lambda" else getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be positive and finite, found {value}")
        if self.ratio > MOST_RATIO:
            raise UsageError(f"--ratio must be at most {MOST_RATIO:,} external rows a member, found {self.ratio:g}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} must be between 0 and 1, found {getattr(self, name)}")
        self.head_size()
        if not timm.is_model(self.arch):
            near = ", ".join(difflib.get_close_matches(self.arch, timm.list_models(), 3))
            raise UsageError(f"--arch: timm has no network {self.arch!r}; near names: {near or 'none'}")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"--device {self.device} cannot be used here ({error}); cpu always can") from error

    def head_size(self) -> amint.HeadSize:
        """How large the head is; UsageError for a size that no head can have."""
        return amint.HeadSize(self.head_width, self.head_pool, self.head_hidden, self.head_ensemble)

    def budget(self) -> Self:
        """These settings, or with ``--smoke`` a few rows, one epoch and a small network: does everything run?"""
        if not self.smoke:
            return self
        few = replace(self, members=64, external=96, calibration=120, most_unseen=60)
        return replace(few, arch="resnet10t", epochs=1, head_epochs=min(1, self.head_epochs), batch=16)

    def taps(self) -> str | list[str]:
        """The split, as amint takes it."""
        named = [name for name in self.split.split(",") if name]
        return self.split if named in (["entry"], ["middle"], ["output"]) else named
