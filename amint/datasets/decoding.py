"""Image files -> uint8 tensors, one at a time or all into one block of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amint.errors import InputError

__all__ = ["Pictures", "decoded", "in_memory"]

# Pillow reads far more, partly by starting other programs (EPS).
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF")


def decoded(file: str | Path | IO[bytes], name: str, *, mode: str = "RGB", size: int | None = None) -> Tensor:
    """One image.

    Args:
        file: a path, or the file's bytes as a stream.
        name: what errors call it.
        mode: ``"RGB"`` or ``"L"`` (grey); other images are converted.
        size: resize to ``size`` by ``size`` pixels (bicubic); None keeps the size.

    Returns:
        uint8 ``[3 or 1, h, w]``.

    Raises:
        InputError: missing, damaged, or in a format other than JPEG, PNG, PPM, BMP, WebP and TIFF.
    """
    try:
        with Image.open(file, formats=_FORMATS) as opened:
            image = opened.convert(mode)
        if size is not None and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    # Damaged files make Pillow raise nearly anything: struct, zlib, key, index and type errors.
    except Exception as error:
        raise InputError(f"{name} cannot be read as an image ({error}); replace or remove it") from error
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True, eq=False)
class Pictures(Dataset[tuple[Tensor, int]]):
    """Colour image files of one size, decoded when asked for.

    Attributes:
        paths: one file an image.
        labels: int64 ``[n]``.
        size: height and width that images of another size are resized to.
    """

    paths: tuple[str, ...]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """uint8 ``[3, size, size]`` and the label.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.paths[index]
        return decoded(path, path, size=self.size), int(self.labels[index])


def in_memory(dataset: Dataset[Any], *, workers: int = 0, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """All images of a dataset, in one block of memory that is allocated once.

    Args:
        dataset: map-style, with a length; items are uint8 ``[c, h, w]``, all of one size, and a whole number.
        workers: processes that decode.
        device: of the block; images go there batch by batch, so that the host never holds them all.

    Returns:
        uint8 ``[n, c, h, w]`` on the device and labels ``[n]``, int64, on the CPU.

    Raises:
        InputError: an image is damaged, or there is none.
    """
    n = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    if n == 0:
        raise InputError("there is no image in this dataset")
    images = torch.empty((n, *dataset[0][0].shape), dtype=torch.uint8, device=device)
    labels = torch.empty(n, dtype=torch.int64)
    # With a generator of its own the loader draws nothing from the global one.
    loader = DataLoader(dataset, batch_size=64, num_workers=workers, generator=torch.Generator())
    done = 0
    for pictures, answers in loader:
        images[done : done + len(pictures)], labels[done : done + len(pictures)] = pictures, answers
        done += len(pictures)
    return images, labels
