"""Rows of a data set as batches of model inputs: bytes in one block on the device if they fit, a loader otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms.functional import to_pil_image

import amint
from amint.datasets import in_memory
from amint.roles import fingerprints

WORKERS = 2
Images = Tensor | Dataset[tuple[Tensor, int]]


@dataclass(frozen=True)
class Rows:
    """Images and labels; iterating gives batches of model inputs and labels on the device.

    Attributes:
        images: uint8 ``[n, c, h, w]``, where it lies, or a dataset of (uint8 image, label) that is read as it goes.
        labels: int64 ``[n]``.
        look: how pixels become inputs.
        numbers: which rows.
        device: of the batches.
        batch: rows in a batch.
        shuffle: a new order each time, and whole batches only.
    """

    images: Images
    labels: Tensor
    look: amint.Preprocessing
    numbers: Sequence[int]
    device: str = "cpu"
    batch: int = 256
    shuffle: bool = False

    @property
    def n(self) -> int:
        return len(self.numbers)

    def take(self, numbers: Sequence[int]) -> Rows:
        return replace(self, numbers=numbers)

    def shuffled(self, batch: int) -> Rows:
        return replace(self, batch=min(batch, self.n), shuffle=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.tensor(self.numbers)
        if not isinstance(self.images, Tensor):
            subset = Subset(self.images, numbers.tolist())
            for pixels, labels in DataLoader(
                subset, self.batch, self.shuffle, num_workers=WORKERS, drop_last=self.shuffle
            ):
                yield self._input(pixels), labels.to(self.device)
            return
        if self.shuffle:  # a short last batch would spoil the batch statistics
            numbers = numbers[torch.randperm(self.n)[: self.n // self.batch * self.batch]]
        for rows in numbers.split(self.batch):
            yield self._input(self.images[rows.to(self.images.device)]), self.labels[rows].to(self.device)

    def _input(self, pixels: Tensor) -> Tensor:
        return self.look.scaled(pixels.to(self.device)).contiguous(memory_format=torch.channels_last)

    def pixels(self) -> Tensor:
        """uint8 ``[n, c, h, w]`` on the CPU."""
        images = self.images
        if isinstance(images, Tensor):
            return images[list(self.numbers)].cpu()
        return torch.stack([images[number][0] for number in self.numbers])

    def marks(self) -> Tensor:
        """int64 ``[n]`` on the CPU, equal for rows of equal content."""
        return torch.cat([fingerprints(x).cpu() for x, _ in self])

    def but(self, *taken: Tensor) -> tuple[Rows, Tensor]:
        """The rows whose content has none of these marks, and their own marks: a sample plays one role only."""
        marks = self.marks()
        kept = ~torch.isin(marks, torch.cat(taken))
        return self.take([number for number, keep in zip(self.numbers, kept.tolist(), strict=True) if keep]), marks[
            kept
        ]


def resized(images: Tensor, look: amint.Preprocessing) -> Tensor:
    """uint8 ``[n, c, h, w]`` in the size that the network sees, as files are resized when they are verified."""
    if look.size in (None, tuple(images.shape[-2:])):
        return images
    return torch.stack([look.pixels(to_pil_image(image)) for image in images])


def room(device: str) -> int:
    """Half of the free memory there in bytes: the other half is for training."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return 2**31
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def held(parts: Sequence[Rows]) -> list[Rows]:
    """Parts of one data set, their images in one block of bytes on the device if they fit there, else as they are."""
    images, device = parts[0].images, torch.device(parts[0].device)
    if isinstance(images, Tensor) and images.device.type == device.type:
        return list(parts)
    needed = sorted({number for rows in parts for number in rows.numbers})
    example = images[needed[0]]
    if len(needed) * (example if isinstance(example, Tensor) else example[0]).numel() > room(str(device)):
        return list(parts)
    if isinstance(images, Tensor):
        block = images[needed].to(device)
    else:
        block, _ = in_memory(Subset(images, needed), workers=WORKERS, device=device)
    place = {number: i for i, number in enumerate(needed)}
    labels = parts[0].labels[needed]
    return [replace(rows, images=block, labels=labels, numbers=[place[i] for i in rows.numbers]) for rows in parts]
