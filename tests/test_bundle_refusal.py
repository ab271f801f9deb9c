import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amint import bundle, bundle_manifest
from amint.architecture import Architecture
from amint.bundle_files import MANIFEST, WEIGHTS, write_files
from amint.errors import BundleError
from amint.loading import load

NAMES = (MANIFEST, *WEIGHTS)
OFTEN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a bundle."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sound") / "a"
    audit_of().save(path, preprocessing=PREPROCESSING, architecture=Architecture("import", "audit_toys:ToyNet"))
    return {name: (path / name).read_bytes() for name in NAMES}


def forged(files, change, checked=True):
    """The bundle with another manifest, its checksum made anew: what somebody who knows the format can do."""
    manifest = json.loads(files[MANIFEST])
    change(manifest)
    if checked:
        manifest["checksum"] = bundle_manifest._checksum(manifest)
    return files | {MANIFEST: json.dumps(manifest, indent=1).encode()}


def with_file(files, name, content):
    def repin(manifest):
        manifest["files"][name] = hashlib.sha256(content).hexdigest()

    return forged(files | {name: content}, repin)


def refusal(tmp_path, files):
    write_files(tmp_path / "b", files)
    with pytest.raises(BundleError) as caught:
        load(tmp_path / "b", model=ToyNet())
    return str(caught.value)


def test_the_sound_one_is_not_refused(tmp_path, sound):
    for number, files in enumerate((sound, forged(sound, lambda manifest: None))):
        write_files(tmp_path / str(number), files)
        load(tmp_path / str(number), model=ToyNet())


@OFTEN
@given(data=st.data(), mask=st.integers(1, 255), name=st.sampled_from(NAMES))
def test_no_byte_can_be_changed(tmp_path, sound, data, mask, name):
    content = bytearray(sound[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= mask
    write_files(tmp_path / "b", sound | {name: bytes(content)})
    with pytest.raises(BundleError):
        bundle.read(tmp_path / "b")


def test_no_byte_of_the_manifest_can_be_changed_to_any_other(tmp_path, sound):
    content = sound[MANIFEST]
    for position in range(len(content)):
        for value in {0x00, 0x20, 0x09, 0x0A, 0x30, 0x39, 0x45, 0x65, content[position] ^ 0x20} - {content[position]}:
            changed = content[:position] + bytes([value]) + content[position + 1 :]
            with pytest.raises(BundleError):
                bundle_manifest.parse_manifest(tmp_path, changed)


@OFTEN
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_no_file_can_be_cut_short_or_grow(tmp_path, sound, data, name):
    content = sound[name]
    length = data.draw(st.integers(0, len(content) - 1))
    for changed in (content[:length], content + content[:length] + b" "):
        write_files(tmp_path / "b", sound | {name: changed})
        with pytest.raises(BundleError):
            bundle.read(tmp_path / "b")


@OFTEN
@given(data=st.data(), mask=st.integers(1, 255))
def test_a_damaged_archive_is_refused_or_holds_the_same(tmp_path, sound, data, mask):
    write_files(tmp_path / "b.zip", sound)
    content = bytearray((tmp_path / "b.zip").read_bytes())
    # Most of the bytes are weights; the structure around them is where an archive breaks in other ways.
    ends = st.integers(len(content) - 500, len(content) - 1) | st.integers(0, 60)
    content[data.draw(ends | st.integers(0, len(content) - 1))] ^= mask
    (tmp_path / "b.zip").write_bytes(bytes(content))
    try:
        found = bundle.read(tmp_path / "b.zip").sha256
    except BundleError:
        return
    finally:
        (tmp_path / "b.zip").unlink()
    assert found == hashlib.sha256(sound[MANIFEST]).hexdigest()


def test_every_field_is_guarded(tmp_path, sound):
    manifest = json.loads(sound[MANIFEST])
    for field in manifest:
        for change in (lambda m, f=field: m.pop(f), lambda m, f=field: m.update({f: "other"})):
            assert refusal(tmp_path, forged(sound, change, checked=False))
    assert "lacks or adds fields: ['more']" in refusal(tmp_path, forged(sound, lambda m: m.update(more=1)))
    assert "lacks or adds fields: ['probe']" in refusal(tmp_path, forged(sound, lambda m: m.pop("probe")))


def test_the_same_values_in_other_bytes_are_an_edit(tmp_path, sound):
    manifest = json.loads(sound[MANIFEST])
    fields = list(manifest.items())
    texts = [json.dumps(manifest), json.dumps(manifest, indent=2), json.dumps(manifest, indent=1, sort_keys=True)]
    texts += [json.dumps(dict(fields[i:] + fields[:i]), indent=1) for i in range(1, len(fields))]
    texts += [sound[MANIFEST].decode() + "\n", "\ufeff" + sound[MANIFEST].decode()]
    twice = sound[MANIFEST].decode().replace('"version": 2,', '"version": 1,\n "version": 2,')
    for text in [*texts, twice]:
        assert "edited or damaged: its checksum does not fit" in refusal(tmp_path, sound | {MANIFEST: text.encode()})
    assert "edited or damaged" in refusal(tmp_path, sound | {MANIFEST: sound[MANIFEST].decode().encode("utf-16")})


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"{" * 100_000, "not JSON"),
        (b"[" * 500 + b"]" * 500, "not an audit bundle: its manifest does not say so"),
        (b'{"format": "amint-bundle", "version": ' + b"1" * 5_000 + b"}", "not JSON"),
        (b"null", "its manifest does not say so"),
        (b'["amint-bundle"]', "its manifest does not say so"),
        (b'{"format": "other"}', "its manifest does not say so"),
        (b'{"format": "amint-bundle", "version": 1}', "version 1, this amint reads version 2; use the amint"),
        (b'{"format": "amint-bundle"}', "version None"),
        (b'{"format": "amint-bundle", "version": 2}', "lacks or adds fields"),
    ],
)
def test_manifests_that_are_none(tmp_path, sound, text, reason):
    assert reason in refusal(tmp_path, sound | {MANIFEST: text})


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
def test_numbers_that_are_not_finite(tmp_path, sound, number):
    text = sound[MANIFEST].replace(b'"pool": 4', b'"pool": ' + number)
    assert text != sound[MANIFEST]
    assert "numbers that are not finite" in refusal(tmp_path, sound | {MANIFEST: text})


def test_a_manifest_too_deep_to_check(tmp_path, sound):
    deep = b"[" * 900 + b"]" * 900
    text = sound[MANIFEST].replace(b'"method": "toy"', b'"method": ' + deep)
    reason = refusal(tmp_path, sound | {MANIFEST: text})
    assert "nested too deeply" in reason or "edited" in reason or "not JSON" in reason


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(manifest):
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


IMPOSSIBLE = [
    (put("input_shape", []), "MINT head|preprocessing makes inputs of"),
    (put("input_shape", [3, 16, 0]), "the shape of an input is"),
    (put("input_shape", [3, 16, -16]), "the shape of an input is"),
    (put("input_shape", [3, 16, 16.0]), "the shape of an input is"),
    (put("input_shape", [3, 16, True]), "the shape of an input is"),
    (put("input_shape", [3, 10**6, 10**6]), "the shape of an input is"),
    (put("input_shape", [3, 10**4000, 1]), "the shape of an input is"),
    (put("input_shape", [3, 32, 32]), "the preprocessing makes inputs of 3 x 16 x 16, but the model takes 3 x 32 x 32"),
    (put("input_shape", 5), "not a usable audit bundle"),
    (put("split", []), "does not read what its taps give"),
    (put("split", 0, "shape", [8, 8, 9]), "does not read what its taps give"),
    (put("split", 0, "shape", "x"), "not a usable audit bundle"),
    (put("split", 0, "cost", 10**400), "not a usable audit bundle"),
    (put("split", 0, "name", "nowhere"), "no module 'nowhere'"),
    (put("split", 0, {}), "not a usable audit bundle: KeyError"),
    (put("head", "width", [32, 10**9]), "not a description of a MINT head"),
    (put("head", "hidden", 64), "do not fit this model"),
    (put("head", "pool", 0), "not a description of a MINT head"),
    (put("head", None), "not a description of a MINT head"),
    (put("preprocessing", "size", [16, 17]), "the preprocessing makes inputs of 3 x 16 x 17"),
    (put("preprocessing", "channels", 1), "preprocessing|mean"),
    (put("preprocessing", "mean", ["x", 0, 0]), "mean"),
    (put("preprocessing", "std", [0, 0, 0]), "std must be above 0"),
    (put("preprocessing", 3), "preprocessing must be an object"),
    (put("architecture", {"library": "pip", "name": "x", "arguments": {}}), "library must be one of"),
    (put("architecture", {"library": "timm", "name": "x", "arguments": {"checkpoint_path": "x"}}), "checkpoint_path"),
    (put("architecture", "resnet18"), "not a description of an architecture"),
    (put("facts", []), "facts or libraries are not named values"),
    (put("libraries", "torch"), "facts or libraries are not named values"),
    (put("libraries", "torch", 2), "the version of a library, is not a text"),
    (put("created", None), "the time it was made at"),
    (put("facts", "controls", None), "the fact 'controls' is not what amint writes: expected a list"),
    (put("facts", "commitment", {}), "the fact 'commitment' is not what amint writes"),
    (put("facts", "steps", True), "the fact 'steps' is not what amint writes: expected a number"),
    (put("probe", {}), r"its probe holds \[\] instead of scores and outputs"),
    (put("probe", "scores", []), "the scores of its probe are not numbers"),
    (put("probe", "outputs", ["a"]), "the outputs of its probe are not numbers"),
    (put("probe", "outputs", None), "the outputs of its probe are not numbers"),
    (put("probe", "scores", [0.5]), "does not compute what the saved one did"),
    (put("probe", "scores", [1e3, 1e3]), "does not compute what the saved one did"),
    (put("files", []), "lacks or adds fields"),
    (put("files", {}), "model.safetensors .* damaged or was exchanged"),
]


@pytest.mark.parametrize("number", range(len(IMPOSSIBLE)))
def test_impossible_values_under_a_valid_checksum(tmp_path, sound, number):
    change, reason = IMPOSSIBLE[number]
    write_files(tmp_path / "b", forged(sound, change))
    with pytest.raises(BundleError, match=reason):
        load(tmp_path / "b", model=ToyNet())


def test_weights_of_another_model(tmp_path, sound):
    torch.manual_seed(1)
    other = audit_of(seed=8).save(tmp_path / "other")
    for name in WEIGHTS[:2]:
        content = (other / name).read_bytes()
        assert f"{name} in " in (reason := refusal(tmp_path, sound | {name: content}))
        assert "damaged or was exchanged: its SHA-256 is not the manifest's" in reason
        assert "does not compute what the saved one did" in refusal(tmp_path, with_file(sound, name, content))


def columns(scores=(0.5, 0.1, 0.9), **others):
    n = len(scores)
    made = {"scores": torch.tensor(scores, dtype=torch.float64), "marks": torch.arange(n), "blind": torch.zeros(n, 2)}
    return {name: column for name, column in (made | others).items() if column is not None}


def test_calibration_rows_that_a_bundle_repeats_count_once(tmp_path, sound, caplog):
    held = safetensors.torch.load(sound["calibration.safetensors"])
    twice = {name: torch.cat([column, column[10:40]]) for name, column in held.items()}
    content = safetensors.torch.save(twice)
    write_files(tmp_path / "b", with_file(sound, "calibration.safetensors", content))
    loaded = load(tmp_path / "b", model=ToyNet())
    assert len(loaded.calibrated().scores) == len(loaded.bundle.calibration.scores) == 49
    assert loaded.records.marks.tolist() == held["marks"].tolist()
    assert "30 of 79 calibration rows are exact copies" in caplog.text


def test_comparing_by_class_takes_classes(tmp_path, sound):
    held = safetensors.torch.load(sound["calibration.safetensors"])
    bare = {name: column for name, column in held.items() if name not in ("classes", "confidence")}
    files = with_file(sound, "calibration.safetensors", safetensors.torch.save(bare))
    write_files(tmp_path / "sound", files)
    assert load(tmp_path / "sound", model=ToyNet()).records.classes is None
    assert "'by_class' asks for classes" in refusal(tmp_path, forged(files, put("facts", "by_class", True)))


@pytest.mark.parametrize(
    "tensors, reason",
    [
        ({}, "lack ['scores', 'marks', 'blind']"),
        (columns(marks=None), "lack ['marks']"),
        (columns(()), "calibration scores are empty"),
        (columns((float("nan"),)), "NaN or infinity"),
        (columns() | {"scores": torch.zeros(3, 3, dtype=torch.float64)}, "scores is torch.float64 of 2 dimensions"),
        (columns() | {"scores": torch.zeros(3, dtype=torch.bfloat16)}, "scores is torch.bfloat16"),
        (columns(marks=torch.arange(2)), "must have one length"),
        (columns(surprise=torch.arange(3)), "no columns ['surprise']"),
    ],
)
def test_calibration_records_that_are_none(tmp_path, sound, tensors, reason):
    files = with_file(sound, "calibration.safetensors", safetensors.torch.save(tensors))
    assert reason in refusal(tmp_path, files)


@pytest.mark.parametrize(
    "tensors, reason",
    [
        ({"external_hashes": torch.arange(3)}, "one fingerprint for each perceptual hash"),
        ({"external_marks": torch.zeros(3)}, "external_marks is torch.float32"),
        ({"member_scores": torch.full((2,), float("inf"), dtype=torch.float64)}, "NaN or infinity"),
    ],
)
def test_training_records_that_are_none(tmp_path, sound, tensors, reason):
    files = with_file(sound, "training.safetensors", safetensors.torch.save(tensors))
    assert reason in refusal(tmp_path, files)


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("by_torch", [False, True])
def test_no_pickle_is_read(tmp_path, sound, name, by_torch):
    torch.save({"weight": Marks(tmp_path / "marker")}, tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes() if by_torch else pickle.dumps(Marks(tmp_path / "marker"))
    assert "not a usable audit bundle" in refusal(tmp_path, with_file(sound, name, content))
    assert not (tmp_path / "marker").exists()


LOADS_NOTHING_ELSE = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if event in ("pickle.find_class", "exec") else None)
import amint.loading, amint.bundle, audit_toys
seen.clear()
amint.loading.load(sys.argv[1], model=audit_toys.ToyNet())
amint.bundle.read(sys.argv[1])
print(sorted({event for event, _ in seen}))
try:
    amint.loading.load(sys.argv[1])
except amint.AmintError as error:
    print(type(error).__name__, "marking" in sys.modules)
"""


def test_no_code_is_run_unless_the_caller_allows_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "marking.py").write_text(
        "from pathlib import Path\nfrom audit_toys import ToyNet\nPath(__file__).with_name('marker').touch()\n"
    )
    path = audit_of().save(tmp_path / "a", architecture=Architecture("import", "marking:ToyNet"))
    (tmp_path / "marker").unlink()
    del sys.modules["marking"]
    places = f"{tmp_path}:{Path(__file__).parent}"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOADS_NOTHING_ELSE, path],
        env={"PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == ["[]", "BundleError False"]
    assert not (tmp_path / "marker").exists()
    load(path, allow_import=["marking:ToyNet"])
    del sys.modules["marking"]
    assert (tmp_path / "marker").exists()
