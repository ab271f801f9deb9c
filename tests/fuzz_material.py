"""Sound submissions, ways to damage them, and the watch that fuzzing is done under."""

import contextlib
import io
import resource
import signal
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from reader_pictures import content_of, encoded, make_tar, make_zip, picture

# Of processor time, which a busy machine does not stretch; and of the clock, for what waits instead of working.
_WORK, _WAIT = 20, 300
_MOST_GROWTH = 2**30


class _TooLongError(BaseException):
    """Not an Exception, so that nothing under test can swallow it."""


@contextlib.contextmanager
def watched():
    """Fails what takes too long or too much memory; a crash of the process fails by itself."""

    def stop(*_):
        raise _TooLongError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, _WORK)
    signal.setitimer(signal.ITIMER_REAL, _WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < _MOST_GROWTH


def mutated(content, dice, other):
    """``content`` with one to four injuries; ``other`` is what pieces are spliced in from."""
    content = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        dice.choice(_INJURIES)(content, dice, other)
    return bytes(content)


def _flip(content, dice, other):
    for _ in range(dice.choice((1, 3, 20))):
        if content:
            content[_place(content, dice)] ^= 1 << dice.randrange(8)


def _number(content, dice, other):
    at = _place(content, dice)
    form, values = dice.choice((("<H", (0, 0xFFFF)), ("<I", (0, 1, 2**31, 2**32 - 1)), ("<Q", (0, 2**63, 2**64 - 1))))
    number = struct.pack(form, dice.choice(values))
    content[at : at + len(number)] = number


def _cut(content, dice, other):
    del content[_place(content, dice) :]


def _remove(content, dice, other):
    at = _place(content, dice)
    del content[at : at + dice.choice((1, 7, 512, 4096))]


def _repeat(content, dice, other):
    at = _place(content, dice)
    content[at:at] = content[at : at + dice.choice((1, 30, 512, 4096))] * dice.choice((1, 2, 50))


def _splice(content, dice, other):
    at, start = _place(content, dice), dice.randrange(len(other))
    piece = other[start : start + dice.choice((4, 64, 2048))]
    content[at : at + dice.choice((0, len(piece)))] = piece


def _fill(content, dice, other):
    at, length = _place(content, dice), dice.choice((4, 64, 1024))
    content[at : at + length] = dice.choice((b"\0", b"\xff", b" ", b"9", b'"')) * length


_INJURIES = (_flip, _flip, _number, _number, _cut, _remove, _repeat, _splice, _fill)


def _place(content, dice):
    # Headers and directories, at the two ends, are where damage does most.
    limit = max(1, len(content))
    where = dice.random()
    if where < 0.3:
        return dice.randrange(min(100, limit))
    return limit - 1 - dice.randrange(min(100, limit)) if where < 0.5 else dice.randrange(limit)


def sound_submissions(folder):
    """Name -> bytes: one of each kind; the manifests list files that lie in ``folder``."""
    members = [(f"class {i % 2}/{i}.png", content_of(i)) for i in range(4)]
    for name, content in members:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    listed = "label,path\n" + "".join(f'{i},"{name}"\n' for i, (name, _) in enumerate(members))
    archives = {
        "stored.zip": _bytes(make_zip, members, zipfile.ZIP_STORED),
        "deflated.zip": _bytes(make_zip, members),
        "ustar.tar": _bytes(make_tar, members, format=tarfile.USTAR_FORMAT),
        "pax.tar": _bytes(make_tar, [("画/" * 100 + "x.png", content_of()), *members], format=tarfile.PAX_FORMAT),
        "gnu.tar": _bytes(make_tar, [("x" * 300, content_of()), *members], format=tarfile.GNU_FORMAT),
        "packed.tar.gz": _bytes(make_tar, members, "w:gz"),
        "packed.tar.bz2": _bytes(make_tar, members, "w:bz2"),
        "packed.tar.xz": _bytes(make_tar, members, "w:xz"),
    }
    tables = {
        f"{compression}.parquet": _table([content for _, content in members], compression)
        for compression in ("none", "snappy", "zstd", "gzip")
    }
    lists = {"comma.csv": listed.encode(), "tab.tsv": listed.replace(",", "\t").encode("utf-16")}
    pictures = {kind: encoded(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")}
    return archives | tables | lists | pictures


def _bytes(make, *arguments, **options):
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder) / "x", *arguments, **options).read_bytes()


def _table(contents, compression):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(contents)], kind)
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": list(range(len(contents)))}), stream, 2, compression=compression)
    return stream.getvalue()
