"""Submitted pictures -> batches; what cannot be judged becomes a row with a reason, never an exception."""

import hashlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

import torch

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing
from amint.readers.decoding import Picture, decode, shown_size
from amint.readers.kinds import sniff
from amint.readers.limits import Limits
from amint.readers.rows import Rejected, Row
from amint.readers.sources import Entry, Source

__all__ = ["Batch", "ImageReader"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``tensor`` is float32 [b, channels, height, width]; ``rows`` are its b files, in the same order."""

    tensor: torch.Tensor
    rows: tuple[Row, ...]


class ImageReader:
    """Reads the pictures of a source in batches; memory grows with their number by a name each at most.

    Iterating yields batches in the order of the source. Afterwards ``rejected`` says of every other entry why it
    was not judged: ``len(reader)`` is the number of rows judged, rejected and skipped together. Formats are told by
    content, not by name: PNG, JPEG, WEBP, GIF, BMP, TIFF and PPM. Of several frames the first is judged.

    Args:
        opening: gives the source, named entries; called after all other arguments are found to be sound.
        preprocessing: what the audited model does to a picture.
        batch_size: rows in every batch but the last.
        expect: the height and width the model takes, where ``preprocessing`` does not resize: pictures of
            any other size are rejected. Without it the first picture that can be judged sets the size.
        skip: names that are neither opened nor judged nor rejected.
        limits: how much is read at most.

    Raises:
        UsageError: a batch size below 1, ``expect`` against the size that ``preprocessing`` resizes to, or ``skip``
            where the first picture would set the size.
    """

    def __init__(
        self,
        opening: Callable[[], Source],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        expect: tuple[int, int] | None,
        skip: Set[str],
        limits: Limits,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise UsageError(f"batch_size must be a whole number of at least 1, found {batch_size!r}")
        if expect is not None and (len(expect) != 2 or preprocessing.size not in (None, tuple(expect))):
            raise UsageError(
                f"expect must be a height and a width that agree with the size in preprocessing, "
                f"{preprocessing.size}; found {expect!r}"
            )
        if skip and expect is None and preprocessing.size is None:
            raise UsageError("with skip, expect must be given: otherwise what is skipped could change the size judged")
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._expect = None if expect is None else tuple(expect)
        self._skip = skip
        self._limits = limits
        self._source = opening()
        self._rejected: list[Rejected] = []

    def __len__(self) -> int:
        """How many entries the submission has."""
        return len(self._source)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """What the latest pass over the files has rejected so far."""
        return tuple(self._rejected)

    def __iter__(self) -> Iterator[Batch]:
        self._rejected = []
        expect = self._expect
        tensors: list[torch.Tensor] = []
        rows: list[Row] = []
        for entry in self._source:
            if entry.name in self._skip:
                continue
            try:
                row, tensor = self._judged(entry)
                size = (tensor.shape[1], tensor.shape[2])
                expect = expect or size
                if size != expect:
                    wanted = shown_size(*expect)
                    raise InputError(f"{shown_size(*size)} pixels, but the model takes {wanted} (height x width)")
            except InputError as problem:
                self._rejected.append(Rejected(entry.name, str(problem), entry.stamp))
                continue
            tensors.append(tensor)
            rows.append(row)
            if len(rows) == self._batch_size:
                yield _packed(tensors, rows)
        if rows:
            yield _packed(tensors, rows)

    def _judged(self, entry: Entry) -> tuple[Row, torch.Tensor]:
        content = entry.read(self._limits.max_bytes)
        picture = self._decoded(content)
        notes = "; ".join((*([entry.note] if entry.note else []), *picture.notes))
        row = Row(entry.name, hashlib.sha256(content).hexdigest(), picture.properties, notes, entry.stamp)
        return row, picture.tensor

    def _decoded(self, content: bytes) -> Picture:
        try:
            return decode(content, self._preprocessing, self._limits.max_pixels, self._limits.min_side)
        except InputError:
            kind = sniff(content)
            if not kind:
                raise
            raise InputError(f"a {kind} file inside the submission, which is not opened; submit it by itself") from None


def _packed(tensors: list[torch.Tensor], rows: list[Row]) -> Batch:
    # Emptied here, so that nothing keeps the batch alive while the caller works on it.
    batch = Batch(torch.stack(tensors), tuple(rows))
    tensors.clear()
    rows.clear()
    return batch
