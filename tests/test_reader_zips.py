import struct
import zipfile
import zlib

import pytest
from reader_pictures import content_of, judge, make_zip

from amint.errors import InputError

LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def info_of(name, **fields):
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def edited(path, sign, offset, kind, value, entry=0):
    """The archive with one field of one header replaced."""
    content = bytearray(path.read_bytes())
    at = -1
    for _ in range(entry + 1):
        at = content.index(sign, at + 1)
    struct.pack_into(kind, content, at + offset, value)
    path.write_bytes(content)
    return path


def two(tmp_path, method=zipfile.ZIP_DEFLATED):
    return make_zip(tmp_path / "x.zip", [("bad.png", content_of(1)), ("good.png", content_of(2))], method)


def reason_of(path, **limits):
    notes, reasons, _ = judge(path, **limits)
    assert notes == {"good.png": ""}
    return reasons["bad.png"]


def test_stored_members_and_an_archive_behind_something_else(tmp_path):
    path = two(tmp_path, zipfile.ZIP_STORED)
    assert len(judge(path)[0]) == 2
    path.write_bytes(b"#!/bin/sh a program that unpacks itself\n" + path.read_bytes())
    assert len(judge(path)[0]) == 2


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "sign, offset, kind, value",
    [
        (CENTRAL, 16, "<I", 12345),  # checksum
        (CENTRAL, 24, "<I", 300),  # unpacked size, too small
        (CENTRAL, 24, "<I", 5000),  # and too large
        (CENTRAL, 20, "<I", 10),  # packed size
        (CENTRAL, 42, "<I", 3),  # place
        (CENTRAL, 42, "<I", 2**31),
        (LOCAL, 0, "<I", 0),
        (LOCAL, 26, "<H", 60_000),  # length of the name
        (LOCAL, 28, "<H", 60_000),  # and of the extra field
    ],
)
def test_headers_that_lie(tmp_path, method, sign, offset, kind, value):
    reason = reason_of(edited(two(tmp_path, method), sign, offset, kind, value))
    assert reason.startswith(("damaged: what the archive says", "unpacks to more than its header says"))


def test_unpacking_stops_where_the_header_says_however_much_there_is(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "x.zip", [("bad.png", bytes(2**26)), ("good.png", content_of())])
    edited(path, CENTRAL, 24, "<I", 1000)
    real, unpacked = zlib.decompressobj, []

    class Counting:
        def __init__(self, *arguments):
            self._real = real(*arguments)

        eof = property(lambda self: self._real.eof)

        def decompress(self, content, most):
            unpacked.append(len(self._real.decompress(content, most)))
            return bytes(unpacked[-1])

    monkeypatch.setattr("amint.readers.zips.zlib.decompressobj", Counting)
    _, reasons, _ = judge(path)
    assert reasons["bad.png"] == "unpacks to more than its header says"
    assert unpacked[0] == 1001


@pytest.mark.parametrize("flag", [0x1, 0x41, 0x2001])
def test_encrypted(tmp_path, flag):
    assert reason_of(edited(two(tmp_path), CENTRAL, 8, "<H", flag)) == "encrypted"


@pytest.mark.parametrize(
    "mode, reason", [(0o120777, "a link, which is not followed"), (0o020600, "not a regular file")]
)
def test_links_and_devices(tmp_path, mode, reason):
    members = [(info_of("bad.png", external_attr=mode << 16), b"/etc/passwd"), ("good.png", content_of())]
    assert reason_of(make_zip(tmp_path / "x.zip", members)).startswith(reason)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods(tmp_path, method):
    info = info_of("bad.png", compress_type=method)
    reason = reason_of(make_zip(tmp_path / "x.zip", [(info, content_of()), ("good.png", content_of())]))
    assert reason == f"packed by a method (number {method}) this reader does not know; pack it again with deflate"


def test_names_with_a_nul_stay_apart(tmp_path):
    path = make_zip(tmp_path / "x.zip", [("a.png#1", content_of()), ("a.png#2", content_of())])
    path.write_bytes(path.read_bytes().replace(b"a.png#", b"a.png\0"))
    assert list(judge(path)[0]) == [r"a.png\x001", r"a.png\x002"]


def test_a_folder_with_content(tmp_path):
    path = make_zip(tmp_path / "x.zip", [("a.png#", content_of())])
    path.write_bytes(path.read_bytes().replace(b"a.png#", b"a.png/"))
    assert set(judge(path)[0]) == {"a.png"}


def test_a_directory_that_is_not_whole(tmp_path):
    path = two(tmp_path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"x\.zip is no zip archive, or its directory"):
            judge(path)


def test_members_that_share_their_content(tmp_path):
    """The bomb of Fifield 2019: one packed block that every entry of the directory claims."""
    members = [(f"{i}.png", bytes(2**20)) for i in range(200)]
    path = make_zip(tmp_path / "x.zip", members)
    content = bytearray(path.read_bytes())
    at = -1
    for _ in members:
        at = content.index(CENTRAL, at + 1)
        struct.pack_into("<I", content, at + 42, 0)
    directory = content.index(CENTRAL)
    first = content.index(LOCAL, 4)
    struct.pack_into("<I", content, content.index(b"PK\x05\x06") + 16, first)
    path.write_bytes(content[:first] + content[directory:])
    with pytest.raises(InputError, match="unpacks to more than"):
        judge(path)


def test_a_huge_directory_is_counted_before_it_is_parsed(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "x.zip", [(f"{i:05}", b"x") for i in range(10_000)])
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *_: pytest.fail("parsed"))
    with pytest.raises(InputError, match="more than 9,999 entries"):
        judge(path, members=9_999)
