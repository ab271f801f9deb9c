import io
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from reader_pictures import encoded, files_below, make_tar, make_zip, picture, png

from amint.errors import InputError, UsageError
from amint.readers import Limits
from amint.readers.thumbnails import thumbnails


def opened(content):
    image = Image.open(io.BytesIO(content), formats=["PNG"])
    image.load()
    return image


def make_folder(path, members):
    for name, content in members:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def make_manifest(path, members):
    make_folder(path.parent, members)
    path.write_text("path\n" + "\n".join(name for name, _ in members))
    return path


KINDS = {
    "folder": make_folder,
    "all.zip": make_zip,
    "all.tar": make_tar,
    "all.tar.gz": lambda path, members: make_tar(path, members, "w:gz"),
    "all.csv": make_manifest,
}
MEMBERS = [(f"sub/{seed}.png", encoded(picture(seed=seed, height=48, width=96), "PNG")) for seed in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pictures_from_every_kind_of_submission(kind, tmp_path):
    path = KINDS[kind](tmp_path / kind, MEMBERS)
    before = files_below(tmp_path)
    found = thumbnails(path, ["sub/3.png", "sub/1.png", "sub/9.png"])
    assert set(found) == {"sub/1.png", "sub/3.png"}
    for seed in (1, 3):
        np.testing.assert_array_equal(opened(found[f"sub/{seed}.png"]), picture(seed=seed, height=48, width=96))
    assert files_below(tmp_path) == before


def test_rows_of_a_table(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"image": [content for _, content in MEMBERS]}), tmp_path / "all.parquet")
    found = thumbnails(tmp_path / "all.parquet", {"row 2", "row 4"})
    np.testing.assert_array_equal(opened(found["row 4"]), picture(seed=4, height=48, width=96))
    assert set(found) == {"row 2", "row 4"}


@pytest.mark.parametrize(
    "height, width, size",
    [
        (1000, 500, (96, 48)),
        (96, 96, (96, 96)),
        (97, 97, (96, 96)),
        (8, 8, (96, 96)),
        (28, 28, (84, 84)),
        (50, 10, (50, 10)),
        (4, 3000, (1, 96)),
    ],
)
def test_fits_into_the_side_in_its_own_proportions(height, width, size, tmp_path):
    picture(height=height, width=width).save(tmp_path / "one.png")
    found = opened(thumbnails(tmp_path, ["one.png"])["one.png"])
    assert (found.height, found.width) == size


def test_small_pictures_are_magnified_pixel_by_pixel(tmp_path):
    picture("L", 8, 8).save(tmp_path / "one.png")
    found = np.asarray(opened(thumbnails(tmp_path, ["one.png"], side=32)["one.png"]))
    expected = np.asarray(picture("L", 8, 8)).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    "mode, kind", [("CMYK", "JPEG"), ("P", "GIF"), ("RGBA", "WEBP"), ("1", "TIFF"), ("I;16", "PNG")]
)
def test_any_mode_becomes_plain_colour(mode, kind, tmp_path):
    image = Image.new("I;16", (20, 20), 40_000) if mode == "I;16" else picture(mode, 20, 20)
    image.save(tmp_path / "one", kind)
    assert opened(thumbnails(tmp_path, ["one"])["one"]).mode == "RGB"


def test_what_cannot_be_shown_is_left_out(tmp_path):
    hostile = {
        "empty.png": b"",
        "text.png": b"no picture",
        "cut.png": encoded(picture(height=300, width=300), "PNG")[:5000],
        "bomb.png": png(30_000, 30_000),
        "deep.png": png(20_000, 2_000, rows=zlib.compress(bytes(10**6))),
        "thin.png": encoded(picture(height=2), "PNG"),
        "good.png": encoded(picture(), "PNG"),
    }
    make_folder(tmp_path, hostile.items())
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    assert set(thumbnails(tmp_path, [*hostile, "link.png", "../x", ""])) == {"good.png"}
    assert thumbnails(tmp_path, ["good.png"], limits=Limits(max_bytes=10)) == {}


def test_the_pictures_hold_no_more_than_pixels(tmp_path):
    image = picture()
    image.info["comment"] = "secret"
    image.save(tmp_path / "one.jpg", exif=b"Exif\0\0secret", comment=b"secret")
    assert b"secret" not in thumbnails(tmp_path, ["one.jpg"])["one.jpg"]


def test_one_large_picture_in_memory_at_a_time(tmp_path):
    large = encoded(Image.new("L", (1500, 1500), 7), "PNG")
    make_zip(tmp_path / "all.zip", [(f"{i}.png", large) for i in range(8)])
    thumbnails(tmp_path / "all.zip", ["0.png"])
    peaks = []
    for n in (1, 8):
        tracemalloc.start()
        assert len(thumbnails(tmp_path / "all.zip", [f"{i}.png" for i in range(n)])) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000


def test_stops_when_everything_is_found(tmp_path):
    content = encoded(picture(), "PNG")
    path = make_tar(tmp_path / "all.tar", [(f"{i}.png", content) for i in range(3)])
    found = thumbnails(path, ["0.png"])
    path.write_bytes(path.read_bytes()[:-3000])
    assert thumbnails(path, ["0.png"]) == found


def test_refuses_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="cannot read nowhere"):
        thumbnails("nowhere", ["a"])
    with pytest.raises(InputError, match="holds no files"):
        thumbnails(tmp_path, ["a"])
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="no zip archive"):
        thumbnails(tmp_path / "a.zip", ["a"])
    for side in (15, 513, 96.0, True):
        with pytest.raises(UsageError, match="from 16 to 512"):
            thumbnails(tmp_path, ["a"], side=side)
    assert thumbnails("nowhere", []) == {}
