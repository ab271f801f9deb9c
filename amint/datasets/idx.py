"""MNIST in LeCun's idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amint.errors import InputError

__all__ = ["mnist"]


def mnist(root: str | Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """MNIST from the original files, plain or gzip-compressed, read in place.

    Args:
        root: the folder that holds ``MNIST/raw`` (torchvision's layout).
        train: the 60,000 training images, else the 10,000 test images.

    Returns:
        uint8 ``[n, 1, 28, 28]`` and labels ``[n]``, int64.

    Raises:
        InputError: a file is missing or damaged.
    """
    part = "train" if train else "t10k"
    images = _idx(Path(root) / "MNIST" / "raw" / f"{part}-images-idx3-ubyte")
    labels = _idx(Path(root) / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(
            f"the {part} files of MNIST in {root} do not belong together: expected images [n, h, w] and labels [n], "
            f"found {list(images.shape)} and {list(labels.shape)}; download them again"
        )
    return images.unsqueeze(1), labels.long()


def _idx(path: Path) -> Tensor:
    """An array of bytes in LeCun's idx format: magic number, one 32-bit size a dimension, the values."""
    packed = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"cannot read {path} or {packed.name} beside it ({error}); download MNIST with "
            "torchvision.datasets.MNIST(root, download=True) first"
        ) from error
    dimensions = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    sizes = [int(size) for size in np.frombuffer(content[4:start], ">u4")] if len(content) >= start > 4 else []
    if not sizes or len(content) - start != math.prod(sizes):
        raise InputError(f"{path} is damaged: not an idx file of bytes, or cut short")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())
