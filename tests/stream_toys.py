"""External data whose rows can be recognised and whose transforms are random."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

ROWS = torch.arange(23.0)[:, None].repeat(1, 3)


def drawn(stream, *sizes):
    """The numbers of the rows drawn."""
    return [int(i) for k in sizes for i in stream.take(k)[:, 0]]


class Noisy(Dataset):
    """Rows with their number, then one draw of each global generator, as random transforms make them."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return {"image": torch.tensor([i, torch.rand(()), np.random.rand(), random.random()]), "label": "x"}  # noqa: NPY002


class NoisyStream(IterableDataset):
    def __iter__(self):
        yield from Noisy()


def stack(items):
    return [torch.stack([item["image"] + torch.rand(()) * 0.1 for item in items]), [item["label"] for item in items]]
