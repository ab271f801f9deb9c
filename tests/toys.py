"""Small networks and data that the training tests share."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Two convolutions and a linear layer, tapped at "a" or "b"; norm and dropout on request."""

    def __init__(self, norm=False, dropout=0.0, channels=2, width=6):
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()
        )
        self.b = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))
        self.drop = nn.Dropout(dropout)
        self.c = nn.Linear(width, 3)

    def forward(self, x):
        return self.c(self.drop(self.b(self.a(x)).mean((2, 3))))


def images(n, seed=1, channels=2, side=8, dtype=torch.float32):
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(n, seed=2):
    return torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))


def train(model, optimizer, x, y, steps, audit=None, batch=16, start=0):
    """Steps over the rows in their order; the plain loop, or with the audit's one more call."""
    for step in range(start, start + steps):
        i = torch.arange(step * batch, (step + 1) * batch) % len(x)
        task = F.cross_entropy(model(x[i]), y[i])
        (task if audit is None else audit.loss(task)).backward()
        optimizer.step()
        optimizer.zero_grad()


def same(a, b):
    """Whether two state dicts hold the same bits under the same names in the same order."""
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)
