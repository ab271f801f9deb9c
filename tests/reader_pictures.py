"""Pictures and shortcuts that the tests of the image reader share."""

import io
import struct
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import torch
from PIL import Image

from amint.preprocessing import Preprocessing
from amint.readers import Limits, open_submission

SMALL = Preprocessing(size=(8, 8))


def picture(mode="RGB", height=16, width=16, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, depth=8, colour=2, rows=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def judge(path, preprocessing=SMALL, expect=None, skip=frozenset(), batch_size=64, **limits):
    """Notes by path, reasons by path, the whole tensor."""
    reader = open_submission(
        path, preprocessing, expect=expect, skip=skip, batch_size=batch_size, limits=Limits(**limits)
    )
    batches = list(reader)
    notes = {row.path: row.note for batch in batches for row in batch.rows}
    reasons = {row.path: row.reason for row in reader.rejected}
    assert sum(len(batch.rows) for batch in batches) + len(reader.rejected) + len(skip) == len(reader)
    assert len(notes) + len(reasons) + len(skip) == len(reader), "names are unique"
    assert all(name.isprintable() for name in (*notes, *reasons))
    return notes, reasons, torch.cat([batch.tensor for batch in batches]) if batches else None


def reason_for(tmp_path, content, **options):
    """The reason why a file of these bytes is rejected, while the good one beside it is judged."""
    picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(content)
    notes, reasons, _ = judge(tmp_path, **options)
    assert notes == {"good.png": ""}
    return reasons["bad.png"]


def note_for(tmp_path, content, **options):
    (tmp_path / "picture").write_bytes(content)
    notes, reasons, tensor = judge(tmp_path, **options)
    assert reasons == {}
    return notes["picture"], tensor[0]


def content_of(seed=0):
    return encoded(picture(seed=seed), "PNG")


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    """``members``: pairs of a name, or a ZipInfo, and bytes."""
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_tar(path, members, mode="w", **options):
    """``members``: pairs of a name, or a TarInfo, and bytes."""
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if info.name.endswith("/") else info.type
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content.ljust(info.size, b"\0")))
    return path


def files_below(folder):
    """What lies in a folder, to see that nothing was written there."""
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))
