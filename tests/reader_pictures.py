"""Pictures and shortcuts that the tests of the image reader share."""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from amint.preprocessing import Preprocessing
from amint.readers import ImageFolderReader

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


def judge(path, preprocessing=SMALL, **options):
    """Notes by path, reasons by path, the whole tensor."""
    reader = ImageFolderReader(path, preprocessing, **options)
    batches = list(reader)
    notes = {row.path: row.note for batch in batches for row in batch.rows}
    reasons = {row.path: row.reason for row in reader.rejected}
    assert len(notes) + len(reasons) == len(reader)
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
