"""Small pictures of a few submitted files, for a report, read under the same limits as the files were judged."""

import io
import os
from collections.abc import Collection
from contextlib import suppress

import torch
from PIL import Image

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing
from amint.readers.decoding import decode
from amint.readers.files import why
from amint.readers.kinds import kind_of
from amint.readers.limits import Limits
from amint.readers.opening import source_of
from amint.readers.rows import printable

__all__ = ["thumbnails"]

_DEFAULT = Limits()
_SIDES = 16, 512


def thumbnails(
    path: str | os.PathLike[str], names: Collection[str], side: int = 96, *, limits: Limits = _DEFAULT
) -> dict[str, bytes]:
    """PNG files of some pictures of a submission, in their own proportions; one picture in memory at a time.

    Rotation noted in a file and its colour profile are ignored, as they are when it is judged, and of several frames
    the first is shown. A picture less than half as large is magnified by a whole number, so that its pixels show.

    Args:
        path: a folder, archive, manifest, table or single file, as for :func:`amint.readers.open_submission`.
        names: the files wanted, as in ``Row.path``.
        side: pixels of the longer side at most.
        limits: how much is read at most.

    Returns:
        Name -> bytes of a PNG file. What is not there, or cannot be read or decoded, is left out.

    Raises:
        UsageError: a side outside 16..512, or a Parquet file without pyarrow installed.
        InputError: nothing can be read at ``path``, or more than ``limits`` allow.
    """
    if type(side) is not int or not _SIDES[0] <= side <= _SIDES[1]:
        raise UsageError(f"side must be a whole number of pixels from {_SIDES[0]} to {_SIDES[1]}, found {side!r}")
    wanted, found = set(names), dict[str, bytes]()
    if not wanted:
        return found
    try:
        kind = kind_of(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {printable(os.fspath(path))}: {why(error)}") from None
    for entry in source_of(path, kind, limits):
        if entry.name not in wanted:
            continue
        wanted.remove(entry.name)
        with suppress(InputError):
            found[entry.name] = _thumbnail(entry.read(limits.max_bytes), side, limits)
        if not wanted:
            break
    return found


class _Fitted(Preprocessing):
    """``size`` is a box that each picture is made to fit into, in its own proportions."""

    __slots__ = ()

    def apply(self, image: Image.Image) -> tuple[torch.Tensor, tuple[str, ...]]:
        box, longest = min(self.size or _SIDES), max(image.size)
        scale = max(1, box // longest) if longest <= box else box / longest
        size = max(1, round(scale * image.height)), max(1, round(scale * image.width))
        return Preprocessing(size, interpolation="nearest" if scale >= 1 else "box").apply(image)


def _thumbnail(content: bytes, side: int, limits: Limits) -> bytes:
    picture = decode(content, _Fitted((side, side)), limits.max_pixels, limits.min_side)
    pixels = picture.tensor.mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "PNG")
    return stream.getvalue()
