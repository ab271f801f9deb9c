"""GTSRB, the German Traffic Sign Recognition Benchmark (Stallkamp et al., Neural Networks 32, 2012)."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from amint.datasets.decoding import Pictures, in_memory
from amint.datasets.packed import packed
from amint.errors import InputError

__all__ = ["gtsrb"]

_GET = "torchvision.datasets.GTSRB(root, split={split!r}, download=True)"


def gtsrb(root: str | Path, *, train: bool, size: int = 32) -> tuple[Tensor, Tensor, Tensor | None]:
    """GTSRB, from torchvision's files if they are there, else from a packed subset of its training images.

    A track is one physical sign, photographed again and again on approach. Its images are alike, so roles are to
    be drawn by track: ``assign_roles(len(images), ..., groups=groups)``.

    Args:
        root: the folder that holds ``gtsrb`` as torchvision downloads it (26,640 training images in 888 tracks,
            12,630 test images), or ``GTSRB/gtsrb_subset.npz``, packed as for :func:`amint.datasets.cifar10` with a
            column ``track`` besides ``labels``. The subset is lossy and already resized to 32 by 32.
        train: the training images, else the test images. The subset has no test images.
        size: height and width that every image is resized to (bicubic, the whole image).

    Returns:
        uint8 ``[n, 3, size, size]``; labels ``[n]``, int64, 0 to 42; groups ``[n]``, int64, the same number for the
        images of one track. Groups are None for the test images, whose tracks are not published.

    Raises:
        InputError: the images asked for are not there, or a file is damaged.
    """
    folder = Path(root) / "gtsrb"
    subset = Path(root) / "GTSRB" / "gtsrb_subset.npz"
    if train and not (folder / "GTSRB" / "Training").is_dir() and subset.is_file():
        images, labels, tracks = packed(subset, "labels", "track", size=size)
        return images, labels, _groups(labels, tracks)
    if train:
        return _training(folder / "GTSRB" / "Training", size)
    return *_test(folder, size, subset), None


def _training(folder: Path, size: int) -> tuple[Tensor, Tensor, Tensor]:
    paths = sorted(folder.glob("*/*.ppm"))
    if not paths:
        raise InputError(f"no CLASS/TRACK_FRAME.ppm in {folder}; get it with " + _GET.format(split="train"))
    try:
        labels = torch.tensor([int(path.parent.name) for path in paths])
        tracks = torch.tensor([int(path.stem.partition("_")[0]) for path in paths])
    except ValueError as error:
        raise InputError(f"files in {folder} are not named CLASS/TRACK_FRAME.ppm in digits: {error}") from error
    return *in_memory(Pictures(tuple(map(str, paths)), labels, size)), _groups(labels, tracks)


def _test(folder: Path, size: int, subset: Path) -> tuple[Tensor, Tensor]:
    listed = folder / "GT-final_test.csv"
    try:
        with listed.open(newline="", encoding="utf-8") as file:
            rows = [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(file, delimiter=";")]
    except OSError as error:
        kept = (
            f"{subset} holds training images only: keep whole tracks apart with assign_roles(..., groups=groups), or "
            if subset.is_file()
            else ""
        )
        raise InputError(f"cannot read {listed} ({error}); {kept}get it with " + _GET.format(split="test")) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{listed} is damaged: expected columns Filename and ClassId ({error!r})") from error
    paths = tuple(str(folder / "GTSRB" / "Final_Test" / "Images" / name) for name, _ in rows)
    return in_memory(Pictures(paths, torch.tensor([label for _, label in rows], dtype=torch.int64), size))


def _groups(labels: Tensor, tracks: Tensor) -> Tensor:
    # Tracks are counted from 0 in every class.
    groups: Tensor = torch.unique(torch.stack([labels, tracks], dim=1), dim=0, return_inverse=True)[1]
    return groups
