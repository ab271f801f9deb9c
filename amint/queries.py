"""Augmented queries: views of a sample that depend on its content and on nothing else.

Attacks that average over augmentations compare a target with references on the same views. Views drawn anew for each
model, or by the position in a batch, would compare different pictures.

Source: Carlini et al., "Membership Inference Attacks From First Principles" (arXiv 2112.03570), section VI-A: mirror
images and shifts by up to four pixels, reflected at the border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amint.errors import UsageError
from amint.roles import fingerprints

__all__ = ["Queries"]

Words = np.ndarray[Any, np.dtype[np.uint64]]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Which of a view's 64 random bits say what.
_MIRROR, _ACROSS, _DOWN = np.uint64(1), np.uint64(24), np.uint64(44)


@dataclass(frozen=True)
class Queries:
    """Which views of an image a model is asked about.

    The first view is the image itself and, with ``flip``, the second its mirror image; the others are shifted at random
    by up to ``shift`` pixels in both directions, and with ``flip`` every other one of them on average is mirrored too.

    Attributes:
        count: views of each image.
        shift: in pixels, at most one less than the image's sides.
        flip: whether mirror images look like training images; for text or digits they do not.
        seed: another seed gives other shifts.

    Raises:
        UsageError: less than one view, or a negative shift.
    """

    count: int = 10
    shift: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.shift < 0:
            raise UsageError(f"queries need count >= 1 and shift >= 0, got count={self.count} and shift={self.shift}")

    def views(self, x: Tensor) -> Iterator[Tensor]:
        """The views one after the other, each like ``x``; equal rows get equal views, whatever else is in the batch.

        Args:
            x: images ``[n, c, h, w]``, before they are rounded to a model's precision.

        Raises:
            UsageError: not a batch of images.
        """
        if x.ndim != 4:
            raise UsageError(
                f"augmented queries need images [n, c, h, w], got inputs of shape {tuple(x.shape)}; leave out attacks "
                "that need signals named *_queries"
            )
        marks = fingerprints(x).cpu().numpy().view(np.uint64)
        for number in range(self.count):
            yield x if number == 0 else self._view(x, marks, number)

    def _view(self, x: Tensor, marks: Words, number: int) -> Tensor:
        bits = _mixed(marks ^ _mixed(np.array([self.seed % 2**32 * 2**32 + number], np.uint64)))
        only_mirrored = self.flip and number == 1
        shift = 0 if only_mirrored else self.shift
        rows, columns = _line(x.shape[-2], shift, bits >> _DOWN), _line(x.shape[-1], shift, bits >> _ACROSS)
        if self.flip:
            mirrored = only_mirrored | (bits & _MIRROR).astype(bool)
            columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
        n, c = x.shape[:2]
        at = (
            np.arange(n)[:, None, None, None],
            np.arange(c)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None],
        )
        return x[tuple(torch.from_numpy(np.ascontiguousarray(index)).to(x.device) for index in at)]


def _line(side: int, shift: int, bits: Words) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each sample the pixel numbers ``[n, side]`` that a shifted line shows, reflected at its ends."""
    most = min(shift, side - 1)
    by = (bits % np.uint64(2**20) % np.uint64(2 * most + 1)).astype(np.int64) - most
    beyond = np.abs(np.arange(side)[None, :] + by[:, None])
    return np.asarray((side - 1) - np.abs((side - 1) - beyond), np.int64)


def _mixed(values: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): neighbouring numbers give unrelated ones."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
