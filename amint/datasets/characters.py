"""Omniglot in its authors' zip files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amint.errors import InputError

__all__ = ["omniglot"]


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
        # A damaged archive or picture raises nearly anything: zip, zlib, struct, value and memory errors.
        except Exception as error:
            raise InputError(
                f"cannot read {path} ({error}); get both files from python/ in github.com/brendenlake/omniglot"
            ) from error
        if not letters:
            raise InputError(f"{path} holds no PNG files; get it from github.com/brendenlake/omniglot")
    return torch.stack(list(letters.values())).unsqueeze(1)
