import gc
import hashlib
import os
import weakref
from pathlib import Path

import pytest
import torch
from reader_pictures import SMALL, judge, picture
from torchvision.datasets.folder import default_loader

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing
from amint.readers import Batch, ImageFolderReader, Rejected, Row


def test_batches_hold_what_the_training_loader_gives(tmp_path):
    for index in range(7):
        folder = tmp_path / f"class {index % 2}"
        folder.mkdir(exist_ok=True)
        picture(seed=index).save(folder / f"{index}.png")
    reader = ImageFolderReader(tmp_path, SMALL, batch_size=3)
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
    reader = ImageFolderReader(str(tmp_path / "one.png"), SMALL)
    (batch,) = reader
    assert isinstance(batch, Batch)
    assert isinstance(batch.rows[0], Row)
    assert [row.path for row in batch.rows] == ["one.png"]


def test_missing_and_empty(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ImageFolderReader(tmp_path / "missing", SMALL)
    with pytest.raises(InputError, match=r"the folder .* holds no files"):
        ImageFolderReader(tmp_path, SMALL)


def test_a_folder_without_a_single_picture(tmp_path):
    (tmp_path / "README.txt").write_text("hello")
    reader = ImageFolderReader(tmp_path, SMALL)
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
            ImageFolderReader(tmp_path, SMALL, expect=expect)


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


@pytest.mark.parametrize("name", ["batch_size", "max_pixels", "max_bytes", "min_side"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_limits_are_checked(tmp_path, name, value):
    with pytest.raises(UsageError, match=name):
        ImageFolderReader(tmp_path, SMALL, **{name: value})


def test_no_more_than_one_batch_is_kept(tmp_path):
    for index in range(12):
        picture(seed=index).save(tmp_path / f"{index}.png")
    alive = []
    reading = iter(ImageFolderReader(tmp_path, SMALL, batch_size=3))
    for _ in range(4):
        alive.append(weakref.ref(next(reading).tensor))
        gc.collect()
        assert [reference() for reference in alive] == [None] * len(alive)
