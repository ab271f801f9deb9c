"""Faces by identity: folders of images, and the ORL archive."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from amint.datasets.decoding import Pictures, decoded
from amint.errors import InputError

__all__ = ["faces", "orl"]


def faces(folder: str | Path, *, size: int) -> Pictures:
    """A folder with one subfolder a person, the images in it at any depth; decoded when asked for.

    Args:
        folder: for example CASIA-WebFace, aligned: 494,414 images of 10,575 people.
        size: height and width every image is resized to; the aspect ratio is not kept (aligned faces are square).

    Returns:
        Items are uint8 ``[3, size, size]`` and the label, the person's place among the subfolders sorted as text
        (as in ``torchvision.datasets.ImageFolder``). See :func:`amint.datasets.in_memory`.

    Raises:
        InputError: no such folder, or a person without images.
    """
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except OSError as error:
        raise InputError(f"expected PERSON/IMAGE files in {folder}: {error}") from error
    return Pictures(tuple(path for path, _ in found.samples), torch.tensor(found.targets), size)


def orl(root: str | Path) -> tuple[Tensor, Tensor]:
    """The ORL faces, read straight from the archive (Samaria and Harter, WACV 1994): 40 people, 10 images each.

    Args:
        root: the folder that holds ``ORL/orl_faces.tar.xz`` with ``orl_faces/s1/1.pgm`` to ``orl_faces/s40/10.pgm``.

    Returns:
        uint8 ``[400, 1, 112, 92]``, grey, and labels ``[400]``, int64: 0 for s1 to 39 for s40.

    Raises:
        InputError: the archive is missing or damaged.
    """
    path = Path(root) / "ORL" / "orl_faces.tar.xz"
    found: dict[tuple[int, int], Tensor] = {}
    try:
        # Decompressed whole, so that the checksum at the end counts too.
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as archive:
            for entry in archive:
                place = re.fullmatch(r"orl_faces/s(\d+)/(\d+)\.pgm", entry.name)
                file = archive.extractfile(entry) if place else None
                if place and file:
                    found[int(place[1]), int(place[2])] = decoded(file, f"{entry.name} in {path}", mode="L")
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    wanted = [(person, number) for person in range(1, 41) for number in range(1, 11)]
    if sorted(found) != wanted or len({picture.shape for picture in found.values()}) != 1:
        raise InputError(f"{path} holds {len(found)} faces; expected orl_faces/s1/1.pgm to s40/10.pgm, all of one size")
    return torch.stack([found[place] for place in wanted]), torch.tensor([person - 1 for person, _ in wanted])
