"""What a reader says of each file of a submission, and the names by which it says it."""

import math
from dataclasses import dataclass, field

__all__ = ["PROPERTY_NAMES", "Properties", "Rejected", "Row", "is_litter", "printable"]

_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"})

PROPERTY_NAMES = (
    *(f"format {name}" for name in _FORMATS),
    *(f"mode {name}" for name in _MODES),
    "log2 width",
    "log2 height",
    "log2 bytes",
    "quantisation",
)
"""What the numbers of ``Properties.as_numbers`` stand for, in their order."""


@dataclass(frozen=True, slots=True)
class Properties:
    """What a picture's file tells before anyone looks at the picture: material for a control that is blind to it.

    Attributes:
        format: the file format by Pillow's name, such as "JPEG".
        mode: the colour mode by Pillow's name, before any conversion.
        width, height: in pixels.
        bytes: the size of the file.
        quantisation: the mean over all entries of its JPEG quantisation tables, 1 at the finest, above 50 where
            the compression is rough; 0 for a file without such tables.
    """

    format: str
    mode: str
    width: int
    height: int
    bytes: int
    quantisation: float

    def as_numbers(self) -> tuple[float, ...]:
        """One number for each of ``PROPERTY_NAMES``: formats and modes as 0 or 1, sizes as logarithms."""
        return (
            *(float(self.format == name) for name in _FORMATS),
            *(float(self.mode == name) for name in _MODES),
            math.log2(self.width),
            math.log2(self.height),
            math.log2(self.bytes),
            self.quantisation,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One file that can be judged.

    Attributes:
        path: its name, unique within the submission: relative to it, with "/" between folders and every character
            that is not safe to print escaped.
        sha256: the lower-case hex digest of the file's bytes.
        properties: what its file tells without its content.
        note: in plain words what was lost or changed on the way to the model, "" where nothing was.
        stamp: as of its entry (:class:`amint.readers.sources.Entry`), taken before it was read. It does not
            count when rows are compared: a file in a folder and in an archive gives equal ones.
    """

    path: str
    sha256: str
    properties: Properties
    note: str = ""
    stamp: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One file or folder that cannot be judged: ``path`` and ``stamp`` as in ``Row``, and the reason in plain words."""

    path: str
    reason: str
    stamp: str = field(default="", compare=False)


def printable(text: str) -> str:
    r"""``text`` with backslashes and all that is not safe to print escaped; distinct names stay distinct.

    >>> print(printable("caf\u00e9 \n.png"))
    café \n.png
    """
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def is_litter(name: str) -> bool:
    """Whether one part of a path is a hidden file or the litter of an operating system; ".." is neither."""
    return (name.startswith(".") and name.strip(".") != "") or name.casefold() in _LITTER
