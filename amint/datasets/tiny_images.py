"""Tiny ImageNet (Stanford CS231n): 200 classes of ImageNet at 64 by 64 pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from amint.datasets.decoding import Pictures, in_memory
from amint.errors import InputError

__all__ = ["tiny_imagenet"]

_GET = "get http://cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it there"


def tiny_imagenet(root: str | Path, *, train: bool, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Tiny ImageNet, from the original files; grey images become RGB.

    Args:
        root: the folder that holds ``tiny-imagenet-200``: ``wnids.txt``, ``train/WNID/images/*.JPEG``, ``val/images``
            and ``val/val_annotations.txt``.
        train: the 100,000 training images (1.2 GB), else the 10,000 validation images. The test images have no
            published labels.
        workers: processes that decode.

    Returns:
        uint8 ``[n, 3, 64, 64]`` and labels ``[n]``, int64: the place in the sorted list of WordNet ids.

    Raises:
        InputError: a file or a class is missing or damaged.
    """
    folder = Path(root) / "tiny-imagenet-200"
    places = {wnid: place for place, wnid in enumerate(sorted(_lines(folder / "wnids.txt")))}
    named: list[tuple[Path, str]] = []
    if train:
        for wnid in places:
            found = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
            if not found:
                raise InputError(f"no images of class {wnid} in {folder / 'train' / wnid / 'images'}; {_GET}")
            named += [(path, wnid) for path in found]
    else:
        listed = folder / "val" / "val_annotations.txt"
        for number, line in enumerate(_lines(listed), 1):
            name, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if wnid not in places:
                raise InputError(f"line {number} of {listed} is not FILE, WNID and a box, split by tabs: {line[:80]!r}")
            named.append((folder / "val" / "images" / name, wnid))
    labels = torch.tensor([places[wnid] for _, wnid in named], dtype=torch.int64)
    return in_memory(Pictures(tuple(str(path) for path, _ in named), labels, 64), workers=workers)


def _lines(path: Path) -> list[str]:
    try:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); {_GET}") from error
    if not found:
        raise InputError(f"{path} is empty; {_GET}")
    return found
