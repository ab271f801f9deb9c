"""The datasets that demo and recipes use, as tensors; nothing else in amint imports this."""

from __future__ import annotations

import gzip
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amint.errors import InputError

__all__ = ["cifar10", "digits", "mnist", "omniglot"]


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's bundled handwritten digits: uint8 ``[1797, 1, 8, 8]`` (0 to 255) and labels ``[1797]``."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(grey), torch.from_numpy(labels)


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
    return images.unsqueeze(1), labels.long()


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
    packed = Path(root) / "CIFAR10" / ("train.npz" if train else "test.npz")
    if packed.is_file():
        return _packed(packed)
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(str(root), train=train)
    except RuntimeError as error:
        raise InputError(
            f"there is neither {packed} nor CIFAR-10 in torchvision's layout in {root}; download it with "
            "torchvision.datasets.CIFAR10(root, download=True) first"
        ) from error
    return torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets)


def _packed(path: Path) -> tuple[Tensor, Tensor]:
    """Images that share a JPEG header, decoded."""
    try:
        with np.load(path, allow_pickle=False) as held:
            header, scans = held["header"].tobytes(), held["scans"].tobytes()
            offsets, labels = held["offsets"].tolist(), held["labels"].astype(np.int64)
        files = (header + scans[a:b] for a, b in itertools.pairwise(offsets))
        images = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def omniglot(root: str | Path) -> Tensor:
    """Omniglot's two small background sets in the size and colours of MNIST: letters of eight alphabets.

    Args:
        root: the folder that holds ``OMNIGLOT/images_background_small1.zip`` and ``..._small2.zip``, as their authors
            published them (github.com/brendenlake/omniglot).

    Returns:
        uint8 ``[4840, 1, 28, 28]``, light on dark; letters that are in both sets appear once.

    Raises:
        InputError: a file is missing or damaged.
    """
    letters: dict[str, Tensor] = {}
    for part in (1, 2):
        path = Path(root) / "OMNIGLOT" / f"images_background_small{part}.zip"
        try:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
                    with archive.open(name) as file, Image.open(file) as image:
                        small = image.convert("L").resize((28, 28), Image.Resampling.BOX)
                    letters.setdefault(name.partition("/")[2], torch.from_numpy(255 - np.asarray(small)))
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"cannot read {path} ({error}); get both files from python/ in github.com/brendenlake/omniglot"
            ) from error
        if not letters:
            raise InputError(f"{path} holds no PNG files; get it from github.com/brendenlake/omniglot")
    return torch.stack(list(letters.values())).unsqueeze(1)


def _idx(path: Path) -> Tensor:
    """An array of bytes in LeCun's idx format: magic number, one 32-bit size a dimension, the values."""
    packed = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(
            f"cannot read {path} or {packed.name} beside it ({error}); download MNIST with "
            "torchvision.datasets.MNIST(root, download=True) first"
        ) from error
    dimensions = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    sizes = [int(size) for size in np.frombuffer(content[4:start], ">u4")] if dimensions else []
    if not dimensions or len(content) - start != int(np.prod(sizes)):
        raise InputError(f"{path} is damaged: not an idx file of bytes, or cut short")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())
