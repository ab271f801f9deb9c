"""Small classifiers and labels that the tests of signals share."""

import torch
import torch.nn.functional as F
from audit_toys import ToyNet, images
from torch import nn

# Columns hang on the order in which kernels sum up, and may move by this much.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def labels(n, seed=2, classes=4):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def trained_a_little(seed=0):
    """A ToyNet whose BatchNorm has seen data and whose logits are far from zero."""
    torch.manual_seed(seed)
    model = ToyNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images(16, seed=step)), labels(16, seed=step)).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


class Wrapped(nn.Module):
    """A model whose output goes through any function."""

    def __init__(self, function, classes=4):
        super().__init__()
        self.body, self.function = nn.Sequential(nn.Flatten(), nn.Linear(768, classes)), function

    def forward(self, x):
        return self.function(self.body(x))
