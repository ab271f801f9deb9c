"""The same picture, or nearly: 64-bit perceptual hashes, the nearest of many, duplicates between roles.

Measured with at most 4 different bits on photographs of 32 x 32 pixels (CIFAR-10): all of 1,000 copies saved as JPEG of
quality 75 or 95 or resized are found, 99.7 % of those made 20 of 255 brighter, 15 % of those shifted by a pixel; of
5,000 photographs 0.1 % have another that near. Of 5,000 digits (MNIST) 29 % do: there, likeness is no sign of copying,
as :func:`likeness` tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BITS",
    "MOST_BITS",
    "Duplicate",
    "Hashes",
    "Marks",
    "check_hashes",
    "find_duplicates",
    "likeness",
    "near_shares",
    "nearest",
    "perceptual_hash",
]

BITS = 64
MOST_BITS = 4
Hashes = NDArray[np.int64]
_SIDE = 8
_ELEMENTS = 2**21
_ROWS, _COLUMNS = 1024, 4096
_SAMPLE = 1_000


def perceptual_hash(x: Tensor) -> Tensor:
    """A 64-bit number for the look of each image; nearly the same images differ in few bits.

    Bit ``8 u + v`` says whether the cosine coefficient (u, v) of the mean of the channels, seen as a function that
    is constant on each pixel, lies above the median of the 63 lowest ones; so size, brightness and contrast hardly
    matter. Bit 0 is set for every image that is not blank.

    Args:
        x: ``[n, channels, height, width]``, real numbers, of any size from 1 x 1.

    Returns:
        int64 ``[n]`` on the CPU, the same whatever the batch; 0 for a blank image, which :func:`nearest` takes for
        near to none.

    Raises:
        UsageError: not a batch of images.
        NonFiniteError: NaN or infinity.

    Source: the hash of pHash (Zauner 2010, section 3.1.1: DCT, lowest 8 x 8, median), without its resizing.
    """
    if x.ndim != 4 or x.is_complex() or 0 in x.shape[1:]:
        raise UsageError(f"images must be real numbers [n, channels, height, width], found {list(x.shape)} {x.dtype}")
    step = max(1, _ELEMENTS // math.prod(x.shape[1:]))
    hashes = [_chunk(x[start : start + step].detach()) for start in range(0, len(x), step)]
    # Comparing hashes, as a control does, needs no torch.
    from torch import from_numpy

    return from_numpy(np.concatenate([np.empty(0, np.int64), *hashes]))


def _chunk(images: Tensor) -> Hashes:
    # numpy multiplies a stack image by image, so that no rounding depends on the batch.
    x = images.cpu().double().numpy()
    if not np.isfinite(x).all():
        raise NonFiniteError("inputs hold NaN or infinity; leave these rows out")
    grey = x.mean(axis=1)
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    coefficients = _cosines(grey.shape[1]).T @ (centred @ _cosines(grey.shape[2]))
    coefficients = coefficients.reshape(len(x), BITS)[:, 1:]
    # Coefficients that are 0 but for rounding must not decide a bit.
    noise = 1e-9 * np.abs(grey).max(axis=(1, 2))[:, None]
    coefficients[np.abs(coefficients) <= noise] = 0.0
    bits = np.empty((len(x), BITS), np.uint64)
    bits[:, 0] = (coefficients != 0).any(axis=1)
    bits[:, 1:] = coefficients > np.median(coefficients, axis=1, keepdims=True)
    return np.asarray(np.bitwise_or.reduce(bits << np.arange(BITS, dtype=np.uint64), axis=1)).view(np.int64)


def _cosines(size: int) -> Floats:
    """``[size, 8]``: integrals of cos(pi u t) over each pixel of a line from 0 to 1."""
    edges = np.linspace(0, 1, size + 1)[:, None]
    u = np.arange(1, _SIDE)
    waves = np.diff(np.sin(np.pi * u * edges), axis=0) / (np.pi * u)
    return np.concatenate([np.full((size, 1), 1 / size), np.sqrt(2) * waves], axis=1)


def nearest(submitted: Hashes, known: Hashes, most_bits: int = MOST_BITS) -> tuple[Hashes, Hashes]:
    """For each submitted hash the known one with the fewest different bits, the first of several.

    Args:
        submitted, known: int64 ``[m]`` and ``[n]``.
        most_bits: from 0 to 64; what differs in more is not near.

    Returns:
        Row number in ``known`` and number of different bits, int64 ``[m]`` each; -1 and 64 + 1 where none is near.

    Raises:
        UsageError: not int64 arrays, or ``most_bits`` out of range.
    """
    submitted, known = check_hashes("submitted", submitted, most_bits), check_hashes("known", known, most_bits)
    index = np.full(len(submitted), -1, np.int64)
    agreement = np.full(len(submitted), _least(most_bits) - 1, np.float32)
    for rows, columns, agreeing in _tables(submitted, known):
        best = agreeing.argmax(axis=1)
        found = agreeing[np.arange(len(best)), best]
        closer = found > agreement[rows]
        index[rows] = np.where(closer, best + columns.start, index[rows])
        agreement[rows] = np.maximum(found, agreement[rows])
    distance = np.where(index < 0, BITS + 1, (BITS - agreement) // 2).astype(np.int64)
    return index, distance


def near_shares(hashes: Hashes, most_bits: int = MOST_BITS) -> Floats:
    """Of two different images, how often do their hashes differ in at most 0, 1 ... ``most_bits`` bits?

    Float64 ``[most_bits + 1]``, from 1,000 of the hashes ``[n]`` against the others; zeros for fewer than two.
    Raises as :func:`nearest`.
    """
    hashes = check_hashes("hashes", hashes, most_bits)
    hashes = np.random.default_rng(0).permutation(hashes[hashes != 0])
    asked, rest = np.split(hashes, [min(_SAMPLE, len(hashes) // 2)])
    counts = np.zeros(most_bits + 1, np.int64)
    for _, _, agreeing in _tables(asked, rest):
        bits = (BITS - agreeing[agreeing >= _least(most_bits)]).astype(np.int64) // 2
        counts += np.bincount(bits, minlength=most_bits + 1)
    return np.asarray(counts.cumsum() / max(1, len(asked) * len(rest)), np.float64)


@dataclass(frozen=True, eq=False)
class Marks:
    """What recognises samples: ``exact`` content (:func:`amint.roles.fingerprints`) and ``look`` (perceptual hashes,
    None for what is not an image), int64 ``[n]``. Raises UsageError for other arrays.
    """

    exact: Hashes
    look: Hashes | None = None

    def __post_init__(self) -> None:
        check_hashes("exact", self.exact)
        if self.look is not None and len(check_hashes("look", self.look)) != len(self.exact):
            raise UsageError(f"one look a sample, expected {len(self.exact)}, found {len(self.look)}")


@dataclass(frozen=True)
class Duplicate:
    """Submitted sample number ``item``, called ``path``, is like sample ``row`` of a role.

    ``bits`` is the number of different bits of their perceptual hashes, None if their content is the same.
    """

    item: int
    path: str
    role: str
    row: int
    bits: int | None

    @property
    def reason(self) -> str:
        """In plain words, for the note of a sample."""
        which = f"{self.role} sample {self.row}"
        if self.bits is None:
            return f"the same input as {which}; a sample cannot be judged in two roles"
        return f"looks nearly like {which} ({self.bits} of {BITS} bits differ)"


def find_duplicates(
    submitted: Marks, known: Mapping[str, Marks], paths: Sequence[str], most_bits: int = MOST_BITS
) -> tuple[Duplicate, ...]:
    """For each submitted sample and each role the first exact match or, without one, the nearest image.

    Args:
        submitted: ``[m]``.
        known: role -> marks.
        paths: names of the submitted samples, ``[m]``.
        most_bits: as in :func:`nearest`.

    Returns:
        In the order of submission, for one sample exact matches first. Raises as :func:`nearest`, and UsageError for
        another number of paths.
    """
    if len(paths) != len(submitted.exact):
        raise UsageError(f"paths must name every submitted sample, expected {len(submitted.exact)}, found {len(paths)}")
    found = []
    for role, marks in known.items():
        contents, first = np.unique(marks.exact, return_index=True)
        is_same = np.isin(submitted.exact, contents)
        rows = first[np.searchsorted(contents, submitted.exact[is_same])]
        same = np.flatnonzero(is_same)
        found += [Duplicate(i, paths[i], role, row, None) for i, row in zip(same.tolist(), rows.tolist(), strict=True)]
        if submitted.look is None or marks.look is None:
            continue
        index, bits = nearest(submitted.look, marks.look, most_bits)
        near = np.flatnonzero((index >= 0) & ~is_same)
        found += [Duplicate(i, paths[i], role, int(index[i]), int(bits[i])) for i in near.tolist()]
    return tuple(sorted(found, key=lambda duplicate: (duplicate.item, duplicate.bits is not None)))


def likeness(marks: Marks, most_bits: int = MOST_BITS) -> float:
    """How common near images are by themselves: the share of a set, or of 1,000 of it, that is near to another.

    0 for what is not an image. Raises as :func:`nearest`.
    """
    looks = np.unique(marks.exact, return_index=True)[1]
    if marks.look is None or len(looks) < 2:
        return 0.0
    looks = marks.look[np.random.default_rng(0).permutation(looks)]
    asked, rest = np.split(looks, [min(_SAMPLE, len(looks) // 2)])
    return float((nearest(asked, rest, most_bits)[0] >= 0).mean())


def check_hashes(name: str, hashes: Hashes, most_bits: int = 0) -> Hashes:
    """The same hashes. Raises UsageError: not an int64 array ``[n]``, or ``most_bits`` out of range."""
    if not isinstance(hashes, np.ndarray) or hashes.ndim != 1 or hashes.dtype != np.int64:
        found = f"{hashes.dtype} {hashes.shape}" if isinstance(hashes, np.ndarray) else type(hashes).__name__
        raise UsageError(f"{name} must be an int64 array [n], found {found}")
    if not 0 <= most_bits <= BITS:
        raise UsageError(f"most_bits must lie between 0 and {BITS}, found {most_bits}")
    return hashes


def _least(most_bits: int) -> int:
    """Agreeing minus different bits of two hashes that are just near."""
    return BITS - 2 * most_bits


def _tables(a: Hashes, b: Hashes) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Agreeing minus different bits of every pair, block by block; for blank images fewer than any pair can have.

    A product of signs: exact in float32, and faster than counting bits.
    """
    for top in range(0, len(a), _ROWS):
        rows = slice(top, top + _ROWS)
        signs = _signs(a[rows])
        for left in range(0, len(b), _COLUMNS):
            columns = slice(left, left + _COLUMNS)
            agreeing = signs @ _signs(b[columns]).T
            agreeing[a[rows] == 0] = -BITS - 1
            agreeing[:, b[columns] == 0] = -BITS - 1
            yield rows, columns, agreeing


def _signs(hashes: Hashes) -> NDArray[np.float32]:
    bits = hashes.view(np.uint64)[:, None] >> np.arange(BITS, dtype=np.uint64) & np.uint64(1)
    return bits.astype(np.float32) * 2 - 1
