"""The same file gets the same score in any batch, order or run, and no file is judged twice."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of, images, write_pictures
from PIL import Image
from torch.utils.data import TensorDataset

from amint.architecture import Architecture
from amint.audit import Audit
from amint.errors import UsageError
from amint.heads import new_head
from amint.loading import load
from amint.verification import verify

TOY = Architecture("import", "audit_toys:ToyNet")


def small_audit(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, in_chans=3).eval()
    points, head, shape = new_head(model, "entry", images(2, shape=(3, 32, 32)), 0)
    return Audit(model, points, head, shape)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv1_100", "densenet121", "convnext_atto", "efficientnet_b0"])
def test_a_row_reads_the_same_to_the_last_bit_whatever_comes_with_it(name):
    audit, x = small_audit(name), images(37, shape=(3, 32, 32))
    together = audit.read(x)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    shuffled = audit.read(x[order])
    alone = [audit.read(row[None]) for row in x[:3]]
    for column in ("scores", "confidence", "classes"):
        assert np.array_equal(getattr(together, column)[order.numpy()], getattr(shuffled, column))
        assert [getattr(one, column)[0] for one in alone] == getattr(together, column)[:3].tolist()


def saved(tmp_path):
    return audit_of().save(tmp_path / "toy.amint", preprocessing=PREPROCESSING, architecture=TOY)


def same(one, other):
    return [(i.path, i.decision, i.score, i.p_value, i.note, i.copy_of, i.confidence) for i in one.items] == [
        (i.path, i.decision, i.score, i.p_value, i.note, i.copy_of, i.confidence) for i in other.items
    ] and (one.tests, one.controls, one.decision) == (other.tests, other.controls, other.decision)


def test_batch_size_and_journal_make_no_difference(tmp_path):
    bundle, folder = saved(tmp_path), write_pictures(tmp_path / "pictures", 23)
    (folder / "005 broken.png").write_text("text")
    plain = verify(bundle, folder, alpha=0.05, allow_import=[TOY.name])
    for options in ({"batch_size": 1}, {"batch_size": 7, "journal": tmp_path / "journal.jsonl"}, {"batch_size": 500}):
        assert same(plain, verify(bundle, folder, alpha=0.05, allow_import=[TOY.name], **options))
    # Everything stands in the journal, so nothing is opened any more while the files look unchanged.
    for path in folder.iterdir():
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = verify(bundle, folder, alpha=0.05, allow_import=[TOY.name], journal=tmp_path / "journal.jsonl")
    assert same(plain, again)


def change(folder):
    """Files changed, gone, mended, exchanged for a link and added, after they were judged."""
    (folder / "000.png").unlink()
    shutil.copy(folder / "002.png", folder / "001.png")
    shutil.copy(folder / "004.png", folder / "005 broken.png")
    (folder / "006.png").write_text("no picture any more")
    (folder / "007.png").unlink()
    (folder / "007.png").symlink_to("missing.png")
    os.utime(folder / "008.png", ns=(5, 5))
    write_pictures(folder / "more", 2, seed=6)


class Interrupted(Exception):
    pass


def test_a_journal_of_other_weights_is_not_used(tmp_path):
    folder, journal = write_pictures(tmp_path / "pictures", 23), tmp_path / "journal.jsonl"
    audit = load(saved(tmp_path), allow_import=[TOY.name])
    before = verify(audit, folder, alpha=0.05, journal=journal)
    with torch.no_grad():
        next(audit.head.parameters()).mul_(-3)
    audit.calibrate(images(99, seed=77))
    plain = verify(audit, folder, alpha=0.05)
    assert [item.score for item in plain.items] != [item.score for item in before.items]
    assert [item.score for item in verify(audit, folder, alpha=0.05, journal=journal).items] == [
        item.score for item in plain.items
    ]


@pytest.mark.parametrize("kind", ["folder", "manifest"])
@pytest.mark.parametrize("finished", [False, True])
def test_what_a_journal_says_of_files_that_changed_is_not_used(tmp_path, kind, finished):
    bundle, folder, journal = saved(tmp_path), write_pictures(tmp_path / "pictures", 23), tmp_path / "journal.jsonl"
    (folder / "005 broken.png").write_text("text")
    submitted = folder
    if kind == "manifest":
        submitted = tmp_path / "list.csv"
        names = [f"pictures/{path.name}" for path in sorted(folder.iterdir())]
        submitted.write_text("\n".join(["path", *names, "pictures/more/000.png"]))

    def stop(done, total):
        if done >= 15 and not finished:
            raise Interrupted

    options = {"alpha": 0.05, "allow_import": [TOY.name]}
    try:
        verify(bundle, submitted, **options, batch_size=4, journal=journal, progress=stop)
    except Interrupted:
        assert not finished
    change(folder)
    plain = verify(bundle, submitted, **options)
    seen = []
    resumed = verify(bundle, submitted, **options, journal=journal, progress=lambda *n: seen.append(n))
    assert same(plain, resumed)
    for item in resumed.judged:
        path = folder.parent / item.path if kind == "manifest" else folder / item.path
        assert item.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen[-1] == (len(resumed.items), len(resumed.items))
    # The journal holds lines of both times now, and those of today are the ones that count.
    lines = journal.read_bytes()
    assert same(plain, verify(bundle, submitted, **options, journal=journal))
    assert journal.read_bytes() == lines, "nothing is judged a third time"


SLOWLY = """
import sys, time
sys.path.insert(0, sys.argv[1])
from amint.verification import verify
def slow(done, total):
    time.sleep(0.2)
verify(sys.argv[2], sys.argv[3], alpha=0.05, allow_import=["audit_toys:ToyNet"], batch_size=2, journal=sys.argv[4],
       progress=slow)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    bundle, folder, journal = saved(tmp_path), write_pictures(tmp_path / "pictures", 40), tmp_path / "journal.jsonl"
    plain = verify(bundle, folder, alpha=0.05, allow_import=[TOY.name])
    arguments = [str(Path(__file__).parent), str(bundle), str(folder), str(journal)]
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *arguments])
    try:
        for _ in range(600):
            time.sleep(0.1)
            if journal.exists() and journal.read_bytes().count(b"\n") >= 8:
                break
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    judged = journal.read_bytes().count(b"\n") - 1
    assert 7 <= judged < 40
    seen = []
    resumed = verify(
        bundle, folder, alpha=0.05, allow_import=[TOY.name], journal=journal, progress=lambda *n: seen.append(n)
    )
    assert same(plain, resumed)
    assert seen[0][0] > judged


PIXELS = (images(12) * 40 + 128).clamp(0, 255)
REFUSED = {
    "uint8": (PIXELS.byte(), r"does not take inputs of torch\.uint8: .* floating-point numbers first"),
    "int64": (PIXELS.long(), r"does not take inputs of torch\.int64"),
    "bool": (PIXELS > 128, r"does not take inputs of torch\.bool"),
    "complex": (PIXELS.to(torch.complex64), r"does not take inputs of torch\.complex64"),
    "a dataset of uint8": (TensorDataset(PIXELS.byte(), torch.zeros(12)), r"does not take inputs of torch\.uint8"),
    "a number": (torch.tensor(1.0), r"expected inputs, a tensor \[n, \.\.\.\] .* a single number"),
    "batches of a number": (iter([torch.tensor(1.0)]), r"expected inputs, a tensor \[n, \.\.\.\] .* a single number"),
    "pictures": ([Image.new("RGB", (16, 16))], r"do not make a batch: .*PIL.*\. Expected preprocessed inputs"),
    "labelled pictures": ([(Image.new("RGB", (16, 16)), 1)], r"do not make a batch: .*PIL.*amint\.Preprocessing"),
    "rows of two shapes": (
        [images(1)[0], images(1, shape=(3, 8, 8))[0]],
        "not make a batch: .*tensors of one shape",
    ),
    "inputs by name": ({"image": images(12)}, r"found one dict with the keys \['image'\]; pass the inputs in it"),
    "samples without a tensor": ([{"name": "a"}, {"name": "b"}], "yielded dict; expected a tensor of inputs"),
    "paths": (["a.png", "b.png"], "yielded list; expected a tensor of inputs"),
}


@pytest.mark.parametrize("submitted, wrong", REFUSED.values(), ids=REFUSED)
def test_what_is_no_input_is_refused_with_what_to_pass(submitted, wrong):
    with pytest.raises(UsageError, match=wrong):
        verify(audit_of(), submitted, alpha=0.05)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_batch_sizes_that_cannot_be(size):
    with pytest.raises(UsageError, match=f"batch_size must be a whole number of at least 1, found {size!r}"):
        verify(audit_of(), images(5), alpha=0.05, batch_size=size)


def test_numbers_of_any_kind_are_taken_where_the_model_takes_them():
    class OfPixels(ToyNet):
        def forward(self, x):
            return super().forward(x.float() / 255)

    audit = audit_of(OfPixels())
    assert np.array_equal(audit.read(PIXELS.byte()).scores, audit.read(PIXELS.floor()).scores)
    assert len(verify(audit, PIXELS.byte(), alpha=0.05).judged) == 12
    rows = dict(enumerate(images(12)))
    assert len(verify(audit, rows, alpha=0.05).judged) == 12, "a dataset, too"


def test_a_model_that_is_no_classifier_is_judged_by_its_head_alone():
    class Regressor(ToyNet):
        def forward(self, x):
            return super().forward(x)[:, :1]

    verdict = verify(audit_of(Regressor()), images(30), alpha=0.05)
    assert [test.name for test in verdict.tests] == ["MINT head"]
    assert verdict.items[0].predicted is None
