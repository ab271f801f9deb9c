"""Images in an MXNet RecordIO pair: ``train.rec`` holds the records, ``train.idx`` where each of them begins.

The format (dmlc-core, ``recordio.h``; MXNet, ``recordio.py``), all numbers little-endian::

    train.idx    text, a line a record: KEY <tab> POSITION
    train.rec    records one after the other; a record is one part, or several
    part         uint32 magic 0xced7230a | uint32 flag << 29 | length | payload [length] | zeros up to 4 bytes
                 flag 0: a whole record; 1, 2, 3: its first, a middle, its last part. A record is cut where its
                 payload holds the magic at a multiple of 4, and the magic is left out: joining puts it back
    record       uint32 flag | float32 label | uint64 id | uint64 id2 | flag x float32 labels | encoded image
                 with flag > 0 the labels that follow stand in for the one in the header

So the magic at a multiple of 4 begins a part and nothing else, and a position that is wrong is noticed. In the face
datasets of InsightFace record 0 holds no image but two labels: images are the records 1 to ``labels[0] - 1``, and a
record for each person follows them. Where record 0 has no labels of its own, every record is an image.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amint.datasets.decoding import decoded
from amint.errors import InputError

__all__ = ["Records", "record_io"]

_MAGIC = struct.pack("<I", 0xCED7230A)
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
# Up to here a float32 holds every whole number.
_EXACT = 2**24


@dataclass(frozen=True, eq=False)
class Records(Dataset[tuple[Tensor, int]]):
    """The images of a RecordIO pair, read and decoded when asked for, from any number of processes.

    Attributes:
        path: the ``.rec`` file.
        positions: int64 ``[n]``, where the record of each image begins, in bytes.
        shape: of every image, ``(3, h, w)``.
    """

    path: Path
    positions: np.ndarray[Any, np.dtype[np.int64]]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """uint8 ``[3, h, w]`` and the label.

        Raises:
            InputError: the record is damaged; the message has its file and position.
        """
        # An open file would share its place in the file with other processes, and could not be pickled.
        position = int(self.positions[index])
        with _opened(self.path) as file:
            content, label = _item(file, position)
        image = _image(content, self.path, position)
        if image.shape != self.shape:
            raise InputError(
                f"{self.path}, record at byte {position}: expected an image of the first one's shape "
                f"{self.shape}, found {tuple(image.shape)}; the file is damaged"
            )
        return image, label

    @cached_property
    def labels(self) -> Tensor:
        """int64 ``[n]``; the first use reads the whole file, without decoding images.

        Raises:
            InputError: a record is damaged.
        """
        with _opened(self.path) as file:
            return torch.tensor([_item(file, position)[1] for position in self.positions.tolist()])


def record_io(path: str | Path) -> Records:
    """The images of a RecordIO pair, such as CASIA-WebFace aligned to 112 by 112 (``faces_webface_112x112``).

    Args:
        path: the ``.rec`` file, with its ``.idx`` beside it, or the folder of ``train.rec`` and ``train.idx``.

    Returns:
        Items are uint8 ``[3, h, w]`` and the label, in the order of the keys. See :func:`amint.datasets.in_memory`.

    Raises:
        InputError: a file is missing, cut short or damaged, or they do not belong together; damage inside single
            records is found when they are read.
    """
    path = Path(path) / "train.rec" if Path(path).is_dir() else Path(path)
    index = path.with_suffix(".idx")
    positions = _positions(index)
    with _opened(path) as file:
        last = max(positions.values())
        _record(file, last)
        end, size = file.tell(), path.stat().st_size
        if end != size:
            raise InputError(
                f"{path}: the last record named by {index.name}, at byte {last}, ends at byte {end}, but the file has "
                f"{size} bytes; the two do not belong together, or {index.name} is cut short"
            )
        promised, (stop, *_), _ = _split(file, positions.get(0, last))
        if 0 in positions and promised:
            if not 2 <= stop <= _EXACT:
                raise InputError(f"{path}: record 0 says that images end before key {stop}; expected 2 or more")
            keys: Sequence[int] = range(1, int(stop))
        else:
            keys = sorted(positions)
        missing = next((key for key in keys if key not in positions), None)
        if missing is not None:
            raise InputError(f"{index}: key {missing} is missing; record 0 promises images up to key {keys[-1]}")
        found = np.array([positions[key] for key in keys], dtype=np.int64)
        first = _image(_item(file, int(found[0]))[0], path, int(found[0]))
        return Records(path, found, tuple(first.shape))


def _positions(index: Path) -> dict[int, int]:
    """Key -> position in bytes."""
    positions: dict[int, int] = {}
    try:
        lines = index.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {index} ({error}); it belongs beside the .rec file") from error
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"(\d{1,15})\t(\d{1,15})", line)
        if found is None or int(found[1]) in positions or int(found[2]) % 4:
            raise InputError(
                f"{index}, line {number}: expected a new key, a tab and a position in bytes that is a multiple of 4, "
                f"found {line[:80]!r}"
            )
        positions[int(found[1])] = int(found[2])
    if not positions or len(set(positions.values())) != len(positions):
        raise InputError(f"{index} is damaged: expected a position of its own for each of {len(positions)} records")
    return positions


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _record(file: IO[bytes], position: int) -> bytes:
    """The record that begins at a position, its parts joined."""
    parts: list[bytes] = []
    flag = None
    while flag not in (0, 3):
        place = position if flag is None else file.tell()
        file.seek(place)
        head = file.read(_PART.size)
        if len(head) < _PART.size or head[:4] != _MAGIC:
            raise InputError(f"{file.name}, byte {place}: expected a record's magic number, found {head[:4]!r}")
        word = _PART.unpack(head)[1]
        expected = (0, 1) if flag is None else (2, 3)
        flag, length = word >> 29, word & (1 << 29) - 1
        padded = length + -length % 4
        payload = file.read(padded)
        if flag not in expected or len(payload) < padded:
            raise InputError(
                f"{file.name}, byte {place}: expected a part with flag {expected[0]} or {expected[1]} and {padded} "
                f"bytes, found flag {flag} and {len(payload)} bytes; the file is damaged or cut short"
            )
        parts.append(payload[:length])
    return _MAGIC.join(parts)


def _split(file: IO[bytes], position: int) -> tuple[bool, tuple[float, ...], bytes]:
    """Whether a record's labels follow its header, the labels, and what comes after them."""
    record = _record(file, position)
    if len(record) < _HEADER.size or len(record) < _HEADER.size + 4 * _HEADER.unpack_from(record)[0]:
        raise InputError(f"{file.name}, record at byte {position}: {len(record)} bytes are too few for its labels")
    count, label, *_ = _HEADER.unpack_from(record)
    labels = struct.unpack_from(f"<{count}f", record, _HEADER.size) if count else (label,)
    return count > 0, labels, record[_HEADER.size + 4 * count :]


def _item(file: IO[bytes], position: int) -> tuple[bytes, int]:
    """The encoded image in a record, and its label."""
    _, (label, *_), content = _split(file, position)
    if not (label.is_integer() and abs(label) <= _EXACT):
        raise InputError(f"{file.name}, record at byte {position}: expected a whole number as label, found {label}")
    return content, int(label)


def _image(content: bytes, path: Path, position: int) -> Tensor:
    return decoded(io.BytesIO(content), f"{path}, record at byte {position}")
