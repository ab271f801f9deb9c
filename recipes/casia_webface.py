"""CASIA-WebFace, one row of the table; or any other faces by identity.

    python recipes/casia_webface.py --data-root FOLDER      # PERSON/IMAGE files, or train.rec and train.idx
    python recipes/casia_webface.py --data-root DATA --orl  # 40 people, 400 faces: DATA holds ORL/orl_faces.tar.xz
    ... --members 200000 --external 250000 --calibration 20000 --lr 1e-3 --device cuda   # the paper's size

Faces are held as bytes on the device if those of all roles fit there, else read from disk as training goes on. Of every
person some images are members and some are not, as in the paper: the audit asks whether this photo was used, not
whether this person was. Copies of a member or of an external photo play no second role. For hard negatives in a mirror
see cifar10.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cyclopts
import torch
from common import Pool
from launch import launch
from paper import Paper
from PIL import Image
from row import run_row
from settings import Settings
from training import mirrored

import amint
from amint.datasets import faces, orl, record_io
from amint.errors import UsageError

PAPER = Paper("casia_webface", 200_000, 250_000, {"mobilenet entry": (0.86, 0.15)})


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Casia(Settings):
    """Defaults for 2 CPU cores and a small share of the images.

    Attributes:
        orl: take the ORL faces in the data's folder.
    """

    members: int = 4000
    external: int = 5000
    calibration: int = 2000
    side: int = 112
    epochs: int = 20
    orl: bool = False
    out: Path = Path("runs/casia_webface")


def pool(use: Casia) -> Pool:
    """The data set."""
    turned = amint.HardNegatives(amint.horizontal_flip, members=True)
    if use.orl:
        look = amint.Preprocessing(size=(use.side, use.side), channels=1, mean=(0.45,), std=(0.19,))
        grey, labels = orl(use.data_root)
        images = torch.stack([look.pixels(Image.fromarray(image[0].numpy())) for image in grey])
        return Pool(images, labels, look, turned, mirrored)
    packed = use.data_root.suffix == ".rec" or (use.data_root / "train.rec").is_file()
    found = record_io(use.data_root) if packed else faces(use.data_root, size=use.side)
    _, height, width = found[0][0].shape
    if height != use.side:
        raise UsageError(f"the records hold faces of {height} x {width} pixels: pass --side {height}")
    look = amint.Preprocessing(size=(height, width), mean=(0.5,), std=(0.5,), interpolation="bicubic")
    return Pool(found, found.labels, look, turned, mirrored)


def main(use: Casia) -> None:
    """Train, audit, measure on unseen faces, print and save the row."""
    run_row(use, pool(use), replace(PAPER, rows={}) if use.orl else PAPER)


if __name__ == "__main__":
    launch(main)
