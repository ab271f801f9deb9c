import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from audit_toys import audit_of, tensors_of, write_pictures
from PIL import Image
from reader_pictures import encoded, picture, png
from rich.console import Console

from amint import cli
from amint.architecture import Architecture
from amint.bundle import read
from amint.commands import console
from amint.evidence import Verdict
from amint.preprocessing import Preprocessing

SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    audit = audit_of(timm.create_model("test_resnet", num_classes=4), split="entry", shape=SHAPE)
    # Of the kind that is submitted: even a few pictures of another kind are noticed.
    preprocessing, known = Preprocessing(size=(32, 32)), tmp_path_factory.mktemp("known")
    audit.calibrate(tensors_of(write_pictures(known, 99, seed=9), preprocessing))
    return audit.save(tmp_path_factory.mktemp("bundle") / "model.amint", preprocessing=preprocessing)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run one command line in a folder of its own: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        status = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return command


def test_verify_prints_and_writes_everything(run, bundle, tmp_path):
    folder = write_pictures(tmp_path / "submitted", 5)
    (folder / "not one.png").write_text("text")
    status, out, err = run("verify", bundle, folder, "--alpha", "0.05", "--out", tmp_path / "result")
    assert (status, err) == (0, "")
    verdict = Verdict.from_json((tmp_path / "result" / "verdict.json").read_text(encoding="utf-8"))
    assert [item.path for item in verdict.items] == [*(f"00{i}.png" for i in range(5)), "not one.png"]
    said = " ".join(out.split())
    assert verdict.sentence() in said
    assert "1 of 6 files could not be judged." in said
    for item in verdict.judged:
        assert f"{item.path} {item.score:.3f} {item.p_value:.2g} {item.adjusted:.2g} {item.decision}" in said
    assert "not one.png cannot tell" in said
    with (tmp_path / "result" / "verdict.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [item.path for item in verdict.items]
    assert "</html>" in (tmp_path / "result" / "report.html").read_text(encoding="utf-8")
    assert all(name in "".join(out.split()) for name in ("verdict.json", "verdict.csv", "report.html"))


def test_rows_limits_what_is_printed_and_not_what_is_written(run, bundle, tmp_path):
    folder = write_pictures(tmp_path / "submitted", 5)
    status, out, _ = run("verify", bundle, folder, "--rows", 2)
    assert status == 0
    assert sum(f"00{i}.png" in out for i in range(5)) == 2
    assert "2 of 5 files, the most suspicious first; all are in verdict.csv" in " ".join(out.split())
    data = json.loads((tmp_path / "runs" / "verify" / "verdict.json").read_text())
    scores = {item["path"]: item["score"] for item in data["items"]}
    shown = [name for name in scores if name in out]
    assert sorted(scores, key=scores.get)[-2:] == sorted(shown, key=scores.get)
    assert len(scores) == 5


def wide():
    return Image.fromarray((np.arange(1024, dtype=np.uint16) * 60).reshape(32, 32))


def glass():
    image = picture()
    image.putalpha(100)
    return image


STRANGE_NAMES = [
    "two  spaces.png",
    'it\'s "quoted".png',
    "Ünï-画像-🙂.png",
    "line\nbreak.png",
    "[red]markup.png",
    "[[]] [bold].png",
    ":cat:.png",
    "=cmd|'calc'!A0.png",
    "\x1b[31mescape.png",
    "back\\slash.png",
    "-rf.png",
    "x" * 240 + ".png",
]
BAD = {
    "text.png": (b"just some text", "not an image"),
    "empty.png": (b"", "an empty file"),
    "cut.jpg": (encoded(picture(height=64, width=64), "JPEG")[:700], "damaged or cut short"),
    "dot.png": (encoded(picture(height=1, width=1), "PNG"), "1 x 1 pixels: a side shorter than 4"),
    "huge.png": (png(30_000, 30_000), "30,000 x 30,000 pixels, more than the limit"),
}
GOOD = {
    "cmyk.jpg": (encoded(picture("CMYK"), "JPEG"), "CMYK converted"),
    "deep.png": (encoded(wide(), "PNG"), "16-bit reduced to 8"),
    "moving.gif": (encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1)]), "first of 2 frames"),
    "glass.png": (encoded(glass(), "PNG"), "transparency"),
    "plain.bmp": (encoded(picture(), "BMP"), ""),
}


def test_a_folder_of_everything_that_can_go_wrong(run, bundle, tmp_path):
    folder = tmp_path / "submitted"
    folder.mkdir()
    for name, (content, _) in (BAD | GOOD).items():
        (folder / name).write_bytes(content)
    for seed, name in enumerate(STRANGE_NAMES):
        picture(seed=seed + 7).save(folder / name, "PNG")
    (folder / "nested" / "deeper").mkdir(parents=True)
    picture(seed=99).save(folder / "nested" / "deeper" / "a.png")
    (folder / "loop").symlink_to("loop")
    (folder / "circle").symlink_to(".")
    (folder / "outside.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.png")
    reasons = {name: reason for name, (_, reason) in BAD.items()} | {
        "loop": "a link that leads in a circle",
        "circle": "a link to a folder, which is not followed",
        "outside.png": "a link that leaves the submitted folder",
        "pipe.png": "not a regular file but a pipe",
    }

    status, out, err = run("verify", bundle, folder, "--rows", 100, "--out", "result")
    assert (status, err) == (0, "")
    verdict = Verdict.from_json((tmp_path / "result" / "verdict.json").read_text(encoding="utf-8"))
    items = {item.path: item for item in verdict.items}
    judged = [*GOOD, "nested/deeper/a.png", *STRANGE_NAMES]
    assert len(items) == len(verdict.items) == len(judged) + len(reasons)
    for name, reason in reasons.items():
        assert (items[name].decision, items[name].score) == ("cannot tell", None)
        assert reason in items[name].note
    assert len(verdict.judged) == len(judged)
    for name, (_, note) in GOOD.items():
        assert note in items[name].note
    assert {r"line\nbreak.png", r"\x1b[31mescape.png", r"back\\slash.png", "[red]markup.png"} <= set(items)
    assert not {character for character in out if not (character.isprintable() or character == "\n")}
    squeezed = "".join(out.split())
    assert all("".join(name.split()) in squeezed for name in items if len(name) < 30)
    with (tmp_path / "result" / "verdict.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["path"] for row in csv.DictReader(file)]
    assert rows == [("'" if item.path[0] in "=-" else "") + item.path for item in verdict.items]


def test_inspect_says_what_is_in_it(run, bundle, tmp_path):
    status, out, err = run("inspect", bundle)
    assert (status, err) == (0, "")
    said = " ".join(out.replace("│", " ").split())
    assert "timm/test_resnet with num_classes=4" in said
    assert read(bundle).sha256 in said.replace(" ", "")
    assert "3 x 32 x 32" in said
    assert "99 non-members; smallest p-value of one sample 0.01" in said
    assert "training: method toy" in said
    assert "3 x 32 x 32, bilinear, mean " in said
    other = audit_of().save(tmp_path / "[red]:cat:")
    status, out, _ = run("inspect", other)
    assert status == 0
    said = " ".join(out.replace("│", " ").split())
    assert "[red]:cat:" in said.replace(" ", "")  # a long path wraps
    assert "passed by the caller" in said
    assert "none: only tensors can be verified" in said


def test_what_a_stranger_wrote_into_a_bundle_does_not_command_the_terminal(run, tmp_path):
    audit = audit_of()
    audit.facts |= {"[bold]note": "\x1b]0;title\x07 [red]x[/] :cat:\r\n"}
    status, out, _ = run("inspect", audit.save(tmp_path / "a"))
    assert status == 0
    assert not {character for character in out if not (character.isprintable() or character == "\n")}
    assert r"training: [bold]note" in out
    assert r"\x1b]0;title\x07 [red]x[/] :cat:\r\n" in " ".join(out.replace("│", " ").split())


def test_a_reader_who_has_seen_enough_is_no_broken_gate(bundle, tmp_path):
    folder, out = write_pictures(tmp_path / "submitted", 3), tmp_path / "result"
    words = ["verify", bundle, folder, "--alpha", "0.05", "--out", out]
    command = [sys.executable, "-c", "from amint.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "verdict.csv", "verdict.json"]


@pytest.mark.parametrize("words", ["timm test_resnet 1x64x64", "torchvision resnet18 3x64x64"])
def test_splits_lists_the_taps(run, words):
    library, model, size = words.split()
    status, out, err = run("splits", model, "--library", library, "--input", size)
    assert (status, err) == (0, "")
    assert f"{library}/{model} on {size}" in out
    assert {"entry", "middle", "output"} <= set(out.replace(",", " ").split())
    shares = [float(word[:-1]) for word in out.split() if word.endswith("%")]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 100


ERRORS = [
    (
        ["nonsense"],
        'Unknown command "nonsense". Available commands: demo, splits, inspect, verify, attack, prove',
    ),
    (["commit", "PICTURES"], "sign, ... (amint.commit is for Python scripts)"),
    (["--nonsense"], "nonsense"),
    (["verify"], "BUNDLE requires an argument"),
    (["verify", "BUNDLE"], "SUBMITTED requires an argument"),
    (["verify", "BUNDLE", "PICTURES", "more"], "Unused Tokens: ['more']"),
    (["verify", "BUNDLE", "PICTURES", "--alhpa", "0.1"], "Did you mean --alpha?"),
    (["verify", "BUNDLE", "PICTURES", "--alpha", "small"], 'unable to convert "small" into float'),
    (["verify", "BUNDLE", "PICTURES", "--alpha", "2"], "alpha must lie strictly between 0 and 1"),
    (["verify", "BUNDLE", "PICTURES", "--alpha", "nan"], "alpha must lie strictly between 0 and 1"),
    (["verify", "BUNDLE", "PICTURES", "--alpha", "0.001"], "Use at least 999 calibration samples"),
    (["verify", "BUNDLE", "PICTURES", "--rows", "-1"], "Must be >= 0"),
    (["verify", "BUNDLE", "PICTURES", "--out", "a file"], "a file is a file, where a folder is expected"),
    (["verify", "BUNDLE", "missing"], "cannot read missing: no such file or directory"),
    (["verify", "BUNDLE", "an empty one"], "the folder an empty one holds no files to judge"),
    (["verify", "BARE", "PICTURES"], "there is no preprocessing to turn them into inputs"),
    (["verify", "OWN", "PICTURES"], "--allow-import audit_toys:ToyNet"),
    (["verify", "missing", "PICTURES"], "there is no audit bundle at missing: nothing is there"),
    (["verify", "a file", "PICTURES"], "neither a bundle's folder nor a readable .zip of one"),
    (["verify", "PICTURES", "PICTURES"], "not a whole audit bundle: manifest.json"),
    (["inspect", "[red]missing"], "there is no audit bundle at [red]missing"),
    (["inspect", "two\nlines\x1b[31m"], r"there is no audit bundle at two lines\x1b[31m"),
    (["demo", "--out", "a file"], "a file is a file, where a folder is expected"),
    (["demo", "--out", "in the way"], "holds something else than a bundle; amint will not replace it"),
    (["demo", "--seed", "-1"], "Must be >= 0"),
    (["splits", "resnet18", "--input", "224x224x3"], "the channels seem to come last"),
    (["splits", "resnet5o"], "timm has no classifier 'resnet5o'; near names: ['resnet50'"),
    (["splits", "mobilenetv3", "--library", "torchvision"], "near names: ['mobilenet_v"),
    (["splits", "hf_hub:someone/something"], "timm has no classifier 'hf_hub:someone/something'"),
    (["splits", "resnet18", "--library", "keras"], 'Choose from: "timm", "torchvision"'),
    (["splits", "test_resnet", "--input", "3x0x2"], "--input is channels x height x width, such as 3x224x224"),
    (["splits", "test_resnet", "--input", "3x64"], "--input is channels x height x width"),
    (["splits", "test_resnet", "--input", "3x9999x9999"], "not larger than 3x4096x4096; got '3x9999x9999'"),
    (["splits", "test_resnet", "--input", f"3x{'9' * 5000}x3"], "--input is channels"),
    (
        ["splits", "squeezenet1_1", "--library", "torchvision", "--input", "1x64x64"],
        "torchvision's classifiers take three channels",
    ),
    (["splits", "test_vit", "--input", "3x31x31"], "does not run on inputs of shape (1, 3, 31, 31)"),
]


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=lambda n: " ".join(ERRORS[n][0])[:40])
def test_mistakes_are_one_line_and_exit_status_2(run, bundle, tmp_path, number):
    (tmp_path / "a file").write_text("text")
    (tmp_path / "an empty one").mkdir()
    (tmp_path / "in the way" / "model.amint" / "of mine").mkdir(parents=True)
    words, reason = ERRORS[number]
    places = {
        "BUNDLE": lambda: bundle,
        "PICTURES": lambda: write_pictures(tmp_path / "submitted", 2),
        "BARE": lambda: audit_of(timm.create_model("test_resnet"), split="entry", calibration=99).save("bare"),
        "OWN": lambda: audit_of().save("own", architecture=Architecture("import", "audit_toys:ToyNet")),
    }
    status, out, err = run(*(places[word]() if word in places else word for word in words))
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err


def test_no_arguments_show_the_commands(run):
    for words in ([], ["--help"]):
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        assert all(name in out for name in ("attack", "demo", "inspect", "splits", "verify"))
    status, out, _ = run("--version")
    assert (status, out) == (0, "0.1.0\n")


def test_an_interrupted_command_just_ends(run, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("amint.bundle.read", interrupt)
    assert run("inspect", "x") == (130, "", "")


def test_an_interrupted_verification_says_how_to_go_on(run, bundle, tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "submitted", 3)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("amint.verification.verify", interrupt)
        assert run("verify", bundle, folder) == (130, "", "Interrupted. The same command goes on where it was.\n")
    assert run("verify", bundle, folder)[0] == 0


def test_a_terminal_without_unicode(run, bundle, tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "submitted", 1)
    picture().save(folder / "画像.png")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, err = run("verify", bundle, folder)
    stream.flush()
    assert (status, err) == (0, "")
    assert r"\u753b\u50cf.png" in stream.buffer.getvalue().decode("ascii")


def test_a_terminal_shows_progress(run, bundle, tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=80))
    assert run("verify", bundle, write_pictures(tmp_path / "submitted", 3))[0] == 0
    assert "judging" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_the_installed_command_on_a_narrow_terminal(bundle, tmp_path):
    folder = write_pictures(tmp_path / "a folder whose name is long", 3)
    (folder / "a file with a rather long name.png").write_text("text")

    def amint(*words):
        command = [Path(sys.executable).with_name("amint"), *words]
        environment = {**os.environ, "COLUMNS": "60", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = amint("verify", bundle, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert "…" not in done.stdout
    verdict = Verdict.from_json((tmp_path / "runs" / "verify" / "verdict.json").read_text(encoding="utf-8"))
    said = done.stdout.split()
    for item in verdict.judged:
        assert {item.path, f"{item.score:.3f}", f"{item.p_value:.2g}", f"{item.adjusted:.2g}"} <= set(said)
    assert "no evidence" in done.stdout
    assert "cannot tell" in done.stdout
    failed = amint("verify", bundle)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == 'error: Command "verify" parameter SUBMITTED requires an argument.\n'
