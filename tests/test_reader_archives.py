"""What holds for zip and tar archives alike, and for each way of packing."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from reader_pictures import SMALL, content_of, encoded, files_below, judge, make_tar, make_zip, picture

from amint.errors import InputError
from amint.readers import Limits, images, open_submission

MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
KINDS = ["zip", *MODES]


def make(path, kind, members):
    return make_zip(path, members) if kind == "zip" else make_tar(path, members, MODES[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", ["pictures.{}", "no ending"])
def test_the_same_rows_as_from_a_folder(tmp_path, kind, named):
    contents = {f"class {i % 2}/{i}.png": content_of(i) for i in range(7)}
    folder = tmp_path / "folder"
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "README.txt").write_text("hello")
    path = make(tmp_path / named.format(kind), kind, [*contents.items(), ("README.txt", b"hello")])
    reader = open_submission(path, SMALL, batch_size=3)
    batches = list(reader)
    assert [len(batch.rows) for batch in batches] == [3, 3, 1]
    assert [row.path for batch in batches for row in batch.rows] == list(contents)
    assert len(reader) == 8
    expected = {row.path: (row, x) for batch in open_submission(folder, SMALL) for row, x in _pairs(batch)}
    for batch in batches:
        for row, x in _pairs(batch):
            assert row == expected[row.path][0]
            assert torch.equal(x, expected[row.path][1])
            assert row.sha256 == hashlib.sha256(contents[row.path]).hexdigest()
    assert [row.path for row in reader.rejected] == ["README.txt"]
    again = list(reader)
    assert all(torch.equal(a.tensor, b.tensor) and a.rows == b.rows for a, b in zip(batches, again, strict=True))


def _pairs(batch):
    return zip(batch.rows, batch.tensor, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_are_shown_escaped_and_nothing_is_written(tmp_path, kind):
    names = [
        "../out.png",
        "../../../../../../tmp/out.png",
        "/etc/passwd.png",
        "C:\\Windows\\out.png",
        "..\\out.png",
        "\x1b[31m.png",
        "line\nbreak.png",
        "a/../b.png",
        "~/.png/x.png",
        "画像.png",
        "right\u202eleft.png",
    ]
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in" / "hostile", kind, [(name, content_of()) for name in names])
    before = files_below(tmp_path)
    notes, reasons, _ = judge(path)
    assert reasons == {}
    assert list(notes) == [
        "../out.png",
        "../../../../../../tmp/out.png",
        "/etc/passwd.png",
        r"C:\\Windows\\out.png",
        r"..\\out.png",
        r"\x1b[31m.png",
        r"line\nbreak.png",
        "a/../b.png",
        "画像.png",
        r"right\u202eleft.png",
    ], "and the hidden folder is left out"
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_cannot_be_told_apart(tmp_path, kind):
    members = [("a.png", content_of(1)), ("b.png", content_of(2)), ("a.png", content_of(3)), ("./a.png", content_of(4))]
    notes, reasons, _ = judge(make(tmp_path / "x", kind, members))
    assert notes == {"b.png": ""}
    assert reasons == {"a.png": "3 members have this name; which of them is meant cannot be told"}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_and_litter_are_left_out(tmp_path, kind):
    members = [("a/", b""), ("a/b.png", content_of()), ("__MACOSX/a/._b.png", b"litter"), ("a/.DS_Store", b"litter")]
    assert judge(make(tmp_path / "x", kind, members))[:2] == ({"a/b.png": ""}, {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [[], [("a/", b"")], [(".hidden", b"x")]])
def test_an_archive_without_files(tmp_path, kind, members):
    with pytest.raises(InputError, match="holds no files"):
        judge(make(tmp_path / f"x.{kind}", kind, members))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_archives_inside_archives_are_not_opened(tmp_path, kind, inner):
    nested = make(tmp_path / "inner", inner, [("a.png", content_of())]).read_bytes()
    path = make(tmp_path / "x", kind, [("good.png", content_of()), ("nested.png", nested)])
    notes, reasons, _ = judge(path)
    assert notes == {"good.png": ""}
    assert "inside the submission, which is not opened" in reasons["nested.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(tmp_path, kind):
    members = [("empty", b""), ("limit", content_of()), ("over", content_of() + b"\0")]
    path = make(tmp_path / "x", kind, members)
    size = len(content_of())
    notes, reasons, _ = judge(path, max_bytes=size)
    assert notes == {"limit": ""}
    assert reasons == {"empty": "an empty file", "over": f"{size + 1:,} bytes, more than the limit of {size:,}"}


@pytest.mark.parametrize("kind", KINDS)
def test_more_members_than_the_limit(tmp_path, kind):
    path = make(tmp_path / "x", kind, [(f"{i}.png", content_of()) for i in range(5)])
    assert len(judge(path, members=5)[0]) == 5
    with pytest.raises(InputError, match=r"x holds more than 4 entries.*Limits\.members"):
        judge(path, members=4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_in_little_memory(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("amint.readers.limits._HARMLESS", 2**20)
    path = make(tmp_path / "x", kind, [(f"{i}.png", bytes(2**20)) for i in range(40)])
    total = {"total_bytes": 2**23} if kind == "tar" else {}
    tracemalloc.start()
    with pytest.raises(InputError, match=r"unpacks to more than .*submit the folder"):
        open_submission(path, SMALL, limits=Limits(ratio=20, **total))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_well_packed_pictures_are_no_bomb(tmp_path, kind):
    white = encoded(picture().point(lambda _: 255).resize((1000, 1000)), "BMP")
    assert judge(make(tmp_path / "x", kind, [("white.bmp", white)]))[0] == {"white.bmp": ""}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_skipped_is_not_decoded(tmp_path, kind, monkeypatch):
    path = make(tmp_path / "x", kind, [(f"{i}.png", content_of(i)) for i in range(5)])
    decoded = []
    real = images.decode
    monkeypatch.setattr(images, "decode", lambda content, *rest: decoded.append(content) or real(content, *rest))
    notes, _, tensor = judge(path, skip={"0.png", "2.png"})
    assert list(notes) == ["1.png", "3.png", "4.png"]
    assert decoded == [content_of(i) for i in (1, 3, 4)]
    assert torch.equal(tensor, judge(path)[2][[1, 3, 4]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_changed_meanwhile(tmp_path, kind):
    path = make(tmp_path / "x", kind, [("a.png", content_of())])
    reader = open_submission(path, SMALL)
    make(path, kind, [("a.png", content_of(1)), ("b.png", content_of(2))])
    with pytest.raises(InputError, match="x was changed while it was judged"):
        list(reader)


def test_archives_this_reader_does_not_open(tmp_path):
    (tmp_path / "x").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    with pytest.raises(InputError, match="x is a 7-Zip archive"):
        judge(tmp_path / "x")


def test_the_ending_counts_only_where_the_content_says_nothing(tmp_path):
    for name in ("a.zip", "a.tar", "a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(content_of())
        assert judge(tmp_path / name)[0] == {name: ""}
    (tmp_path / "b.zip").write_bytes(b"no archive at all")
    with pytest.raises(InputError, match=r"b\.zip is no zip archive"):
        judge(tmp_path / "b.zip")
    (tmp_path / "b").write_bytes(b"no archive at all")
    assert set(judge(tmp_path / "b")[1]) == {"b"}


def test_a_picture_with_an_archive_behind_it_is_a_picture(tmp_path):
    make_zip(tmp_path / "x.zip", [("a.png", content_of(1))])
    (tmp_path / "x.png").write_bytes(content_of() + (tmp_path / "x.zip").read_bytes())
    assert judge(tmp_path / "x.png")[0] == {"x.png": ""}


def test_a_pipe_named_like_an_archive_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.zip")
    assert judge(tmp_path / "x.zip")[1]["x.zip"].startswith("not a regular file")


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to count open files")
@pytest.mark.parametrize("kind", KINDS)
def test_leaving_early_closes_the_file(tmp_path, kind):
    path = make(tmp_path / "x", kind, [(f"{i}.png", content_of(i)) for i in range(4)])
    reading = iter(open_submission(path, SMALL, batch_size=1))
    next(reading)
    opened = open_files()
    reading.close()
    assert open_files() == opened - 1
