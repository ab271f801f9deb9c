import gc
import hashlib
import math
import os
import tracemalloc
import weakref
from pathlib import Path

import pytest
import torch
from reader_pictures import SMALL, encoded, judge, picture
from torchvision.datasets.folder import default_loader

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing
from amint.readers import PROPERTY_NAMES, Batch, Limits, Properties, Rejected, Row, open_submission
from amint.readers.files import Files


def test_batches_hold_what_the_training_loader_gives(tmp_path):
    for index in range(7):
        folder = tmp_path / f"class {index % 2}"
        folder.mkdir(exist_ok=True)
        picture(seed=index).save(folder / f"{index}.png")
    reader = open_submission(tmp_path, SMALL, batch_size=3)
    assert len(reader) == 7
    batches = list(reader)
    assert [batch.tensor.shape for batch in batches] == [(3, 3, 8, 8), (3, 3, 8, 8), (1, 3, 8, 8)]
    rows = [row for batch in batches for row in batch.rows]
    assert [row.path for row in rows] == [f"class {i % 2}/{i}.png" for i in (0, 2, 4, 6, 1, 3, 5)]
    for row, tensor in zip(rows, torch.cat([batch.tensor for batch in batches]), strict=True):
        path = tmp_path / row.path
        assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert torch.equal(tensor, SMALL(default_loader(str(path))))
    assert reader.rejected == ()
    again = list(reader)
    assert all(torch.equal(a.tensor, b.tensor) and a.rows == b.rows for a, b in zip(batches, again, strict=True))


def test_a_single_file(tmp_path):
    picture().save(tmp_path / "one.png")
    reader = open_submission(str(tmp_path / "one.png"), SMALL)
    (batch,) = reader
    assert isinstance(batch, Batch)
    assert isinstance(batch.rows[0], Row)
    assert [row.path for row in batch.rows] == ["one.png"]


def test_missing_and_empty(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_submission(tmp_path / "missing", SMALL)
    with pytest.raises(InputError, match=r"the folder .* holds no files"):
        open_submission(tmp_path, SMALL)


def test_a_folder_without_a_single_picture(tmp_path):
    (tmp_path / "README.txt").write_text("hello")
    reader = open_submission(tmp_path, SMALL)
    assert list(reader) == []
    assert [type(row) for row in reader.rejected] == [Rejected]


def test_a_model_that_takes_one_size(tmp_path):
    for index, side in enumerate((16, 32, 16)):
        picture(height=side, seed=index).save(tmp_path / f"{index}.png")
    expected = {"1.png": "32 x 16 pixels, but the model takes 16 x 16 (height x width)"}
    assert judge(tmp_path, Preprocessing(), expect=(16, 16))[1] == expected
    assert judge(tmp_path, Preprocessing())[1] == expected, "the first picture sets the size"
    assert set(judge(tmp_path, Preprocessing(), expect=(32, 16))[1]) == {"0.png", "2.png"}
    assert judge(tmp_path, SMALL, expect=(8, 8))[1] == {}
    for expect in ((16, 16), (8,)):
        with pytest.raises(UsageError, match="expect must be"):
            open_submission(tmp_path, SMALL, expect=expect)


def test_names(tmp_path):
    names = [
        "a space.png",
        'it\'s "q".png',
        "画像.png",
        "line\nbreak.png",
        "\udcff\udcfe.png",
        "\x1b[31m.png",
    ]
    for name in names:
        picture().save(tmp_path / "x", "PNG")
        (tmp_path / "x").rename(tmp_path / name)
    notes, reasons, _ = judge(tmp_path)
    assert reasons == {}
    assert set(notes) == {
        "a space.png",
        'it\'s "q".png',
        "画像.png",
        r"line\nbreak.png",
        r"\udcff\udcfe.png",
        r"\x1b[31m.png",
    }
    assert all(name.isprintable() and name.encode() for name in notes)


def test_hostile_entries_beside_a_good_picture(tmp_path, monkeypatch):
    folder = tmp_path / "submitted"
    folder.mkdir()
    picture().save(folder / "good.png")
    picture().save(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "again").symlink_to(".")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "README.txt").write_text("hello")
    (folder / ".DS_Store").write_bytes(b"litter")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "closed.png").write_bytes(b"content")
    real_open = os.open

    def refuse(path, *rest):
        if Path(path).name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    notes, reasons, _ = judge(folder)
    assert notes == {"good.png": ""}
    assert reasons["README.txt"].startswith("not an image this reader knows")
    del reasons["README.txt"]
    assert reasons == {
        "again": "a link to a folder, which is not followed",
        "closed.png": "cannot be read: permission denied",
        "loop.png": "a link that leads in a circle",
        "out.png": "a link that leaves the submitted folder",
        "pipe.png": "not a regular file but a pipe, a socket, a device or a folder",
    }


@pytest.mark.parametrize("name", ["max_pixels", "max_bytes", "min_side", "members", "total_bytes", "ratio"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_limits_are_checked(name, value):
    with pytest.raises(UsageError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_arguments_are_checked_before_anything_is_read(tmp_path, value):
    with pytest.raises(UsageError, match="batch_size"):
        open_submission(tmp_path, SMALL, batch_size=value)
    with pytest.raises(UsageError, match="skip"):
        open_submission(tmp_path, Preprocessing(), skip={"a.png"})


def test_no_more_than_one_batch_is_kept(tmp_path):
    for index in range(12):
        picture(seed=index).save(tmp_path / f"{index}.png")
    alive = []
    reading = iter(open_submission(tmp_path, SMALL, batch_size=3))
    for _ in range(4):
        alive.append(weakref.ref(next(reading).tensor))
        gc.collect()
        assert [reference() for reference in alive] == [None] * len(alive)


def test_properties(tmp_path):
    contents = {
        "rough": encoded(picture("L", 24, 40), "JPEG", quality=10),
        "fine": encoded(picture("L", 24, 40), "JPEG", quality=100),
        "indexed": encoded(picture("P", 24, 40), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (batch,) = open_submission(tmp_path, SMALL)
    found = {row.path: row.properties for row in batch.rows}
    assert found["indexed"] == Properties("PNG", "P", 40, 24, len(contents["indexed"]), 0.0)
    assert found["fine"] == Properties("JPEG", "L", 40, 24, len(contents["fine"]), 1.0)
    assert found["rough"].quantisation > 50
    for row in found.values():
        numbers = dict(zip(PROPERTY_NAMES, row.as_numbers(), strict=True))
        assert numbers[f"format {row.format}"] == numbers[f"mode {row.mode}"] == 1
        assert sum(value for name, value in numbers.items() if name.startswith(("format ", "mode "))) == 2
        assert 2 ** numbers["log2 width"] == pytest.approx(40)
        assert all(type(value) is float and math.isfinite(value) for value in numbers.values())


def test_what_is_skipped_is_not_opened(tmp_path, monkeypatch):
    for index in range(6):
        picture(seed=index).save(tmp_path / f"{index}.png")
    opened = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(Path(path).name) or real_open(path, *rest))
    reader = open_submission(tmp_path, SMALL, batch_size=2, skip={"0.png", "3.png", "elsewhere.png"})
    assert [[row.path for row in batch.rows] for batch in reader] == [["1.png", "2.png"], ["4.png", "5.png"]]
    assert len(reader) == 6
    assert opened == ["1.png", "2.png", "4.png", "5.png"]


def test_more_entries_than_the_limit(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name)
    assert len(judge(tmp_path, members=3)[0]) == 3
    with pytest.raises(InputError, match="more than 2 entries"):
        judge(tmp_path, members=2)


def test_one_entry_takes_little_memory(tmp_path):
    paths = [f"class {i % 1000:04}/photograph {i:06}.jpg".encode() for i in range(100_000)]
    tracemalloc.start()
    files = Files(str(tmp_path), [bytes(bytearray(path)) for path in paths], {})
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / len(files) < 100
    assert files[99_999].location == str(tmp_path / "class 0999/photograph 099999.jpg")
