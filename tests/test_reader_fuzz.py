import os
import random

import numpy as np
import pytest
from PIL import Image
from reader_pictures import encoded, judge, picture

from amint.preprocessing import Preprocessing


def test_libtiff_cannot_flood_the_terminal(tmp_path, capfd):
    content = bytearray(encoded(Image.new("1", (64, 2000)), "TIFF", compression="group3"))
    content[8:-400] = random.Random(0).randbytes(len(content) - 408)
    (tmp_path / "noise.tif").write_bytes(content)
    judge(tmp_path)
    os.write(2, b"still there")
    assert capfd.readouterr() == ("", "still there")


def test_a_process_without_an_error_stream(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(9, "Bad file descriptor")

    (tmp_path / "a.tif").write_bytes(encoded(picture(), "TIFF", compression="tiff_lzw"))
    monkeypatch.setattr(os, "dup", refuse)
    assert judge(tmp_path)[0] == {"a.tif": ""}


def damaged(content, dice):
    if dice.random() < 0.4:
        return content[: dice.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 10, 40))):
        # Half of the damage goes to the header, where it does most.
        limit = min(64, len(changed)) if dice.random() < 0.5 else len(changed)
        changed[dice.randrange(limit)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def fuzz_seeds():
    rotated = Image.Exif()
    rotated[0x0112] = 6
    wide = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60)
    frames = {"save_all": True, "append_images": [picture(seed=1), picture(seed=2)]}
    palette = picture("P")
    return [
        encoded(picture(), "PNG"),
        encoded(palette, "PNG", transparency=b"\x00" * 50),
        encoded(wide, "PNG"),
        encoded(picture(), "PNG", **frames),
        encoded(picture(), "JPEG", exif=rotated),
        encoded(picture(), "JPEG", progressive=True),
        encoded(picture("CMYK"), "JPEG"),
        encoded(picture(), "MPO", **frames),
        encoded(palette, "GIF", transparency=1),
        encoded(picture(), "GIF", **frames),
        encoded(picture(), "TIFF", exif=rotated),
        encoded(picture(), "TIFF", compression="tiff_lzw"),
        encoded(picture(), "TIFF", compression="jpeg"),
        encoded(picture("1"), "TIFF", compression="group4"),
        encoded(wide, "TIFF", compression="tiff_adobe_deflate"),
        encoded(picture("YCbCr"), "TIFF"),
        encoded(picture("RGBA"), "WEBP"),
        encoded(picture(), "WEBP", lossless=True),
        encoded(picture(), "WEBP", **frames),
        encoded(picture(), "BMP"),
        encoded(picture(), "PPM"),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_damaged_files_become_rows_and_nothing_else(tmp_path, capfd, channels):
    dice = random.Random(channels)
    for number, content in enumerate(fuzz_seeds()):
        for variant in range(50):
            (tmp_path / f"{number:02}-{variant:02}").write_bytes(damaged(content, dice))
    preprocessing = Preprocessing(size=(8, 8), channels=channels)
    notes, reasons, tensor = judge(tmp_path, preprocessing, max_pixels=1_000_000)
    assert len(notes) + len(reasons) == 1050
    assert len(reasons) > 200
    assert tensor.isfinite().all()
    assert capfd.readouterr() == ("", "")
