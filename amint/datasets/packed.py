"""Many small JPEG images in one npz file, with the header they share stored once."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amint.datasets.decoding import decoded
from amint.errors import InputError

__all__ = ["packed"]


def packed(path: Path, *columns: str, size: int | None = None) -> tuple[Tensor, ...]:
    """The images of a packed file, and columns that stand beside them.

    Args:
        path: an npz file of ``header`` (shared by all images), ``scans`` (the rest of each JPEG file, joined),
            ``offsets`` (``n + 1``, where each begins) and the columns.
        columns: names of arrays ``[n]`` of whole numbers.
        size: resize to ``size`` by ``size`` pixels (bicubic); None keeps the size.

    Returns:
        uint8 ``[n, 3, h, w]``, and int64 ``[n]`` for each column.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            header, scans = held["header"].tobytes(), held["scans"].tobytes()
            offsets: list[int] = held["offsets"].tolist()
            beside: list[np.ndarray[Any, np.dtype[np.int64]]] = [held[name].astype(np.int64) for name in columns]
    # A damaged archive makes numpy raise nearly anything: zip, zlib, key, value and type errors.
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    n = len(offsets) - 1
    if n < 1 or sorted({0, len(scans), *offsets}) != offsets or any(column.shape != (n,) for column in beside):
        raise InputError(f"{path} is damaged: its arrays do not describe the same images")
    pictures = (
        decoded(io.BytesIO(header + scans[start:end]), f"image {i} of {path}", size=size)
        for i, (start, end) in enumerate(itertools.pairwise(offsets))
    )
    first = next(pictures)
    images = torch.empty((n, *first.shape), dtype=torch.uint8)
    for i, picture in enumerate(itertools.chain([first], pictures)):
        if picture.shape != first.shape:
            raise InputError(f"{path} is damaged: its images are not all of one size")
        images[i] = picture
    return images, *map(torch.from_numpy, beside)
