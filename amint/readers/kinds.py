"""What kind of submission a file is, told by its first bytes and, where these say nothing, by its name."""

import os
import stat
import tarfile
from pathlib import Path

from amint.readers.files import open_regular

__all__ = ["BLOCK", "kind_of", "sniff", "tar_header"]

BLOCK = 512
"""Bytes of a block of a tar archive, and enough of any file to tell its kind."""

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PK\x07\x08": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "parquet",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_SUFFIXES = {".zip": "zip", ".tar": "tar", ".csv": "manifest", ".tsv": "manifest", ".parquet": "parquet"}
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")


def kind_of(path: str | os.PathLike[str]) -> str:
    """ "folder", "manifest", a kind of ``sniff``, or "" for a single file that may be a picture.

    Raises:
        OSError, ValueError: there is nothing at ``path``, or it cannot be read.
    """
    top = os.path.realpath(path, strict=True)
    mode = os.lstat(top).st_mode
    if stat.S_ISDIR(mode):
        return "folder"
    # Reading from a pipe would wait for ever.
    if not stat.S_ISREG(mode):
        return ""
    with open_regular(top) as file:
        head = file.read(BLOCK)
    by_name = "" if head.startswith(_IMAGES) else _SUFFIXES.get(Path(top).suffix.lower(), "")
    return sniff(head) or by_name


def sniff(head: bytes) -> str:
    """The kind of archive or table that begins with these bytes; "" where it is none that is known."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return "tar" if len(head) >= BLOCK and tar_header(head[:BLOCK]) is not None else ""


def tar_header(block: bytes) -> tarfile.TarInfo | None:
    """What a block of a tar archive says of the member behind it; None if its checksum does not fit."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
