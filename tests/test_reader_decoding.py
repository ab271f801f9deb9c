import io
import logging
import struct
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from reader_pictures import SMALL, encoded, judge, note_for, picture, png, reason_for

from amint.preprocessing import Preprocessing
from amint.readers import open_submission


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_known_format_under_any_name(tmp_path, kind):
    note, tensor = note_for(tmp_path, encoded(picture(), kind))
    assert note == ""
    assert tensor.shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "ICNS", "TGA", "PCX", "SGI", "DDS"])
def test_formats_off_the_list_are_not_opened(tmp_path, kind):
    assert reason_for(tmp_path, encoded(picture(), kind)).startswith("not an image this reader knows")


@pytest.mark.parametrize("content", [b"just text, no picture at all", b"\x00" * 100, b"\x89PNG\r\n\x1a\n", b"x"])
def test_what_is_no_image(tmp_path, content):
    assert reason_for(tmp_path, content).startswith("not an image this reader knows")


def test_an_empty_file(tmp_path):
    assert reason_for(tmp_path, b"") == "an empty file"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_truncated_file(tmp_path, kind):
    whole = encoded(picture(height=64, width=64), kind)
    reason = reason_for(tmp_path, whole[: len(whole) * 2 // 3])
    assert reason.startswith(("damaged or cut short", "not an image this reader knows"))


def test_truncation_is_found_whatever_the_program_around_has_switched_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(picture(height=64, width=64), "JPEG")
    assert "cut short: its JPEG data" in reason_for(tmp_path, whole[: len(whole) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_sizes_are_judged_by_the_header(tmp_path, monkeypatch):
    assert reason_for(tmp_path, encoded(picture(height=1, width=1), "PNG")).startswith("1 x 1 pixels: a side")
    assert reason_for(tmp_path, encoded(picture(height=3, width=9), "PNG")).startswith("3 x 9 pixels: a side")
    assert reason_for(tmp_path, png(30_000, 30_000)) == ("30,000 x 30,000 pixels, more than the limit of 50,000,000")
    assert "bytes, more than the limit" in reason_for(tmp_path, bytes(5000), max_bytes=4000)

    real_load = ImageFile.ImageFile.load

    def load(image):
        assert image.size != (200, 100), "decoded"
        return real_load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert "100 x 200 pixels, more" in reason_for(tmp_path, png(200, 100), max_pixels=10_000)


def test_max_pixels_may_exceed_the_limit_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert note_for(tmp_path, encoded(picture(), "PNG"))[0] == ""
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillow_and_warnings_are_left_as_they_were(tmp_path):
    log = logging.getLogger("PIL.TiffImagePlugin")
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:], log.disabled
    picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    for _ in open_submission(tmp_path, SMALL, batch_size=1):
        now = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:], log.disabled
        assert now == before, "while the caller works on a batch"
    assert (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        warnings.filters[:],
        log.disabled,
    ) == before


def test_readers_in_threads_do_not_disturb_each_other(tmp_path):
    for index in range(20):
        picture(seed=index).save(tmp_path / f"{index}.png")
    before = Image.MAX_IMAGE_PIXELS, warnings.filters[:]
    results = []
    threads = [threading.Thread(target=lambda: results.append(judge(tmp_path)[2])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(results) == 4
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters[:]) == before


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(tmp_path, kind):
    content = encoded(picture("CMYK"), kind)
    note, tensor = note_for(tmp_path, content)
    assert note == "CMYK converted"
    with Image.open(io.BytesIO(content)) as image:
        assert torch.equal(tensor, SMALL(image.convert("RGB")))


def test_16_bit(tmp_path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) << 8 | 77
    grey = Preprocessing(channels=1)
    for kind in ("PNG", "TIFF", "PPM"):
        note, tensor = note_for(tmp_path, encoded(Image.fromarray(values), kind), preprocessing=grey)
        assert note == "16-bit reduced to 8"
        assert (tensor * 255).round().flatten().tolist() == list(range(256))
    lines = b"".join(b"\0" + struct.pack(">12H", *[value << 8 | 77] * 12) for value in range(4))
    note, tensor = note_for(tmp_path, png(4, 4, depth=16, rows=lines), preprocessing=Preprocessing())
    assert note == "16-bit reduced to 8"
    assert (tensor[0, :, 0] * 255).round().tolist() == [0, 1, 2, 3]


def test_float_pixels_of_no_known_range(tmp_path):
    values = np.full((8, 8), -1.0, dtype=np.float32)
    assert "fit neither 8 nor 16 bits" in reason_for(tmp_path, encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations(tmp_path, kind):
    frames = [picture(seed=seed) for seed in range(12)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    note, tensor = note_for(tmp_path, content)
    assert note == "animated: first of 12 frames judged"
    with Image.open(io.BytesIO(content)) as image:
        assert torch.equal(tensor, SMALL(image.convert("RGB")))


def test_a_huge_animation_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("amint.readers.decoding._MAX_COUNTED_GIF", 100)
    content = encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)])
    assert note_for(tmp_path, content)[0] == "animated: first frame judged"


def test_an_animation_with_a_damaged_later_frame(tmp_path):
    content = encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=seed) for seed in (1, 2)])
    assert note_for(tmp_path, content[:-300])[0].startswith("animated: first")


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_several_pages(tmp_path, kind):
    content = encoded(picture(), kind, save_all=True, append_images=[picture(seed=1), picture(seed=2)])
    assert note_for(tmp_path, content)[0] == "several pictures in one file: the first judged"


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF")])
def test_transparency(tmp_path, mode, kind):
    image = picture(mode)
    image.putalpha(100)
    assert note_for(tmp_path, encoded(image, kind, lossless=True))[0] == "transparency dropped"


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_palettes(tmp_path, kind, channels):
    preprocessing = Preprocessing(channels=channels)
    mode = "L" if channels == 1 else "RGB"
    note, tensor = note_for(tmp_path, encoded(picture("P"), kind), preprocessing=preprocessing)
    assert note == ""
    assert torch.equal(tensor, preprocessing(picture("P").convert(mode)))
    clear = b"\x00\x80" * 100 if kind == "PNG" else picture("P").getpixel((0, 0))
    content = encoded(picture("P"), kind, transparency=clear)
    note, tensor = note_for(tmp_path, content, preprocessing=preprocessing)
    assert note == "transparency dropped"
    assert torch.equal(tensor, preprocessing(picture("P").convert(mode)))


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    def load(image):
        raise MemoryError

    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert judge(tmp_path)[1] == {"a.png": "too little memory to decode it"}
