"""MNIST, one row of the table.

    python recipes/mnist.py --data-root DATA                                      # 5,000 members, scaled down
    python recipes/mnist.py --data-root DATA --members 25000 --external 35000     # the paper's size

DATA is the folder that holds MNIST/raw. The external rows go to the head a second time, each moved by one pixel:
without these hard negatives it knows members by heart but is unsure of what it has not seen.
"""

from __future__ import annotations

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
from training import jittered

import amint
from amint.datasets import mnist

LOOK = amint.Preprocessing(channels=1, mean=(0.1307,), std=(0.3081,))
ROWS = {
    "mobilenet entry": (0.86, 0.96), "mobilenet middle": (0.88, 0.92), "mobilenet output": (0.82, 0.90),
    "resnet50 entry": (0.83, 0.97), "resnet50 middle": (0.82, 0.97), "resnet50 output": (0.80, 0.90),
    "resnet101 entry": (0.83, 0.97), "resnet101 middle": (0.82, 0.96), "resnet101 output": (0.77, 0.80),
    "densenet121 entry": (0.82, 0.99), "densenet121 middle": (0.83, 0.99), "densenet121 output": (0.81, 0.98),
    "xception entry": (0.85, 0.98), "xception middle": (0.83, 0.98), "xception output": (0.80, 0.83),
    "vit entry": (0.80, 0.94), "vit middle": (0.81, 0.95), "vit output": (0.80, 0.93),
}  # fmt: skip
PAPER = Paper("mnist", 25_000, 35_000, ROWS)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Mnist(Settings):
    """Defaults for 2 CPU cores."""

    members: int = 5000
    external: int = 10_000
    calibration: int = 5000
    # Larger than the digits are: five halvings leave a map of 2 x 2 instead of a single cell.
    side: int = 36
    epochs: int = 10
    head_hidden: int = 512
    head_epochs: int = 8
    ratio: float = 2.0
    lambda_: Annotated[float, cyclopts.Parameter(name="--lambda")] = 0.3
    out: Path = Path("runs/mnist")


def pool(use: Mnist) -> Pool:
    """The data set."""
    look = replace(LOOK, size=(use.side, use.side))
    (images, labels), (others, truth) = (mnist(use.data_root, train=train) for train in (True, False))
    test = resized(others, look), truth
    return Pool(resized(images, look), labels, look, amint.one_pixel_shift, jittered, test=test)


def main(use: Mnist) -> None:
    """Train, audit, measure on the official test images, print and save the row."""
    run_row(use, pool(use), PAPER)


if __name__ == "__main__":
    launch(main)
