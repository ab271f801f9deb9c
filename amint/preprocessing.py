"""From a picture to the tensor a model sees: the torchvision pipeline of its training, as plain numbers.

The numbers travel in the audit bundle, so that a later audit feeds the model exactly what training fed it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from amint.errors import InputError, UsageError

__all__ = ["Preprocessing"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_WIDE_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
_PLAIN_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
# Sizes come from bundles that anyone may edit: a bound keeps a wrong one from taking all memory.
_MAX_SIDE = 16_384
_MAX_FLOAT = torch.finfo(torch.float32).max
# Numbers are float32 at work, where dividing by 1e-60 is dividing by 0.
_MIN_STD = 1e-30


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to a picture before the model sees it.

    A call is bit for bit torchvision's ``Compose([convert, Resize(size), ToTensor(), Normalize(mean, std)])``
    on the picture, where ``convert`` is the ``convert("RGB")`` of its ``ImageFolder`` or ``convert("L")``; with
    ``shorter_side`` it is ``Resize(shorter_side), CenterCrop(size)`` in place of ``Resize(size)``.
    One thing differs: Pillow cuts grey values above 255 off, which makes 16-bit pictures white. Here such
    pictures keep their high byte, and float pictures from 0 to 1 are scaled to 0..255. EXIF rotation and
    colour profiles are ignored, as torchvision ignores them.

    Args:
        size: height and width in pixels to resize to; ``None`` leaves the size alone.
        channels: 1 (grey) or 3 (red, green, blue).
        mean: subtracted from values in [0, 1], one number for each channel or one for all.
        std: divided by afterwards, one positive number for each channel or one for all.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos" or "box".
        shorter_side: pixels to which the shorter side is resized, the other in proportion; of that the middle is cut
            out in ``size``. ``None`` resizes both sides to ``size``, whatever their proportion was.

    Raises:
        UsageError: a value that cannot work; the message names the field.
    """

    size: tuple[int, int] | None = None
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: str = "bilinear"
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))
        if type(self.channels) is not int or self.channels not in _MODE_OF_CHANNELS:
            raise UsageError(f"channels must be 1 (grey) or 3 (colour), found {self.channels!r}")
        object.__setattr__(self, "mean", _checked_numbers("mean", self.mean, self.channels))
        object.__setattr__(self, "std", _checked_numbers("std", self.std, self.channels))
        if min(self.std) < _MIN_STD:
            raise UsageError(f"std must be above 0 (at least {_MIN_STD:g}), found {list(self.std)}")
        if not isinstance(self.interpolation, str) or self.interpolation not in _FILTERS:
            near = difflib.get_close_matches(str(self.interpolation), _FILTERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"interpolation must be one of {list(_FILTERS)}, found {self.interpolation!r}{hint}")
        if self.shorter_side is not None:
            _check_shorter_side(self.shorter_side, self.size)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The picture as a float32 tensor [channels, height, width].

        Raises:
            UsageError: ``image`` is not a Pillow image.
            InputError: the picture has no pixels, or values or colours that cannot be brought to 8 bits.
        """
        return self.apply(image)[0]

    def apply(self, image: Image.Image) -> tuple[torch.Tensor, tuple[str, ...]]:
        """The tensor of a call, and notes in plain words on what the conversion lost or changed.

        Raises:
            UsageError: ``image`` is not a Pillow image.
            InputError: the picture has no pixels, or values or colours that cannot be brought to 8 bits.
        """
        pixels, notes = self._pixels(image)
        return self.scaled(pixels), notes

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """The first half of a call: the picture in its size and colours, uint8 [channels, height, width].

        Bytes take a quarter of the memory; :meth:`scaled` turns batches of them into what a call gives.

        Raises:
            UsageError: ``image`` is not a Pillow image.
            InputError: the picture has no pixels, or values or colours that cannot be brought to 8 bits.
        """
        return self._pixels(image)[0]

    def scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        """The second half of a call: uint8 [..., channels, height, width] to float32 of that shape, where it lies.

        Raises:
            UsageError: not bytes, or another number of channels.
        """
        if pixels.dtype != torch.uint8 or pixels.dim() < 3 or pixels.shape[-3] != self.channels:
            raise UsageError(
                f"expected uint8 [..., {self.channels}, height, width], got {pixels.dtype} {list(pixels.shape)}"
            )
        # The device is named because a default device set by the caller would not fit the picture's.
        mean = torch.tensor(self.mean, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _pixels(self, image: Image.Image) -> tuple[torch.Tensor, tuple[str, ...]]:
        if not isinstance(image, Image.Image):
            raise UsageError(f"image must be a Pillow image, found {type(image).__name__}")
        if 0 in image.size:
            raise InputError("a picture without pixels")
        converted, notes = _convert(image, _MODE_OF_CHANNELS[self.channels])
        if self.size is not None:
            converted = self._resized(converted, *self.size)
        pixels = torch.from_numpy(np.array(converted)).view(converted.height, converted.width, self.channels)
        return pixels.permute(2, 0, 1).contiguous(), notes

    def _resized(self, image: Image.Image, height: int, width: int) -> Image.Image:
        kind = _FILTERS[self.interpolation]
        if self.shorter_side is None:
            return image.resize((width, height), kind)
        shorter, longer = sorted(image.size)
        other = int(self.shorter_side * longer / shorter)
        if other > _MAX_SIDE:
            raise InputError(f"its sides differ too much: {image.width} x {image.height} pixels")
        sides = (self.shorter_side, other) if image.width <= image.height else (other, self.shorter_side)
        left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
        return image.resize(sides, kind).crop((left, top, left + width, top + height))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain numbers, strings and lists; ``from_json`` gives an equal object back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Rebuild from ``to_json``.

        Raises:
            UsageError: ``value`` is no mapping, lacks a field, or holds an unknown one or a bad value.
        """
        if not isinstance(value, Mapping):
            raise UsageError(f"preprocessing must be an object of named fields, found {type(value).__name__}")
        names = [field.name for field in fields(cls)]
        # What descriptions did not say at first.
        value = {"shorter_side": None, **value}
        unknown = sorted(str(key) for key in value if key not in names)
        if unknown:
            raise UsageError(f"preprocessing has unknown fields {unknown}; the known ones are {names}")
        missing = [name for name in names if name not in value]
        if missing:
            raise UsageError(f"preprocessing lacks the fields {missing}")
        return cls(**value)


def _checked_size(size: object) -> tuple[int, int]:
    expected = f"size must be a height and a width from 1 to {_MAX_SIDE} pixels, or None"
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise UsageError(f"{expected}; found {size!r}")
    if any(type(side) is not int or not 1 <= side <= _MAX_SIDE for side in size):
        raise UsageError(f"{expected}; found {size!r}")
    return size[0], size[1]


def _check_shorter_side(side: object, size: tuple[int, int] | None) -> None:
    if size is None:
        raise UsageError(f"shorter_side is of use with a size to be cut out; found shorter_side={side!r}, size=None")
    if type(side) is not int or not max(size) <= side <= _MAX_SIDE:
        raise UsageError(
            f"shorter_side must be a number of pixels from {max(size)}, the larger side of size, to {_MAX_SIDE}, or "
            f"None; found {side!r}"
        )


def _checked_numbers(name: str, values: object, channels: int) -> tuple[float, ...]:
    if not isinstance(values, (tuple, list)) or len(values) not in (1, channels):
        raise UsageError(f"{name} must be {channels} numbers, one for each channel, found {values!r}")
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise UsageError(f"{name} must hold numbers only, found {values!r}")
    if not all(abs(value) <= _MAX_FLOAT for value in values):
        raise UsageError(f"{name} must be finite, and within the range of float32, found {values!r}")
    numbers = tuple(float(value) for value in values)
    return numbers * channels if len(numbers) == 1 else numbers


def _convert(image: Image.Image, mode: str) -> tuple[Image.Image, tuple[str, ...]]:
    notes = []
    if _is_transparent(image):
        notes.append("transparency dropped")
    if "transparency" in image.info:
        # Pillow warns about it, and can fail on it, although no pixel of the result depends on it.
        image = image.copy()
        del image.info["transparency"]
    if image.mode in _WIDE_MODES:
        image, note = _narrow(image)
        notes += [note] if note else []
    elif image.mode not in _PLAIN_MODES:
        notes.append(f"{image.mode} converted")
    if image.mode == mode:
        return image, tuple(notes)
    try:
        # Pillow knows no direct way from LAB to grey.
        return (image.convert("RGB") if image.mode == "LAB" else image).convert(mode), tuple(notes)
    except ValueError:
        raise InputError(f"its colour mode {image.mode} cannot be converted to {mode}") from None


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("LA", "PA", "RGBA"):
        return image.getchannel("A").getextrema() != (255, 255)
    return image.has_transparency_data


def _narrow(image: Image.Image) -> tuple[Image.Image, str]:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65_535):
        raise InputError(f"its pixel values, from {low:g} to {high:g}, fit neither 8 nor 16 bits")
    if high > 255:
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8)), "16-bit reduced to 8"
    if image.mode == "F" and high <= 1:
        return Image.fromarray(np.rint(values * 255).astype(np.uint8)), "float 0..1 scaled to 8-bit"
    return image.convert("L"), "float reduced to 8-bit" if image.mode == "F" else ""
