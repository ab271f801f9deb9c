"""Submitted pictures -> batches; what cannot be judged becomes a row with a reason, never an exception."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing
from amint.readers.decoding import decode, shown_size
from amint.readers.files import Rejected, Row, list_candidates, read_bytes

__all__ = ["Batch", "ImageFolderReader"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``tensor`` is float32 [b, channels, height, width]; ``rows`` are its b files, in the same order."""

    tensor: torch.Tensor
    rows: tuple[Row, ...]


class ImageFolderReader:
    """Reads a folder of pictures, or a single one, in batches; memory does not grow with their number.

    Iterating yields batches in the order of the relative paths. Afterwards ``rejected`` says of every other
    entry why it was not judged: ``len(reader)`` is the number of rows judged and rejected together. Links
    inside the folder are read like files, links that leave it are rejected. Formats are told by content,
    not by name: PNG, JPEG, WEBP, GIF, BMP, TIFF and PPM. Of several frames the first is judged.

    Args:
        path: a folder, searched with its subfolders, or one file.
        preprocessing: what the audited model does to a picture.
        batch_size: rows in every batch but the last.
        max_pixels: pictures with more pixels than this are rejected by their header, before decoding.
        max_bytes: files larger than this are rejected unread.
        min_side: pictures with a side shorter than this, in pixels, are rejected.
        expect: the height and width the model takes, where ``preprocessing`` does not resize: pictures of
            any other size are rejected. Without it the first picture that can be judged sets the size.

    Raises:
        UsageError: a limit below 1, or ``expect`` against the size that ``preprocessing`` resizes to.
        InputError: nothing at ``path``, a folder that cannot be listed, or one without files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        preprocessing: Preprocessing,
        batch_size: int = 64,
        max_pixels: int = 50_000_000,
        max_bytes: int = 256 * 2**20,
        min_side: int = 4,
        expect: tuple[int, int] | None = None,
    ) -> None:
        limits = {
            "batch_size": batch_size,
            "max_pixels": max_pixels,
            "max_bytes": max_bytes,
            "min_side": min_side,
        }
        for name, value in limits.items():
            if type(value) is not int or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, found {value!r}")
        if expect is not None and (len(expect) != 2 or preprocessing.size not in (None, tuple(expect))):
            raise UsageError(
                f"expect must be a height and a width that agree with the size in preprocessing, "
                f"{preprocessing.size}; found {expect!r}"
            )
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes
        self._min_side = min_side
        self._expect = None if expect is None else tuple(expect)
        self._folder, self._candidates = list_candidates(path)
        self._rejected: list[Rejected] = []

    def __len__(self) -> int:
        """How many entries will be judged or rejected."""
        return len(self._candidates)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """What the latest pass over the files has rejected so far."""
        return tuple(self._rejected)

    def __iter__(self) -> Iterator[Batch]:
        self._rejected = []
        expect = self._expect
        tensors: list[torch.Tensor] = []
        rows: list[Row] = []
        for candidate in self._candidates:
            try:
                content = read_bytes(candidate, self._folder, self._max_bytes)
                tensor, notes = decode(content, self._preprocessing, self._max_pixels, self._min_side)
                size = (tensor.shape[1], tensor.shape[2])
                expect = expect or size
                if size != expect:
                    wanted = shown_size(*expect)
                    raise InputError(f"{shown_size(*size)} pixels, but the model takes {wanted} (height x width)")
            except InputError as problem:
                self._rejected.append(Rejected(candidate.name, str(problem)))
                continue
            tensors.append(tensor)
            rows.append(Row(candidate.name, hashlib.sha256(content).hexdigest(), "; ".join(notes)))
            if len(rows) == self._batch_size:
                yield _packed(tensors, rows)
        if rows:
            yield _packed(tensors, rows)


def _packed(tensors: list[torch.Tensor], rows: list[Row]) -> Batch:
    # Emptied here, so that nothing keeps the batch alive while the caller works on it.
    batch = Batch(torch.stack(tensors), tuple(rows))
    tensors.clear()
    rows.clear()
    return batch
