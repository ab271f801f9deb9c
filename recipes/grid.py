"""What the rows of a table are made with, network by network and split by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import casia_webface
import cifar10
import gtsrb
import mnist
import tiny_imagenet
from settings import Settings

MODULES: dict[str, Any] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "gtsrb": gtsrb,
    "tiny_imagenet": tiny_imagenet,
    "casia_webface": casia_webface,
}
SPLITS = ("entry", "middle", "output")
# Steps of 256 members keep a GPU busy.
STEPS: dict[str, Any] = {"data_root": Path(), "batch": 256, "ratio": 1.0, "lambda_": 1.0}
# Tens of thousands of members need a larger head, whose steps cost a CPU several times as much, a GPU hardly more.
MANY = 10_000
LARGE: dict[str, Any] = {"head_hidden": 1024}
FULL: dict[str, Settings] = {
    # One head alone knows members by heart but guesses about other digits.
    "mnist": mnist.Mnist(**STEPS, members=25_000, external=35_000, epochs=10, head_epochs=12, head_ensemble=2),
    "cifar10": cifar10.Cifar10(**STEPS, members=20_000, external=30_000, epochs=10, head_epochs=16),
    "gtsrb": gtsrb.Gtsrb(**STEPS, members=11_000, external=15_640, calibration=6_000, epochs=20, head_epochs=20),
    "tiny_imagenet": tiny_imagenet.TinyImagenet(**STEPS, members=40_000, external=60_000, epochs=20, head_epochs=20),
    "casia_webface": casia_webface.Casia(
        **STEPS, members=200_000, external=250_000, calibration=20_000, lr=1e-3, epochs=20, head_epochs=20
    ),
}
# Networks that halve an image five times before they do much see it enlarged; transformers want lower rates.
ARCHS: dict[str, dict[str, dict[str, Any]]] = {
    "densenet121": {"cifar10": {"side": 48, "epochs": 16}},
    "legacy_xception": {"cifar10": {"side": 48}},
    "resnet101": {},
    "resnet50": {},
    "mobilenetv1_100": {},
    "vit_small_patch16_224": {data: {"lr": 1e-3} for data in FULL} | {"mnist": {"lr": 1e-3, "side": 48}},
    "efficientnet_b0": {},
}


def settings(data: str, arch: str, split: str, changes: Mapping[str, Any], out: Path) -> Settings:
    """What a row is made with; tables of other numbers of rows, and of other seeds, lie in folders of their own."""
    large = LARGE if changes.get("members", FULL[data].members) >= MANY else {}
    every = large | ARCHS.get(arch, {}).get(data, {}) | dict(changes)
    use = replace(FULL[data], **every, arch=arch, split=split).budget()
    return replace(use, out=folder(use, data, out) / f"{arch}-{split}-{use.side}px")


def folder(use: Settings, data: str, out: Path) -> Path:
    """Where a table lies."""
    return out / data / f"{use.members}-{use.external}-seed{use.seed}"
