import errno
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from reader_pictures import SMALL, content_of, make_tar, make_zip

from amint.errors import UsageError
from amint.journal import Header, Journal, Judged, Refused, submission_identity
from amint.readers import images, open_submission

HEADER = Header("ab" * 32, "/submissions/one", "0.1.0")


def judged(number, **changed):
    row = Judged(
        path=f'class {number}/画"像.png',
        sha256=f"{number:064x}",
        score=0.1 + number / 3,
        mark=-(2**63) + number,
        note="transparency dropped" if number % 2 else "",
        look=2**63 - 1 - number if number % 3 else None,
        confidence=-number / 7 if number % 2 else None,
        predicted=number if number % 2 else None,
        blind=np.random.default_rng(number).bytes(number * 5),
        properties=(1.0, 0.1 * number, 5e-324, 1.7976931348623157e308),
        stamp=f"{number} 1700000000000000000" if number % 2 else "",
    )
    return replace(row, **changed)


SOUND = (
    b'{"path":"x","sha256":null,"score":0.5,"mark":1,"note":"","look":null,"confidence":null,"predicted":null,'
    b'"blind":"","properties":[]}'
)


def judged_in(journal):
    return tuple(line for line in journal.found() if isinstance(line, Judged))


def refused_in(journal):
    return tuple(line for line in journal.found() if isinstance(line, Refused))


def written(path, n=5, header=HEADER):
    with Journal.open(path, header) as journal:
        for number in range(n):
            journal.append([judged(number)], [Refused(f"bad {number}", "damaged: \x1b\n")] if number % 2 else [])
    return path.read_bytes()


def test_what_was_appended_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "journal.jsonl"
    written(path)
    with Journal.open(path, HEADER) as journal:
        assert judged_in(journal) == tuple(judged(number) for number in range(5))
        assert refused_in(journal) == tuple(Refused(f"bad {number}", "damaged: \x1b\n") for number in (1, 3))
        assert journal.done == {row.path for row in (*judged_in(journal), *refused_in(journal))}
        journal.append([judged(5)])
    with Journal.open(path, HEADER) as journal:
        assert judged_in(journal) == tuple(judged(number) for number in range(6))


def test_every_line_is_json_and_the_first_says_what_it_belongs_to(tmp_path):
    lines = [json.loads(line) for line in written(tmp_path / "journal").splitlines()]
    assert lines[0] == {
        "format": "amint-journal 1",
        "judge": "ab" * 32,
        "submission": "/submissions/one",
        "version": "0.1.0",
    }
    assert [sorted(line) for line in lines[1:3]] == [
        sorted(field.name for field in fields(Judged)),
        sorted(field.name for field in fields(Judged)),
    ]
    assert lines[3] == {"path": "bad 1", "reason": "damaged: \x1b\n", "stamp": ""}


def test_the_line_that_is_damaged_below_is_sound(tmp_path):
    content = written(tmp_path / "journal") + SOUND + b"\n"
    (tmp_path / "journal").write_bytes(content)
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        assert judged_in(journal)[-1] == Judged("x", None, 0.5, 1)


def test_numbers_of_numpy(tmp_path):
    row = judged(1, score=np.float32(0.1), mark=np.int64(-5), look=np.int64(7), properties=(np.float32(0.3), 2))
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        journal.append([row])
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        assert judged_in(journal) == (row,)
        assert [type(value) for value in judged_in(journal)[0].properties] == [float, float]


@pytest.mark.parametrize("field", ["judge", "submission", "version"])
def test_a_journal_of_something_else_is_started_anew(tmp_path, field):
    written(tmp_path / "journal")
    other = replace(HEADER, **{field: "other"})
    with Journal.open(tmp_path / "journal", other) as journal:
        assert journal.done == frozenset()
        journal.append([judged(7)])
    with Journal.open(tmp_path / "journal", other) as journal:
        assert judged_in(journal) == (judged(7),)


def test_torn_at_any_byte(tmp_path):
    path = tmp_path / "journal"
    whole = written(path)
    rows = [json.loads(line)["path"] for line in whole.splitlines()[1:]]
    for length in (*range(0, len(whole), 13), *range(len(whole) - 40, len(whole))):
        path.write_bytes(whole[:length])
        complete = max(0, whole[:length].count(b"\n") - 1)
        with Journal.open(path, HEADER) as journal:
            assert len(journal.done) == complete
            assert journal.done == frozenset(rows[:complete])
            journal.append([judged(99)])
        with Journal.open(path, HEADER) as journal:
            assert len(journal.done) == complete + 1
            assert judged_in(journal)[-1] == judged(99)


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 50,
        b"{}",
        b"[]",
        b"5",
        b'"reason"',
        b"null",
        b'{"path": "x"}',
        b'{"path": 5, "reason": "x"}',
        b'{"path": "x", "reason": "x", "stamp": 5}',
        b'{"path": "x", "reason": "x", "more": 1}',
        *(
            json.dumps({**json.loads(SOUND), **change}).encode()
            for change in (
                {"score": float("nan")},
                {"score": 1},
                {"score": None},
                {"confidence": float("-inf")},
                {"confidence": "x"},
                {"mark": True},
                {"mark": None},
                {"sha256": 5},
                {"look": 1.0},
                {"blind": "no base 64"},
                {"blind": 5},
                {"properties": ["a"]},
                {"properties": [1]},
                {"properties": 5},
                {"stamp": 5},
                {"stamp": None},
                {"more": 5},
            )
        ),
        SOUND.replace(b"0.5", b"1e999"),
        SOUND[:-1],
        b"[" * 100_000,
        b"9" * 10_000,
        b"\xff\xfe",
    ],
)
def test_from_a_damaged_line_on_files_are_judged_again(tmp_path, line):
    path = tmp_path / "journal"
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], line + b"\n", *lines[3:]]))
    with Journal.open(path, HEADER) as journal:
        assert judged_in(journal) == (judged(0), judged(1))
        assert refused_in(journal) == ()
    assert path.read_bytes() == b"".join(lines[:3])


@pytest.mark.parametrize("content", [b"precious\n", b"{}\n", b"\0", b'{"format":"amint-journal 2"}\n'])
def test_other_files_are_never_replaced(tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(UsageError, match="something else than a journal"):
        Journal.open(tmp_path / "journal", HEADER)
    assert (tmp_path / "journal").read_bytes() == content


def test_a_place_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "journal"):
        with pytest.raises(UsageError, match=r"cannot be written: .*; choose another"):
            Journal.open(path, HEADER)


@pytest.mark.parametrize(
    "field, value", [("score", float("nan")), ("confidence", float("-inf")), ("properties", (float("inf"),))]
)
def test_numbers_that_are_not_finite_are_refused_whole(tmp_path, field, value):
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        with pytest.raises(UsageError, match="finite"):
            journal.append([judged(0), judged(1, **{field: value})])
        journal.append([judged(2)])
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        assert judged_in(journal) == (judged(2),)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_runs_do_not_write_one_journal(tmp_path):
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        journal.append([judged(0)])
        with pytest.raises(UsageError, match="another run is judging"):
            Journal.open(tmp_path / "journal", replace(HEADER, version="2"))
        journal.append([judged(1)])
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        assert len(judged_in(journal)) == 2


def test_discarded_once_the_verdict_is_written(tmp_path):
    written(tmp_path / "journal")
    for _ in range(2):
        Journal.discard(tmp_path / "journal")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_a_sound_journal(tmp_path):
    resource = pytest.importorskip("resource")
    size = len(written(tmp_path / "journal"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Journal.open(tmp_path / "journal", HEADER) as journal:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
            with pytest.raises(OSError) as problem:
                journal.append([judged(8), judged(9)])
            assert problem.value.errno == errno.EFBIG
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            journal.append([judged(10)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    with Journal.open(tmp_path / "journal", HEADER) as journal:
        assert judged_in(journal) == tuple(judged(number) for number in (0, 1, 2, 3, 4, 10))


def test_which_submission_a_path_means(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    assert submission_identity(tmp_path / "folder") == submission_identity(tmp_path / "link")
    path = make_zip(tmp_path / "x.zip", [("a.png", content_of(1))])
    before = submission_identity(path)
    assert before == submission_identity(str(path))
    os.utime(path, ns=(0, 0))
    assert submission_identity(path) != before
    with pytest.raises(FileNotFoundError):
        submission_identity(tmp_path / "missing")


def judge_into(submission, path, opened, pause=0.0):
    """Judge with a stand-in for a score; ``opened`` gets a line for every file that is decoded."""
    real = images.decode

    def decode(content, *rest):
        with Path(opened).open("a") as file:
            print(hashlib.sha256(content).hexdigest(), file=file)
        return real(content, *rest)

    images.decode = decode
    try:
        with Journal.open(path, Header("bundle", submission_identity(submission), "1")) as journal:
            reader = open_submission(submission, SMALL, batch_size=3, skip=journal.done)
            noted = 0
            for batch in itertools.chain(reader, [None]):
                rejected = [Refused(row.path, row.reason) for row in reader.rejected[noted:]]
                noted += len(rejected)
                rows = [] if batch is None else zip(batch.rows, batch.tensor, strict=True)
                journal.append([looked_at(row, x) for row, x in rows], rejected)
                sys.stdout.write("batch\n")
                sys.stdout.flush()
                time.sleep(pause)
    finally:
        images.decode = real


def looked_at(row, x):
    return Judged(row.path, row.sha256, float(x.sum()), 5, row.note, properties=row.properties.as_numbers())


def rows_of(path, submission):
    with Journal.open(path, Header("bundle", submission_identity(submission), "1")) as journal:
        return judged_in(journal), refused_in(journal)


@pytest.mark.parametrize("kind", ["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tar", "zip"))])
def test_killed_and_resumed_gives_the_rows_of_an_undisturbed_run(tmp_path, kind):
    members = [(f"{i:02}.png", content_of(i) if i % 5 else b"no picture %d" % i) for i in range(31)]
    submission = tmp_path / "submission"
    if kind == "folder":
        submission.mkdir()
        for name, content in members:
            (submission / name).write_bytes(content)
    else:
        (make_tar if kind == "tar" else make_zip)(submission, members)
    judge_into(submission, tmp_path / "whole", tmp_path / "whole.log")
    judged_, refused = expected = rows_of(tmp_path / "whole", submission)
    assert (len(judged_), len(refused)) == (24, 7)

    dice = random.Random(kind)
    for batches in (3, 2):
        script = "import sys, test_journal; test_journal.judge_into(*sys.argv[1:4], pause=0.1)"
        command = [sys.executable, "-c", script, submission, tmp_path / "torn", tmp_path / "torn.log"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
            for _ in range(batches):
                assert run.stdout.readline() == "batch\n"
            time.sleep(0.15 * dice.random())
            run.send_signal(signal.SIGKILL)
        done = rows_of(tmp_path / "torn", submission)
        assert done[0] == judged_[: len(done[0])] != judged_
    judge_into(submission, tmp_path / "torn", tmp_path / "torn.log")
    assert rows_of(tmp_path / "torn", submission) == expected
    # A kill loses the batch under work, never what was noted down.
    opened = (tmp_path / "torn.log").read_text().split()
    assert len(members) <= len(opened) <= len(members) + 2 * 8
    assert set(opened) == set((tmp_path / "whole.log").read_text().split())
