"""CIFAR-10, one row of the table.

    python recipes/cifar10.py --data-root DATA                                                  # scaled down
    python recipes/cifar10.py --data-root DATA --members 20000 --external 30000     # the paper's size

DATA is as in amint.datasets.cifar10; packed JPEG images are not the original pixels. Mirrored and moved images serve as
hard negatives, members' too: the head answers for this very picture. The task's augmentation mirrors and jitters
members, so that "no member" said of a member's mirror image does not mean that the network learned nothing from it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cyclopts
from common import Pool
from data import resized
from launch import launch
from paper import Paper
from row import run_row
from settings import Settings
from training import mirrored

import amint
from amint.datasets import cifar10

LOOK = amint.Preprocessing(mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262), interpolation="bicubic")
ROWS = {
    "mobilenet entry": (0.86, 0.41), "mobilenet middle": (0.91, 0.41), "mobilenet output": (0.85, 0.33),
    "resnet50 entry": (0.86, 0.53), "resnet50 middle": (0.89, 0.49), "resnet50 output": (0.85, 0.39),
    "resnet101 entry": (0.87, 0.58), "resnet101 middle": (0.87, 0.54), "resnet101 output": (0.85, 0.40),
    "densenet121 entry": (0.86, 0.80), "densenet121 middle": (0.87, 0.80), "densenet121 output": (0.82, 0.76),
    "xception entry": (0.86, 0.64), "xception middle": (0.86, 0.62), "xception output": (0.87, 0.46),
    "vit entry": (0.86, 0.19), "vit middle": (0.87, 0.20), "vit output": (0.88, 0.19),
}  # fmt: skip
PAPER = Paper("cifar10", 20_000, 30_000, ROWS)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Cifar10(Settings):
    """Defaults for 2 CPU cores."""

    members: int = 2000
    external: int = 4000
    calibration: int = 5000
    epochs: int = 15
    lambda_: Annotated[float, cyclopts.Parameter(name="--lambda")] = 1.0
    out: Path = Path("runs/cifar10")


def pool(use: Cifar10) -> Pool:
    """The data set."""
    look = replace(LOOK, size=(use.side, use.side))
    (images, labels), (others, truth) = (cifar10(use.data_root, train=train) for train in (True, False))
    turned = amint.HardNegatives(amint.Moved(mirror=True), members=True)
    return Pool(resized(images, look), labels, look, turned, mirrored, test=(resized(others, look), truth))


def main(use: Cifar10) -> None:
    """Train, audit, measure on official test images, print and save the row."""
    run_row(use, pool(use), PAPER)


if __name__ == "__main__":
    launch(main)
