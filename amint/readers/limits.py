"""How much of a stranger's submission is read at most."""

from dataclasses import dataclass, fields

from amint.errors import UsageError

__all__ = ["Limits"]

# Unpacking this much does no harm, and a few white pictures, well packed, exceed any ratio.
_HARMLESS = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What exceeds one of the first three is rejected as one file; the others concern the submission as a whole.

    Args:
        max_pixels: pixels of a picture, told by its header before it is decoded.
        max_bytes: bytes of a file, unpacked.
        min_side: pixels that the shorter side of a picture has at least.
        members: entries of a folder, archive, manifest or table.
        total_bytes: bytes of all members of an archive or table together, unpacked.
        ratio: how many times its own size an archive or table may unpack to, where that is more than 64 MiB.
            Pictures hardly shrink.
        manifest_bytes: bytes of a manifest.

    Raises:
        UsageError: a limit that is not a whole number of at least 1.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 256 * 2**20
    min_side: int = 4
    members: int = 1_000_000
    total_bytes: int = 256 * 2**30
    ratio: int = 200
    manifest_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise UsageError(f"{field.name} must be a whole number of at least 1, found {value!r}")

    def unpacked(self, packed: int) -> int:
        """How many bytes a file of ``packed`` bytes may unpack to."""
        return min(self.total_bytes, max(_HARMLESS, self.ratio * packed))
