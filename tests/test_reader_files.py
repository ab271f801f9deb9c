import os
import socket
import stat
from pathlib import Path

import pytest

from amint.errors import InputError
from amint.readers import files
from amint.readers.files import list_candidates, read_bytes
from amint.readers.limits import Limits
from amint.readers.rows import printable


def write(folder, *names, content=b"content"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(folder):
    return [candidate.name for candidate in list_candidates(folder, Limits())[1]]


def outcome(folder, name, max_bytes=1000):
    """The bytes of the entry of that name, or the reason why there are none."""
    top, candidates = list_candidates(folder, Limits())
    candidate = next(candidate for candidate in candidates if candidate.name == name)
    try:
        return read_bytes(candidate, top, max_bytes)
    except InputError as problem:
        return str(problem)


@pytest.mark.parametrize(
    "name, shown",
    [
        ("plain name.png", "plain name.png"),
        ('it\'s "quoted".png', 'it\'s "quoted".png'),
        ("Ünïcödé-画像.png", "Ünïcödé-画像.png"),
        ("line\nbreak\r.png", r"line\nbreak\r.png"),
        ("\x1b[31mred.png", r"\x1b[31mred.png"),
        ("\udcff.png", r"\udcff.png"),
        (r"\udcff.png", r"\\udcff.png"),
        ("right\u202eleft.png", r"right\u202eleft.png"),
    ],
)
def test_printable(name, shown):
    assert printable(name) == shown
    shown.encode("utf-8")


def test_order_is_that_of_the_relative_paths(tmp_path):
    write(tmp_path, "b.png", "a/z.png", "a.png", "a/b/c.png", "B.png", "ä.png")
    assert names(tmp_path) == ["B.png", "a.png", "a/b/c.png", "a/z.png", "b.png", "ä.png"]


def test_litter_is_skipped(tmp_path):
    write(tmp_path, "a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", ".git/x.png", "s/.h")
    assert names(tmp_path) == ["a.png"]


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list_candidates(tmp_path / "missing", Limits())
    with pytest.raises(InputError, match=r"cannot read a\\x00b"):
        list_candidates("a\0b", Limits())
    empty = tmp_path / "an empty one"
    empty.mkdir()
    with pytest.raises(InputError, match="an empty one holds no files"):
        list_candidates(empty, Limits())
    write(empty, ".DS_Store", "sub/Thumbs.db")
    with pytest.raises(InputError, match="an empty one holds no files"):
        list_candidates(empty, Limits())


def test_a_single_file_even_a_hidden_or_linked_one(tmp_path):
    write(tmp_path, ".hidden.png")
    assert names(tmp_path / ".hidden.png") == [".hidden.png"]
    (tmp_path / "link.png").symlink_to(tmp_path / ".hidden.png")
    assert outcome(tmp_path / "link.png", "link.png") == b"content"


def test_links(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "inside but longer"
    write(inside, "real.png", "sub/x.png")
    write(outside, "secret.png")
    links = {
        "good": "real.png",
        "up": "sub/../real.png",
        "out": "../inside but longer/secret.png",
        "absolute": outside / "secret.png",
        "outfolder": outside,
        "parent": "..",
        "self": ".",
        "folder": "sub",
        "loop1": "loop2",
        "loop2": "loop1",
        "broken": "nowhere.png",
        "device": "/dev/zero",
    }
    for name, target in links.items():
        (inside / name).symlink_to(target)
    assert names(inside) == sorted([*links, "real.png", "sub/x.png"])
    assert outcome(inside, "good") == outcome(inside, "up") == b"content"
    for name in ("out", "absolute", "outfolder", "parent", "device"):
        assert outcome(inside, name) == "a link that leaves the submitted folder"
    for name in ("self", "folder"):
        assert outcome(inside, name) == "a link to a folder, which is not followed"
    for name in ("loop1", "loop2"):
        assert outcome(inside, name) == "a link that leads in a circle"
    assert outcome(inside, "broken") == "cannot be reached: no such file or directory"


def test_the_submission_itself_may_be_a_link(tmp_path):
    write(tmp_path / "real", "a.png")
    (tmp_path / "link").symlink_to("real")
    assert outcome(tmp_path / "link", "a.png") == b"content"


def test_a_file_swapped_for_a_link_after_listing_is_not_followed(tmp_path):
    write(tmp_path, "in/a.png", "secret")
    top, candidates = list_candidates(tmp_path / "in", Limits())
    (tmp_path / "in" / "a.png").unlink()
    (tmp_path / "in" / "a.png").symlink_to("../secret")
    with pytest.raises(InputError, match="leaves the submitted folder"):
        read_bytes(candidates[0], top, 1000)


def test_a_link_swapped_in_at_the_last_moment_is_not_followed(tmp_path, monkeypatch):
    write(tmp_path, "in/a.png", "secret")
    real_open = os.open

    def swap_then_open(path, flags):
        Path(path).unlink()
        Path(path).symlink_to(tmp_path / "secret")
        return real_open(path, flags)

    monkeypatch.setattr(files.os, "open", swap_then_open)
    assert outcome(tmp_path / "in", "a.png").startswith("cannot be read: ")


def test_pipes_and_sockets_do_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        for name in ("pipe.png", "socket.png"):
            assert outcome(tmp_path, name).startswith("not a regular file")
            assert outcome(tmp_path / name, name).startswith("not a regular file")


def test_a_pipe_swapped_in_at_the_last_moment_does_not_block(tmp_path, monkeypatch):
    write(tmp_path, "a.png")
    real_open = os.open

    def swap_then_open(path, flags):
        Path(path).unlink()
        os.mkfifo(path)
        return real_open(path, flags)

    monkeypatch.setattr(files.os, "open", swap_then_open)
    assert outcome(tmp_path, "a.png").startswith("not a regular file")


def test_devices_are_refused_before_they_are_opened(monkeypatch):
    monkeypatch.setattr(files.os, "open", lambda *_: pytest.fail("opened"))
    assert outcome("/dev/zero", "zero").startswith("not a regular file")


def test_sizes(tmp_path):
    write(tmp_path, "empty.png", content=b"")
    write(tmp_path, "limit.png", content=bytes(1000))
    write(tmp_path, "over.png", content=bytes(1001))
    assert outcome(tmp_path, "empty.png") == "an empty file"
    assert outcome(tmp_path, "limit.png") == bytes(1000)
    assert outcome(tmp_path, "over.png") == "1,001 bytes, more than the limit of 1,000"


def test_a_file_that_grows_is_not_read(tmp_path, monkeypatch):
    write(tmp_path, "a.png")

    class Growing:
        st_mode, st_size = stat.S_IFREG, 3

    monkeypatch.setattr(files.os, "fstat", lambda _: Growing)
    assert outcome(tmp_path, "a.png") == "its size changed while it was read"


def test_what_may_not_be_opened_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a.png")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    assert outcome(tmp_path, "a.png") == "cannot be read: permission denied"


def test_a_file_gone_since_the_listing(tmp_path):
    write(tmp_path, "a.png")
    top, candidates = list_candidates(tmp_path, Limits())
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="cannot be reached: no such file"):
        read_bytes(candidates[0], top, 1000)


def test_folders_that_cannot_be_listed(tmp_path, monkeypatch):
    write(tmp_path, "a.png", "closed/b.png", "open/c.png")
    real_scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith(refused):
            raise PermissionError(13, "Permission denied")
        return real_scandir(folder)

    monkeypatch.setattr(files.os, "scandir", refuse)
    refused = "closed"
    assert names(tmp_path) == ["a.png", "closed/", "open/c.png"]
    assert outcome(tmp_path, "closed/") == "a folder that cannot be listed: permission denied"
    refused = tmp_path.name
    with pytest.raises(InputError, match=r"cannot list the folder .*permission denied"):
        list_candidates(tmp_path, Limits())


def test_folders_nested_deeper_than_a_path_may_be_long(tmp_path, monkeypatch):
    write(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    deep = 0
    try:
        for _ in range(25):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
            deep += 1
        found = list_candidates(tmp_path, Limits())[1]
        assert found[0].name == "a.png"
        assert "file name too long" in found[1].reason
    finally:
        for _ in range(deep):
            os.chdir("..")
            Path("d" * 200).rmdir()
