"""The network of compare_attacks.py."""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three convolutions and two dense layers; small images in, logits out."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.last = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten())
        self.dense = nn.Sequential(nn.Linear(2 * width * (side // 4) ** 2, 128), nn.ReLU())
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dense(self.last(self.middle(self.entry(x)))))
        return logits


class Classifier(L.LightningModule):
    """Plain training, no augmentation."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.model = SmallCNN(channels, side, width)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)
