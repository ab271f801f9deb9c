"""Damaged and hostile submissions: a row or an InputError each, in bounded time and memory, and nothing written."""

import gzip
import io
import random
import struct
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_material import mutated, sound_submissions, watched
from reader_pictures import content_of, files_below, judge, make_tar, make_zip

from amint.errors import InputError

KINDS = [
    "stored.zip",
    "deflated.zip",
    "ustar.tar",
    "pax.tar",
    "gnu.tar",
    "packed.tar.gz",
    "packed.tar.bz2",
    "packed.tar.xz",
    "none.parquet",
    "snappy.parquet",
    "zstd.parquet",
    "gzip.parquet",
    "comma.csv",
    "tab.tsv",
    "PNG",
    "JPEG",
    "GIF",
    "WEBP",
    "TIFF",
    "BMP",
    "PPM",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    # What lies beside it is looked through before and after each try.
    folder = tmp_path_factory.mktemp("fuzz") / "submissions"
    folder.mkdir()
    return folder, sound_submissions(folder)


def survives(path):
    """How many rows were judged and rejected: (0, 0) for a submission refused whole."""
    folder = path.parent
    before = files_below(folder.parent)
    with watched():
        try:
            notes, reasons, tensor = judge(path, max_pixels=1_000_000)
        except InputError as problem:
            notes, reasons, tensor = {}, {}, None
            shown = str(problem)
        else:
            shown = "".join(reasons.values())
    assert shown.isprintable()
    assert files_below(folder.parent) == before
    assert tensor is None or tensor.isfinite().all()
    assert all(reasons.values())
    return len(notes), len(reasons)


def test_the_sound_ones_are_judged(sound):
    folder, contents = sound
    assert set(contents) == set(KINDS)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        judged, rejected = survives(folder / name)
        assert judged >= 1
        assert rejected == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [14, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_submissions(sound, kind, rounds, capfd):
    folder, contents = sound
    dice = random.Random(f"{kind} {rounds}")
    outcomes = []
    for _ in range(rounds):
        content = mutated(contents[kind], dice, contents[dice.choice(KINDS)])
        (folder / kind).write_bytes(content)
        outcomes.append(survives(folder / kind))
    assert any(rejected or not judged for judged, rejected in outcomes), "nothing was damaged"
    assert capfd.readouterr() == ("", "")


def quine():
    """A gzip file that unpacks to many of itself is no tar: something that only looks like one, again and again."""
    content = b"x" * 1000
    for _ in range(50):
        content = gzip.compress(content)
    return content


def nested(make, depth):
    content = content_of()
    for level in range(depth):
        stream = io.BytesIO()
        make(stream, f"{level}.png", content)
        content = stream.getvalue()
    return content


def into_zip(stream, name, content):
    make_zip(stream, [(name, content)])


def into_tar(stream, name, content):
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def directory_of(entries, claimed=None, size=None, offset=0, comment=b""):
    """The end of a zip archive whose directory says what one likes."""
    directory = b"".join(entries)
    end = struct.pack(
        "<4s4H2IH",
        b"PK\5\6",
        0,
        0,
        (claimed or len(entries)) & 0xFFFF,
        (claimed or len(entries)) & 0xFFFF,
        len(directory) if size is None else size,
        offset,
        len(comment),
    )
    return b"PK\3\4" + directory + end + comment


def entry(name=b"a.png", packed=10, size=10, offset=0, extra=b"", flags=0, method=8, name_length=None):
    length = len(name) if name_length is None else name_length
    fields = (20, 20, flags, method, 0, 33, 0, packed, size, length, len(extra), 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name + extra


ZIP64 = struct.pack("<HHQQQ", 1, 24, 2**64 - 1, 2**64 - 1, 2**64 - 1)
HOSTILE = {
    "huge sizes.zip": lambda: directory_of([entry(packed=2**32 - 1, size=2**32 - 2)], offset=4),
    "zip64 sizes.zip": lambda: directory_of([entry(packed=2**32 - 1, size=2**32 - 1, extra=ZIP64)], offset=4),
    "short zip64.zip": lambda: directory_of([entry(size=2**32 - 1, extra=ZIP64[:9])], offset=4),
    "far offset.zip": lambda: directory_of([entry(offset=2**32 - 2)], offset=4),
    "itself.zip": lambda: directory_of([entry(offset=4, packed=60, size=60, method=0)], offset=4),
    "many claimed.zip": lambda: directory_of([entry()], claimed=65_535, offset=4),
    "long name.zip": lambda: directory_of([entry(name_length=65_535)], offset=4),
    "directory before.zip": lambda: directory_of([entry()], offset=2**31),
    "directory too large.zip": lambda: directory_of([entry()], size=2**31),
    "directory too small.zip": lambda: directory_of([entry()], size=3),
    "no utf-8.zip": lambda: directory_of([entry(b"\xff\xfe\xfd", flags=0x800)], offset=4),
    "no name.zip": lambda: directory_of([entry(b"")], offset=4),
    "only slashes.zip": lambda: directory_of([entry(b"////"), entry(b"./"), entry(b"/./.")], offset=4),
    "10,000 members.zip": lambda: directory_of([entry(b"%d" % i) for i in range(10_000)], offset=4),
    "10,000 of one name.zip": lambda: directory_of([entry()] * 10_000, offset=4),
    "comment of ends.zip": lambda: directory_of([entry()], offset=4, comment=b"PK\5\6" * 10_000),
    "nested.zip": lambda: nested(into_zip, 30),
    "nested.tar.gz": lambda: nested(into_tar, 30),
    "packed 50 times.gz": quine,
    "empty members.gz": lambda: gzip.compress(b"") * 20_000,
    "10,000 members.tar": lambda: b"".join(tarfile.TarInfo(str(i)).tobuf() for i in range(10_000)) + bytes(1024),
    "10,000 long names.tar": lambda: long_name(b"x\0" + b"y" * 600) * 10_000,
    "name of a million.tar": lambda: long_name(b"x" * 2**20),
    "name of ten million.tar": lambda: long_name(b"x" * 10 * 2**20),
    "half a header.tar": lambda: tarfile.TarInfo("a").tobuf()[:300],
    "names.csv": lambda: b'path\n../../etc/passwd\n\0\n"\n',
    "a million columns.csv": lambda: b"," * 1_000_000,
    "a million columns more than once.csv": lambda: (b"a," * 400_000 + b"\n") * 5,
    "a million empty lines.csv": lambda: b"\n" * 1_000_000,
    "20,000 missing.csv": lambda: b"path\n" + b"".join(b"%d\n" % i for i in range(20_000)),
    "quotes.csv": lambda: b'"' * 100_001,
    "quotes again.csv": lambda: b'path\n"' + b'""' * 100_000,
    "deep paths.csv": lambda: b"path\n" + b"a/" * 100_000 + b"\n" + b"../" * 100_000,
    "a byte order.csv": lambda: b"\xff\xfe" + b"\x00\xd8" * 1000,
    "footer only.parquet": lambda: b"PAR1" + struct.pack("<I", 2**31) + b"PAR1",
    "itself.parquet": lambda: b"PAR1" * 1000,
    "many columns.parquet": lambda: table({f"c{i}": [b"x"] for i in range(2000)}),
    "deep column.parquet": lambda: table({"image": pa.array([None], deep(60))}),
    "bytes of bytes.parquet": lambda: table({"image": pa.array([{"bytes": b"x", "path": "\0\n" * 9}] * 100)}),
}


def long_name(name):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, len(name)
    return info.tobuf() + name + bytes(-len(name) % 512) + tarfile.TarInfo("short").tobuf()


def table(columns):
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def deep(levels):
    kind = pa.binary()
    for _ in range(levels):
        kind = pa.struct([("bytes", kind)])
    return kind


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_submissions(tmp_path, name, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(HOSTILE[name]())
    judged, _ = survives(folder / name)
    assert judged == 0, "none of these holds a picture"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "C:\\x.png", "a\0b.png", "..", ".", "\x1b]0;x\x07", "x" * 60_000]
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_hostile_names(tmp_path, make, name):
    folder = tmp_path / "in"
    folder.mkdir()
    path = make(folder / "x.tar", [("good.png", content_of()), (name, content_of(1))])
    assert survives(path) == (2, 0)
