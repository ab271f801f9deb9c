import io
import os
import stat
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from audit_toys import audit_of

from amint import bundle_files
from amint.bundle import read
from amint.bundle_files import MANIFEST, WEIGHTS, check_replaceable, read_files, write_files
from amint.errors import BundleError, UsageError

OLD = {MANIFEST: b'{"format": "amint-bundle", "old": 1}', **{name: b"old" + name.encode() for name in WEIGHTS}}
NEW = {MANIFEST: b'{"format": "amint-bundle", "new": 1}', **dict.fromkeys(WEIGHTS, b"new" * 99)}
PLACES = ["bundle", "bundle.zip", "bundle.ZIP"]


def archive(*members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("place", PLACES)
def test_what_is_written_is_read(tmp_path, place):
    target = tmp_path / "not there yet" / place
    for files in (OLD, NEW):
        write_files(target, files)
        assert read_files(target) == files
        assert [entry.name for entry in target.parent.iterdir()] == [place]
    assert target.is_dir() == (place == "bundle")


@pytest.mark.parametrize("place", PLACES)
def test_files_may_be_read_by_those_the_umask_allows(tmp_path, place):
    before = os.umask(0o027)
    try:
        write_files(tmp_path / place, OLD)
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / place).stat().st_mode)
    assert mode == (0o750 if place == "bundle" else 0o640)


@pytest.mark.parametrize("prefix", ["", "model.amint/", "a/b/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_that_somebody_packed(tmp_path, prefix, compression):
    litter = [("__MACOSX/model.amint/._manifest.json", b"x"), (f"{prefix}readme.txt", b"y")]
    members = [(prefix + name, content) for name, content in OLD.items()]
    (tmp_path / "a.zip").write_bytes(archive(*members, *litter, compression=compression))
    assert read_files(tmp_path / "a.zip") == OLD


@pytest.mark.parametrize("name", [MANIFEST, *WEIGHTS])
@pytest.mark.parametrize("place", ["bundle", "bundle.zip"])
def test_a_missing_file_is_named(tmp_path, place, name):
    write_files(tmp_path / place, {key: content for key, content in OLD.items() if key != name})
    with pytest.raises(BundleError, match=f"not a whole audit bundle: {name} missing"):
        read_files(tmp_path / place)


def test_nothing_there(tmp_path):
    with pytest.raises(BundleError, match=r"no audit bundle at .*: nothing is there"):
        read_files(tmp_path / "missing")
    with pytest.raises(BundleError, match=r"File name too long|nothing is there"):
        read_files(tmp_path / ("x" * 300))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json, .* missing"):
        read_files(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="neither a folder nor a file is there"):
        read_files(tmp_path / "pipe")


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    write_files(tmp_path / "a", OLD)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match="cannot be read: Permission denied"):
        read_files(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x89PNG\r\n\x1a\n" + bytes(100), b"{}", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_archive_of_a_bundle(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BundleError, match=r"a readable \.zip of one|not a whole audit bundle"):
        read_files(tmp_path / "a.zip")


@pytest.mark.parametrize("folders", [("/", "/"), ("../", "../"), ("a/../../", "a/../../"), ("a/", "b/"), ("", "sub/")])
def test_archives_with_files_in_strange_places(tmp_path, folders):
    members = [(folders[name == MANIFEST] + name, content) for name, content in OLD.items()]
    (tmp_path / "a.zip").write_bytes(archive(*members))
    with pytest.raises(BundleError, match="is not one bundle; it holds"):
        read_files(tmp_path / "a.zip")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_hold_a_file_twice(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive(*OLD.items(), *NEW.items()))
    with pytest.raises(BundleError, match="is not one bundle"):
        read_files(tmp_path / "a.zip")


def test_archives_that_expand_without_end(tmp_path):
    bomb = OLD | {WEIGHTS[0]: bytes(50 * 2**20)}
    (tmp_path / "a.zip").write_bytes(archive(*bomb.items(), compression=zipfile.ZIP_DEFLATED))
    assert (tmp_path / "a.zip").stat().st_size < 100_000
    with pytest.raises(BundleError, match=r"would expand to 52,428,\d+ bytes; weights do not do that"):
        read_files(tmp_path / "a.zip")


@pytest.mark.parametrize("place", ["bundle", "bundle.zip"])
def test_sizes_are_checked_before_anything_is_read(tmp_path, monkeypatch, place):
    write_files(tmp_path / place, OLD)
    monkeypatch.setattr(bundle_files, "_MOST_BYTES", 50)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read"))
    with pytest.raises(BundleError, match=r"too large for an audit bundle: \d+ bytes"):
        read_files(tmp_path / place)


def test_only_bundles_are_replaced(tmp_path):
    write_files(tmp_path / "bundle", OLD)
    write_files(tmp_path / "bundle.zip", OLD)
    (tmp_path / "empty").mkdir()
    for name in ("bundle", "bundle.zip", "empty", "nothing", "nothing.zip"):
        check_replaceable(tmp_path / name)


def other_things(folder):
    """Everything that must never be overwritten, by name."""
    things = {
        "notes": {"notes.txt": b"mine"},
        "webapp": {MANIFEST: b'{"name": "a web page has one too"}'},
        "mixed": OLD | {"mine.txt": b"mine"},
        "hidden": OLD | {".git": b"mine"},
        "unsigned": dict(OLD, **{MANIFEST: b""}),
        "weights only": {WEIGHTS[0]: b"x"},
    }
    for name, files in things.items():
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)
    (folder / "file").write_bytes(b"mine")
    (folder / "folder.zip").mkdir()
    (folder / "photo.zip").write_bytes(b"\x89PNG")
    (folder / "photos.zip").write_bytes(archive(("a.png", b"x"), (MANIFEST, b"{}")))
    (folder / "more.zip").write_bytes(archive(*OLD.items(), ("mine.txt", b"mine")))
    return [*things, "file", "folder.zip", "photo.zip", "photos.zip", "more.zip"]


def contents(folder):
    return {path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def test_nothing_else_is_ever_overwritten(tmp_path):
    names = other_things(tmp_path)
    before = contents(tmp_path)
    audit = audit_of()
    for name in names:
        with pytest.raises(UsageError, match=r"Choose another name"):
            audit.save(tmp_path / name)
    assert contents(tmp_path) == before


OPERATIONS = [(Path, "write_bytes"), (Path, "mkdir"), (Path, "replace"), (zipfile.ZipFile, "writestr")]


class Interrupted(BaseException):
    """Like a KeyboardInterrupt, but surely ours."""


@pytest.mark.parametrize("place", ["bundle", "bundle.zip"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [OSError, Interrupted])
def test_an_error_at_any_point_leaves_the_old_bundle(tmp_path, monkeypatch, place, after, error):
    target = tmp_path / place
    write_files(target, OLD)
    steps = 0
    for failing in range(20):
        steps = 0
        with monkeypatch.context() as patch:
            for owner, name in OPERATIONS:
                original = getattr(owner, name)

                def counted(*args, original=original, failing=failing, **kwargs):
                    nonlocal steps
                    steps += 1
                    if steps == failing + 1 and not after:
                        raise error(28, "No space left on device")
                    result = original(*args, **kwargs)
                    if steps == failing + 1:
                        raise error(28, "No space left on device")
                    return result

                patch.setattr(owner, name, counted)
            try:
                write_files(target, NEW)
            except error:
                assert read_files(target) in ((OLD, NEW) if after else (OLD,))
                assert [entry.name for entry in tmp_path.iterdir()] == [place]
                continue
        break
    assert steps >= 4
    assert failing == steps
    assert read_files(target) == NEW


@pytest.mark.parametrize("place", ["a", "a.zip"])
def test_saving_twice_keeps_the_last(tmp_path, place):
    for n in (30, 40):
        audit_of(calibration=n).save(tmp_path / place)
    assert len(read(tmp_path / place).calibration.scores) == 40
    assert [entry.name for entry in tmp_path.iterdir()] == [place]


def test_a_lie_about_sizes_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *WEIGHTS):
            archive.writestr(name, b"\0" * 2**26)
    content = bytearray(path.read_bytes())
    # The size before packing, in every local and central header.
    content = content.replace((2**26).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            read_files(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
