"""Damaged and hostile bundles and submissions: an AmintError or a verdict, in bounded time, and nothing written.

The submissions are fuzzed by themselves in ``test_reader_fuzz_submissions.py``; here a sample of them goes the whole
way through ``amint.verify``. The facts of a bundle are fuzzed in ``test_fuzz_facts.py``.
"""

import hashlib
import json
import random
import struct
import zipfile

import pytest
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of
from fuzz_material import mutated, sound_submissions, watched
from reader_pictures import files_below

import amint
from amint import bundle_manifest
from amint.architecture import Architecture
from amint.bundle_files import MANIFEST, WEIGHTS
from amint.errors import AmintError, BundleError
from amint.loading import load

NAMES = (MANIFEST, *WEIGHTS)
TOY = Architecture("import", "audit_toys:ToyNet")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a bundle, by name."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sound") / "toy.amint"
    audit_of(calibration=199).save(path, preprocessing=PREPROCESSING, architecture=TOY)
    return {name: (path / name).read_bytes() for name in NAMES}


def as_folder(path, files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def as_zip(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def outcome(path):
    """ "read" or "refused"; anything else is a failure of the test."""
    before = files_below(path.parent)
    with watched():
        try:
            audit = load(path, model=ToyNet())
        except BundleError:
            result = "refused"
        else:
            assert audit.calibrated() is not None
            result = "read"
    assert files_below(path.parent) == before
    return result


def resealed(files, change=lambda manifest: None, text=None):
    """With every hash and checksum made anew: what somebody who knows the format can do."""
    manifest = json.loads(files[MANIFEST])
    manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in WEIGHTS}
    change(manifest)
    manifest["checksum"] = bundle_manifest._checksum(manifest)
    return files | {MANIFEST: json.dumps(manifest, indent=1).encode()}


@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_folders(tmp_path, sound, rounds):
    dice = random.Random(rounds)
    for _ in range(rounds):
        name = dice.choice(NAMES)
        damaged = mutated(sound[name], dice, sound[dice.choice(NAMES)])
        path = as_folder(tmp_path / "b", sound | {name: damaged})
        assert outcome(path) == ("refused" if damaged != sound[name] else "read")


@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_zips(tmp_path, sound, rounds):
    dice = random.Random(rounds)
    whole = {
        method: as_zip(tmp_path / "b.zip", sound, method).read_bytes()
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    }
    outcomes = []
    for _ in range(rounds):
        content = mutated(dice.choice([*whole.values()]), dice, dice.choice([*whole.values()]))
        (tmp_path / "b.zip").write_bytes(content)
        outcomes.append(outcome(tmp_path / "b.zip"))
    # Bytes that mean nothing, such as times, may differ.
    assert outcomes.count("refused") > rounds / 2


@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_weights_with_hashes_that_fit(tmp_path, sound, rounds):
    dice = random.Random(rounds)
    outcomes = []
    for _ in range(rounds):
        name = dice.choice(WEIGHTS)
        damaged = mutated(sound[name], dice, sound[dice.choice(WEIGHTS)])
        outcomes.append(outcome(as_folder(tmp_path / "b", resealed(sound | {name: damaged}))))
    assert outcomes.count("refused") > rounds / 4


def changed_somewhere(value, dice):
    """The same JSON with one value in it exchanged."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(sorted(value))
        if dice.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: changed_somewhere(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        return [*value[:at], changed_somewhere(value[at], dice), *value[at + 1 :]]
    return dice.choice(STRANGE)


STRANGE = [
    None, True, 0, -1, 1.5, 2**63, 10**30, -(10**300), 1e308, "", "x", "../../etc/passwd", "\0", "\ud800",
    "a" * 100_000, [], {}, [[]], [0] * 10_000, {"a": {}}, [10**9] * 4, "os:system", "audit_toys:ToyNet",
]  # fmt: skip


@pytest.mark.parametrize("rounds", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_strange_manifests_with_checksums_that_fit(tmp_path, sound, rounds):
    dice = random.Random(rounds)
    outcomes = []
    for _ in range(rounds):
        seed = dice.random()

        def change(manifest, seed=seed):
            strange = changed_somewhere(manifest, random.Random(seed))
            manifest.clear()
            manifest.update(strange if isinstance(strange, dict) else {})

        outcomes.append(outcome(as_folder(tmp_path / "b", resealed(sound, change))))
    assert outcomes.count("refused") > rounds / 4


def tensors_header(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def scores(dtype="F64", shape=(2,), offsets=(0, 16)):
    return {"scores": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        tensors_header(scores(), bytes(16), length=2**63),
        tensors_header(scores(), bytes(16), length=2**40),
        tensors_header(scores(shape=[2**62, 4]), bytes(16)),
        tensors_header(scores(shape=[-2]), bytes(16)),
        tensors_header(scores(shape=[2**64]), bytes(16)),
        tensors_header(scores(shape=[0]), bytes(0)),
        tensors_header(scores(shape=[0], offsets=(0, 0))),
        tensors_header(scores(shape=[1] * 1000, offsets=(0, 8)), bytes(8)),
        tensors_header(scores(offsets=(16, 0)), bytes(16)),
        tensors_header(scores(offsets=(0, 2**63)), bytes(16)),
        tensors_header(scores(dtype="F8_E8M0", offsets=(0, 2)), bytes(2)),
        tensors_header(scores(dtype="X"), bytes(16)),
        tensors_header(scores(), b"\xff" * 16),
        tensors_header(scores() | {"more": scores()["scores"]}, bytes(16)),
        tensors_header(scores() | {"__metadata__": {"a": "b" * 100_000}}, bytes(16)),
        tensors_header(b'{"scores":' * 2000),
        tensors_header(b"[" * 100_000),
        tensors_header(b'{"scores":{"dtype":"F64","shape":[NaN],"data_offsets":[0,16]}}', bytes(16)),
    ],
)
def test_headers_of_weights_that_lie(tmp_path, sound, content):
    for name in WEIGHTS:
        assert outcome(as_folder(tmp_path / "b", resealed(sound | {name: content}))) == "refused"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"NaN",
        b'{"format": NaN}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 100_000,
        b"\xff",
    ],
)
def test_manifests_that_are_none(tmp_path, sound, manifest):
    assert outcome(as_folder(tmp_path / "b", sound | {MANIFEST: manifest})) == "refused"
    assert outcome(as_zip(tmp_path / "b.zip", sound | {MANIFEST: manifest})) == "refused"


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../", "..\\", "C:\\", "a/b/../", "\x1b[31m/"])
def test_zipped_bundles_with_hostile_names(tmp_path, sound, prefix):
    folder = tmp_path / "in"
    folder.mkdir()
    before = files_below(tmp_path)
    as_zip(folder / "b.zip", {prefix + name: content for name, content in sound.items()})
    outcome(folder / "b.zip")
    (folder / "b.zip").unlink()
    assert files_below(tmp_path) == before


def test_a_zipped_bundle_of_10_000_members(tmp_path, sound):
    path = as_zip(tmp_path / "b.zip", {f"{i}": b"" for i in range(10_000)} | sound)
    assert outcome(path) == "read"
    assert outcome(as_zip(path, {f"{i}/{MANIFEST}": b"" for i in range(10_000)})) == "refused"


@pytest.mark.parametrize("rounds", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_any_submission_gets_a_verdict_or_a_reason(tmp_path, sound, rounds, capfd):
    path = as_folder(tmp_path / "toy.amint", sound)
    folder = tmp_path / "submitted"
    folder.mkdir()
    contents = sound_submissions(folder)
    dice = random.Random(rounds)
    outcomes = []
    for number in range(rounds):
        kind = dice.choice([*contents])
        submitted = folder / kind
        submitted.write_bytes(
            mutated(contents[kind], dice, contents[dice.choice([*contents])]) if number else contents[kind]
        )
        before = files_below(tmp_path)
        with watched():
            try:
                verdict = amint.verify(path, submitted, alpha=0.05, allow_import=[TOY.name])
                outcomes.append(verdict.decision)
            except AmintError as problem:
                outcomes.append(type(problem))
        assert files_below(tmp_path) == before
        submitted.unlink()
    assert "no evidence" in outcomes or "used" in outcomes
    assert capfd.readouterr() == ("", "")
