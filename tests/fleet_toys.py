"""A small pool and module that the tests of reference fleets share; importable by processes that they start."""

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from toys import Net, images, labels

from amint.references import train_references

N, K, CLASSES = 24, 4, 3
ON_CPU = {"accelerator": "cpu"}


class Pool(Dataset):
    """Images with labels, the last one a copy of the first; slow or noisy on request."""

    def __init__(self, n=N, noise=0.0):
        self.x, self.y, self.noise = images(n, seed=7), labels(n), noise
        self.x[-1] = self.x[0]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.noise * torch.rand(()), self.y[i]


class Module(L.LightningModule):
    """A classifier with BatchNorm and dropout, so that buffers and random numbers matter."""

    def __init__(self, rate=0.05):
        super().__init__()
        self.model, self.rate = Net(norm=True, dropout=0.3), rate

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.rate)


def train(out, **options):
    defaults = {"max_epochs": 2, "k": K, "seed": 3, "batch_size": 6, "trainer_arguments": ON_CPU}
    arguments = {"make_module": Module, "dataset": Pool(), **defaults, **options}
    return train_references(arguments.pop("make_module"), arguments.pop("dataset"), out=out, **arguments)
