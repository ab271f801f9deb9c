"""Files as batches that a model can be calibrated, evaluated or registered with."""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

from amint.preprocessing import Preprocessing
from amint.readers.opening import open_submission
from amint.readers.rows import Rejected

__all__ = ["ImageFiles"]


class ImageFiles:
    """The pictures of a folder, an archive, a manifest or a table, as batches; what cannot be read is left out.

    Iterating yields ``{"image": float32 [b, channels, height, width], "properties": float64 [b, p]}``. With the
    properties of its files (format, size, compression) a calibration set lets a verification notice that submitted
    files differ from it in these.

    Args:
        path: as in :func:`amint.readers.open_submission`.
        preprocessing: what the audited model does to a picture.
        batch_size: rows in every batch but the last.

    Attributes:
        rejected: what the latest pass left out, with the reasons.
    """

    def __init__(self, path: str | os.PathLike[str], preprocessing: Preprocessing, *, batch_size: int = 64) -> None:
        self._path, self._preprocessing, self._batch_size = path, preprocessing, batch_size
        self.rejected: tuple[Rejected, ...] = ()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Raises InputError if there is nothing to read."""
        reader = open_submission(self._path, self._preprocessing, batch_size=self._batch_size)
        for batch in reader:
            numbers = [row.properties.as_numbers() for row in batch.rows]
            yield {"image": batch.tensor, "properties": torch.tensor(numbers, dtype=torch.float64)}
        self.rejected = reader.rejected
