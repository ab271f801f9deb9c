"""A LightningModule that knows nothing of amint, its data, and a quiet trainer."""

import logging
import random

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset
from toys import Net, images, labels

import amint

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

# Lightning's own: advice about worker processes, and its use of what newer torch calls deprecated.
BENIGN = [
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

EXTERNAL, CALIBRATION = images(120, seed=3), images(100, seed=5)


class Rows(Dataset):
    """Images with labels; noise drawn from torch, numpy and Python's global generators on request."""

    def __init__(self, n=48, noise=False, seed=1):
        self.x, self.y, self.noise = images(n, seed), labels(n), noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        factor = 1.0
        if self.noise:
            factor += 0.01 * (random.random() + np.random.rand() + torch.rand(()).item())  # noqa: NPY002
        return self.x[i] * factor, self.y[i]


def loader(n=48, noise=False, seed=1, **options):
    return DataLoader(Rows(n, noise, seed), batch_size=16, **options)


class Plain(L.LightningModule):
    """An ordinary classifier."""

    def __init__(self, norm=True, dropout=0.2):
        super().__init__()
        self.model = Net(norm, dropout)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


class Validated(Plain):
    """The same with a validation loop and a test loop."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", F.cross_entropy(self.model(batch[0]), batch[1]))


def active_mint(**options):
    defaults = {"external": EXTERNAL, "calibration": CALIBRATION, "split": ["a", "b"], "monitor": 60, "bundle": None}
    return amint.ActiveMint(**{**defaults, **options})


def trainer(*callbacks, **options):
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def hooks_of(module):
    """Every hook on every submodule."""
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_state_dict_hooks",
        "_load_state_dict_post_hooks",
    )
    return [hook for m in module.modules() for kind in kinds for hook in getattr(m, kind).values()]


def is_clean(lit, before):
    """Whether the module is as it was: ``before`` are its submodules' names."""
    return not hooks_of(lit) and "training_step" not in vars(lit) and [n for n, _ in lit.named_modules()] == before
