"""Small reference models one after the other, and several at once: seconds of each way, on --device cpu or cuda."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import lightning as L
import torch
from launch import launch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import amint


class Classifier(L.LightningModule):
    """Two convolutions with norms and a linear layer, 5,500 weights."""

    def __init__(self) -> None:
        super().__init__()
        entry = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
        middle = [nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
        self.model = nn.Sequential(*entry, *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def seconds(pool: TensorDataset, device: str, models: int, at_once: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        train = partial(amint.train_references, Classifier, pool, out=folder, max_epochs=4, k=models, workers=1)
        began = time.perf_counter()
        train(at_once=at_once, trainer_arguments={"accelerator": device})
        return time.perf_counter() - began


def main(*, device: str = "auto", out: Path = Path("runs/stacking-speed"), smoke: bool = False) -> None:
    """Train the same references both ways, in turn; print and save the medians and their ratio."""
    images, models, repeats = (64, 2, 1) if smoke else (4096, 8, 7)
    pool = TensorDataset(torch.randn(images, 3, 32, 32), torch.randint(10, (images,)))
    # In the first round, which does not count, libraries load and the device starts.
    spent = [[seconds(pool, device, models, n) for n in (1, models)] for _ in range(1 + repeats)]
    alone, together = (statistics.median(column) for column in zip(*spent[1:], strict=True))
    print(f"{models} models: {alone:.2f} s one after the other, {together:.2f} s at once, ratio {alone / together:.2f}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "stacking_speed.json").write_text(json.dumps({"models": models, "alone": alone, "at_once": together}))


if __name__ == "__main__":
    launch(main)
