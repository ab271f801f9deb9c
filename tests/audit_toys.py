"""A small network, audits of it and pictures for it, that the tests of the audit side share."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from amint.audit import Audit
from amint.heads import new_head
from amint.preprocessing import Preprocessing
from amint.registration import register

SHAPE = (3, 16, 16)
PREPROCESSING = Preprocessing(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="bicubic")


class ToyNet(nn.Module):
    """Three blocks and a classifier; ``activation`` has no weights, so that only outputs can tell it."""

    def __init__(self, activation: str = "ReLU", width: int = 8) -> None:
        super().__init__()
        act = getattr(nn, activation)
        self.entry = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), act(), nn.MaxPool2d(2))
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), act(), nn.MaxPool2d(2))
        self.last = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), act())
        self.classifier = nn.Linear(2 * width, 4)

    def forward(self, x):
        return self.classifier(self.last(self.middle(self.entry(x))).mean((2, 3)))


def images(n, seed=1, level=0.0, shape=SHAPE):
    """``[n, *shape]``, standard normal around a level."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + level


def audit_of(model=None, calibration=49, split=("entry", "middle"), shape=SHAPE, seed=3):
    """A calibrated audit with an untrained head: its scores are as good as any others for arithmetic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ToyNet() if model is None else model
    dtype = next(model.parameters()).dtype
    points, head, shape = new_head(model, split, images(2, shape=shape).to(dtype), seed)
    audit = Audit(model.eval(), points, head, shape, {"method": "toy"})
    if calibration:
        audit.calibrate(images(calibration, seed=99, shape=shape))
    return audit


def write_pictures(folder, n, seed=5, bright=0, size=(20, 24)):
    """PNG files of noise; the brighter ones look different to any network."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 128, (n, *size, 3), dtype=np.uint8) + np.uint8(bright)
    for number, pixels in enumerate(values):
        Image.fromarray(pixels).save(Path(folder) / f"{number:03}.png")
    return folder


def tensors_of(folder, preprocessing=PREPROCESSING):
    """The folder's pictures, in the order of their names, made by training's own preprocessing."""
    return torch.stack([preprocessing(Image.open(path)) for path in sorted(Path(folder).iterdir())])


def registered(members, external, calibration, seed=0):
    """An audit with a head that really knows its members, trained in a second or two."""
    torch.manual_seed(seed)
    model = ToyNet().eval()
    split = ("entry", "middle")
    audit = register(model, members, external, split=split, epochs=60, batch_size=16, ratio=2.0, seed=seed)
    audit.calibrate(calibration)
    return audit
