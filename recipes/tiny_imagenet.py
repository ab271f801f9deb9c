"""Tiny ImageNet, one row of the table.

    python recipes/tiny_imagenet.py --data-root DATA                                                  # scaled down
    python recipes/tiny_imagenet.py --data-root DATA --members 40000 --external 60000 --device cuda   # the paper's size

DATA is the folder that holds tiny-imagenet-200. The paper weighs the MINT loss 10,000 times.
Mirrored and moved images serve as hard negatives, as in cifar10.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cyclopts
from common import Pool
from data import resized
from launch import launch
from paper import Paper
from row import run_row
from settings import Settings
from training import mirrored

import amint
from amint.datasets import tiny_imagenet

LOOK = amint.Preprocessing(mean=(0.480, 0.448, 0.398), std=(0.277, 0.269, 0.282), interpolation="bicubic")
ROWS = {
    "mobilenet entry": (0.80, 0.11), "resnet50 entry": (0.80, 0.12), "resnet101 entry": (0.80, 0.11),
    "densenet121 entry": (0.86, 0.34), "xception entry": (0.88, 0.28), "vit entry": (0.81, 0.17),
}  # fmt: skip
PAPER = Paper("tiny_imagenet", 40_000, 60_000, ROWS)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TinyImagenet(Settings):
    """Defaults for 2 CPU cores."""

    members: int = 4000
    external: int = 6000
    calibration: int = 5000
    side: int = 64
    out: Path = Path("runs/tiny_imagenet")


def pool(use: Settings) -> Pool:
    """The data set."""
    look = replace(LOOK, size=(use.side, use.side))
    parts = (tiny_imagenet(use.data_root, train=train, workers=2) for train in (True, False))
    (images, labels), (others, truth) = ((resized(images, look), labels) for images, labels in parts)
    turned = amint.HardNegatives(amint.Moved(mirror=True), members=True)
    return Pool(images, labels, look, turned, mirrored, test=(others, truth))


def main(use: TinyImagenet) -> None:
    """Train, audit, measure on official validation images, print and save the row."""
    run_row(use, pool(use), PAPER)


if __name__ == "__main__":
    launch(main)
