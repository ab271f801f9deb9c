"""The training loop of the experiments on what a head finds: no augmentation, one rate for everything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amint


def train(network: nn.Module, audit: amint.Auditable, x: Tensor, y: Tensor, epochs: int) -> None:
    """``epochs`` passes over inputs ``x`` and classes ``y`` in batches of 32; ends in evaluation mode."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(x[::32]))
    for rows in (rows for _ in range(epochs) for rows in torch.randperm(len(x)).split(32)):
        optimizer.zero_grad()
        audit.loss(F.cross_entropy(network(x[rows]), y[rows])).backward()
        optimizer.step()
        schedule.step()
    network.eval()
