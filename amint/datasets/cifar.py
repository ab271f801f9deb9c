"""CIFAR-10 in torchvision's layout, or packed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from amint.datasets.packed import packed
from amint.errors import InputError

__all__ = ["cifar10"]


def cifar10(root: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """CIFAR-10, from torchvision's files or from one packed file of JPEG images, whichever is there.

    Args:
        root: the folder that holds ``cifar-10-batches-py``, or ``CIFAR10/train.npz`` and ``test.npz``: arrays
            ``header`` (shared by all), ``scans`` (the rest of each file, joined), ``offsets`` and ``labels``. Packed
            images are lossy; figures on them are not those of the original pixels.
        train: the 50,000 training images, else the 10,000 test images.

    Returns:
        uint8 ``[n, 3, 32, 32]`` and labels ``[n]``, int64.

    Raises:
        InputError: neither is there, or it is damaged.
    """
    path = Path(root) / "CIFAR10" / ("train.npz" if train else "test.npz")
    if path.is_file():
        images, labels = packed(path, "labels")
        return images, labels
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(str(root), train=train)
    except RuntimeError as error:
        raise InputError(
            f"there is neither {path} nor CIFAR-10 in torchvision's layout in {root}; download it with "
            "torchvision.datasets.CIFAR10(root, download=True) first"
        ) from error
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)
