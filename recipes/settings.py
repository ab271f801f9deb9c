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

    ``side`` is the height and width of inputs; ``split`` is entry, middle, output, or module names with commas;
    ``trunk_gradient`` is the share of the MINT gradient that enters the network: 1 in the paper; with 0 the network
    trains as without an audit, and ``lambda``, lambda2/lambda1 of the paper, counts for nothing. With ``tap_lr`` the
    layers that the head reads learn at a rate of their own, without it as fast as the rest. After the ``epochs`` of the
    network its head is trained alone for ``head_epochs`` more. With ``precision`` bf16 the network trains under
    autocast; the head alone, and whatever is judged, does not.

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
    lambda_: Annotated[float, Parameter(name="--lambda")] = 10.0
    # Whitened, all layers tell images apart unasked: the MINT gradient in the network can only cost its task something,
    # and the head learns as well without it.
    trunk_gradient: float = 0.0
    lr: float = 4e-3
    tap_lr: float | None = None
    head_lr: float = 1e-3
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
            raise UsageError(
                f"--device {self.device} cannot be used here ({error}); --device cpu always can"
            ) from error

    def head_size(self) -> amint.HeadSize:
        """How large the head is.

        Raises:
            UsageError: a size that no head can have.
        """
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
