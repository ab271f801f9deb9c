"""The bytes of one submitted picture -> the tensor of the model, with Pillow kept on a short lead."""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageFile

from amint.errors import InputError
from amint.preprocessing import Preprocessing
from amint.readers.rows import Properties

__all__ = ["FORMATS", "Picture", "decode", "shown_size"]

# Pillow reads far more, partly by starting other programs (EPS); a stranger's file gets only these decoders.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Counting the frames of a GIF walks the whole file, and a hostile one can hold millions.
_MAX_COUNTED_GIF = 16 * 2**20
_PILLOW = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """``tensor`` is float32 [channels, height, width], ``notes`` say in plain words what was lost on the way."""

    tensor: torch.Tensor
    notes: tuple[str, ...]
    properties: Properties


def decode(content: bytes, preprocessing: Preprocessing, max_pixels: int, min_side: int) -> Picture:
    """The picture in a file's bytes.

    Pillow's settings and Python's warning filters are the same afterwards as before; no warning escapes.

    Raises:
        InputError: the reason, in plain words, why these bytes cannot be judged.
    """
    with _tamed_pillow():
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        # Damaged files make Pillow raise nearly anything: struct, zlib, key, index and type errors.
        except Exception:
            raise InputError(
                f"not an image this reader knows ({', '.join(FORMATS)}), or one with a damaged header"
            ) from None
        with image:
            _check_size(image, max_pixels, min_side)
            try:
                narrowed = ("16-bit reduced to 8",) if image.mode == "RGB" and _is_16_bit(image) else ()
                with _silent_libtiff(image):
                    image.load()
                # Before frames are counted, which can leave another one, in another mode, in its place.
                properties = _properties(image, len(content))
                tensor, notes = preprocessing.apply(image)
                return Picture(tensor, (*_frames(image, len(content)), *narrowed, *notes), properties)
            except InputError:
                raise
            except MemoryError:
                raise InputError("too little memory to decode it") from None
            except Exception:
                raise InputError(f"damaged or cut short: its {image.format} data cannot be decoded") from None


def shown_size(height: int, width: int) -> str:
    """A size in pixels the way messages show it, height first."""
    return f"{height:,} x {width:,}"


def _check_size(image: Image.Image, max_pixels: int, min_side: int) -> None:
    width, height = image.size
    if min(width, height) < min_side:
        raise InputError(f"{shown_size(height, width)} pixels: a side shorter than {min_side}")
    if width * height > max_pixels:
        raise InputError(f"{shown_size(height, width)} pixels, more than the limit of {max_pixels:,}")


@contextmanager
def _tamed_pillow() -> Iterator[None]:
    # Pillow's switches, like Python's warning filters, belong to the process: they are set for one picture,
    # under a lock, so that two readers in two threads cannot restore each other's values. The size limit is
    # the reader's own, and a truncated file is never judged, whatever the program around has switched on.
    log = logging.getLogger("PIL.TiffImagePlugin")
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, log.disabled
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, log.disabled = None, False, True
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, log.disabled = before


@contextmanager
def _silent_libtiff(image: ImageFile.ImageFile) -> Iterator[None]:
    # libtiff writes its complaints straight to the error stream of the process, past Python: one line for every
    # line of a picture, so a small hostile file could bury a terminal or fill a log. Only while it decodes.
    if all(tile.codec_name != "libtiff" for tile in image.tile):
        yield
        return
    with ExitStack() as undo:
        # A process without an error stream has nothing to silence.
        with suppress(OSError):
            stream = os.dup(2)
            undo.callback(os.close, stream)
            undo.callback(os.dup2, stream, 2)
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield


def _properties(image: ImageFile.ImageFile, file_bytes: int) -> Properties:
    tables: dict[int, list[int]] = getattr(image, "quantization", {})
    entries = [entry for table in tables.values() for entry in table]
    mean = sum(entries) / len(entries) if entries else 0.0
    return Properties(image.format or "", image.mode, image.width, image.height, file_bytes, mean)


def _is_16_bit(image: ImageFile.ImageFile) -> bool:
    return any(";16" in str(tile.args) for tile in image.tile)


def _frames(image: ImageFile.ImageFile, file_bytes: int) -> tuple[str, ...]:
    try:
        if not getattr(image, "is_animated", False):
            return ()
        if image.format not in ("PNG", "WEBP", "GIF"):
            return ("several pictures in one file: the first judged",)
        if image.format == "GIF" and file_bytes > _MAX_COUNTED_GIF:
            return ("animated: first frame judged",)
        return (f"animated: first of {getattr(image, 'n_frames', 1)} frames judged",)
    # The first frame is sound; damage in later ones does not concern it.
    except Exception:
        return ("animated: first frame judged, a later one is damaged",)
