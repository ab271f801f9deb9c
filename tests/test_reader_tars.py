import gzip
import tarfile

import pytest
from reader_pictures import content_of, judge, make_tar

from amint.errors import InputError


def info_of(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def around(tmp_path, info, content=b"", **options):
    """One member between two good ones."""
    members = [("first.png", content_of(1)), (info, content), ("last.png", content_of(2))]
    notes, reasons, _ = judge(make_tar(tmp_path / "x.tar", members, **options))
    assert notes == {"first.png": "", "last.png": ""}
    return reasons


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [10, 99, 100, 101, 200, 254])
def test_names_of_any_length(tmp_path, form, length):
    name = ("photos/" * 40)[: length - 6].rstrip("/").ljust(length - 6, "x") + "/1.png"
    members = [(name, content_of(1)), (name + "2", content_of(2)) if length < 254 else ("2", content_of(2))]
    notes, _, _ = judge(make_tar(tmp_path / "x.tar", members, format=form))
    assert list(notes) == [member[0] for member in members]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_very_long_and_foreign_names(tmp_path, form):
    names = ["画" * 300 + ".png", "\udcff\udcfe.png", "x" * 5000]
    notes, _, _ = judge(make_tar(tmp_path / "x.tar", [(name, content_of()) for name in names], format=form))
    assert list(notes) == [names[0], r"\udcff\udcfe.png", names[2]]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links(tmp_path, kind):
    for target in ("first.png", "../../../etc/passwd", "x" * 300):
        info = info_of("link.png", type=kind, linkname=target)
        assert around(tmp_path, info) == {"link.png": "a link, which is not followed"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path, kind):
    assert around(tmp_path, info_of("x", type=kind)) == {"x": "not a regular file but a pipe or a device"}


def test_kinds_of_other_programs(tmp_path):
    assert around(tmp_path, info_of("x", type=b"V")) == {"x": "a kind of member this reader does not know"}


def test_sparse_members(tmp_path):
    pax = info_of("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "real.png"})
    reason = "stored with holes (sparse), which this reader does not fill"
    assert around(tmp_path, pax, bytes(600), format=tarfile.PAX_FORMAT) == {"real.png": reason}
    old = info_of("x", type=tarfile.GNUTYPE_SPARSE)
    assert around(tmp_path, old, bytes(600), format=tarfile.GNU_FORMAT) == {"x": reason}


def test_a_map_of_holes_in_several_blocks(tmp_path):
    make_tar(tmp_path / "x.tar", [(info_of("x", type=tarfile.GNUTYPE_SPARSE), bytes(512)), ("a.png", content_of())])
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[482] = 1
    checksum = 256 + sum(content[:148]) + sum(content[156:512])
    content[148:156] = b"%06o\0 " % checksum
    maps = bytes(504) + b"\1" + bytes(7) + bytes(512)
    (tmp_path / "x.tar").write_bytes(content[:512] + maps + content[512:])
    assert judge(tmp_path / "x.tar")[0] == {"a.png": ""}


def test_global_headers_and_a_size_in_a_pax_header(tmp_path):
    path = tmp_path / "x.tar"
    info = info_of("a.png", pax_headers={"size": str(len(content_of()))}, size=len(content_of()))
    make_tar(path, [(info, content_of()), ("b.png", content_of())], format=tarfile.PAX_FORMAT, pax_headers={"k": "v"})
    assert judge(path)[0] == {"a.png": "", "b.png": ""}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_cut_short_keeps_what_came_before(tmp_path, mode):
    path = make_tar(tmp_path / "x.tar", [(f"{i:02}.png", content_of(i)) for i in range(60)], mode)
    whole = path.read_bytes()
    seen = set()
    for share in (0.3, 0.5, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        notes, reasons, _ = judge(path)
        seen.add(len(notes))
        assert reasons.pop("x.tar/").startswith("the archive is damaged or cut short here, what follows is lost")
        assert list(reasons.values()) in ([], ["damaged or cut short with its archive"])
        assert list(notes) == [f"{i:02}.png" for i in range(len(notes))]
    assert len(seen) == 4


def test_an_archive_without_the_mark_of_its_end(tmp_path):
    (tmp_path / "x").write_bytes(member("a.png", content_of()))
    notes, reasons, _ = judge(tmp_path / "x")
    assert notes == {"a.png": ""}
    assert reasons["x/"].endswith("the mark of its end is missing")


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_an_archive_cut_short_before_anything_can_be_unpacked(tmp_path, mode):
    path = make_tar(tmp_path / "x.tar", [(f"{i:02}.png", content_of(i)) for i in range(6)], mode)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="no tar archive or damaged"):
        judge(path)


def test_damage_in_the_middle_is_a_row(tmp_path):
    path = make_tar(tmp_path / "x.tar", [(f"{i}.png", content_of(i)) for i in range(6)])
    content = bytearray(path.read_bytes())
    third = content.index(b"2.png")
    content[third] ^= 255
    path.write_bytes(content)
    notes, reasons, _ = judge(path)
    assert list(notes) == ["0.png", "1.png"]
    assert reasons == {
        "x.tar/": "the archive is damaged or cut short here, what follows is lost: "
        "no header of a member where one must be"
    }


def header(name, size_field, kind=b"0"):
    """A block with a checksum that fits, whatever the size field says."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size_field
    block[156:157] = kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name, content):
    return header(name, b"%011o\0" % len(content)) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "size",
    [b"77777777777\0", b"\x80" + b"\x7f" + b"\xff" * 10, b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, b"\xff" * 12],
    ids=["8 GiB", "2^87", "8 EiB", "negative"],
)
@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S", b"V"])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_that_lie_take_neither_time_nor_memory(tmp_path, size, kind, packed):
    path = tmp_path / "x.tar"
    content = member("first.png", content_of()) + header("bad.png", size, kind) + bytes(3000)
    path.write_bytes(gzip.compress(content) if packed else content)
    notes, reasons, _ = judge(path)
    assert notes == {"first.png": ""}
    assert reasons.pop("x.tar/").startswith("the archive is damaged or cut short")
    assert set(reasons) <= {"bad.png"}


@pytest.mark.parametrize(
    "records", [b"6 a=bc", b"999 path=x\n", b"5 ab\n", b"0 a=b\n", b"path=x\n", b"99999999999 a=b\n", b"\xff\xfe"]
)
def test_pax_headers_that_cannot_be_read(tmp_path, records):
    path = tmp_path / "x.tar"
    bad = header("pax", b"%011o\0" % len(records), b"x") + records.ljust(512, b"\0")
    path.write_bytes(member("a.png", content_of()) + bad + member("b.png", content_of()) + bytes(1024))
    notes, reasons, _ = judge(path)
    assert notes == {"a.png": ""}
    assert "a header of a member that cannot be read" in reasons["x.tar/"]


def test_a_packed_file_that_holds_no_archive(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"path\na.png\n"))
    with pytest.raises(InputError, match=r"x\.csv\.gz cannot be judged: it is no tar archive or damaged"):
        judge(tmp_path / "x.csv.gz")
