import csv
import json

import lightning as L
import numpy as np
import pytest
import timm
import torch
from audit_toys import audit_of, images, write_pictures
from PIL import Image
from torch.utils.data import TensorDataset

from amint import cli
from amint.attack_results import Comparison
from amint.commands.attack import table_of
from amint.preprocessing import Preprocessing

SHAPE = (3, 32, 32)
FAST = ("loss", "entropy", "mint")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    audit = audit_of(timm.create_model("test_resnet", num_classes=4), split="entry", shape=SHAPE)
    audit.calibrate(images(99, seed=9, shape=SHAPE))
    return audit.save(tmp_path_factory.mktemp("bundle") / "model.amint", preprocessing=Preprocessing(size=(32, 32)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folders of class folders, and the same as arrays."""
    root = tmp_path_factory.mktemp("data")
    for number, side in enumerate(("members", "nonmembers")):
        for label, name in enumerate(("cat", "dog", "emu")):
            write_pictures(root / side / name, 8, seed=10 * number + label)
        # As some editors save it, with a mark at the beginning.
        (root / side / "classes.txt").write_text("cat\ndog\nemu\ngnu\n", encoding="utf-8-sig")
    rng = np.random.default_rng(0)
    for side in ("a", "b"):
        x, y = rng.normal(size=(30, *SHAPE)).astype(np.float32), rng.integers(4, size=30)
        np.savez(root / f"{side}.npz", x=x, y=y)
        np.savez(root / f"{side}8.npz", x=rng.integers(0, 255, (30, 40, 36, 3), dtype=np.uint8), y=y)
    return root


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def command(*words):
        status = 0
        try:
            cli.main(["attack", *map(str, words)])
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return command


def test_folders_of_pictures_are_compared_and_everything_is_written(run, bundle, data, tmp_path):
    status, out, err = run("--target", bundle, "--members", data / "members", "--nonmembers", data / "nonmembers")
    assert (status, err) == (0, "")
    made = Comparison.from_json((tmp_path / "runs" / "attack" / "comparison.json").read_text(encoding="utf-8"))
    assert made.settings["attacks"] == "all"
    assert made.sizes["audited_members"] == 12
    said = " ".join(out.split())
    assert made.sentence() in said
    assert made.epsilon_sentence() in said
    assert all(note in said for note in made.notes)
    for result in made.ranked:
        assert f"{result.name} " in said
        assert f"{result['auroc'].value:.3f}" in said
    for result in made.not_run:
        assert f"could not run: {result.reason}" in said
        assert result.name in said.split(f" could not run: {result.reason}")[0].split(" could not run: ")[-1]
    with (tmp_path / "runs" / "attack" / "comparison.csv").open(encoding="utf-8", newline="") as file:
        assert [row["attack"] for row in csv.DictReader(file)] == [result.name for result in made.attacks]
    assert "</html>" in (tmp_path / "runs" / "attack" / "report.html").read_text(encoding="utf-8")
    assert "comparison.json" in "".join(out.split())


@pytest.mark.parametrize("kind", ["", "8"])
def test_arrays_are_compared(run, bundle, data, tmp_path, kind):
    words = "--target", bundle, "--members", data / f"a{kind}.npz", "--nonmembers", data / f"b{kind}.npz"
    status, _, err = run(*words, "--attacks", *FAST, "--out", "o", "--seed", "3")
    assert (status, err) == (0, "")
    made = Comparison.from_json((tmp_path / "o" / "comparison.json").read_text(encoding="utf-8"))
    assert [result.name for result in made.attacks] == list(FAST)
    assert made.settings["attacks"] == list(FAST)
    assert made.settings["seed"] == 3
    assert made.not_run == ()
    assert {control.kind for control in made.controls} == {"untrained twin", "shuffled membership"}


def test_pictures_in_files_and_in_arrays_are_the_same_to_the_model(run, bundle, data, tmp_path):
    for side in ("members", "nonmembers"):
        paths = sorted((data / side).glob("*/*.png"))
        x = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        y = [["cat", "dog", "emu"].index(path.parent.name) for path in paths]
        np.savez(tmp_path / f"{side}.npz", x=x.transpose(0, 3, 1, 2), y=y)
    rest = ("--attacks", *FAST)
    run("--target", bundle, "--members", data / "members", "--nonmembers", data / "nonmembers", *rest, "--out", "f")
    run("--target", bundle, "--members", "members.npz", "--nonmembers", "nonmembers.npz", *rest, "--out", "a")
    files, arrays = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in "fa")
    assert files["target"] == arrays["target"]
    assert [r["measurements"] for r in files["attacks"]] == [r["measurements"] for r in arrays["attacks"]]


def test_the_gate_decides_the_exit_status(run, bundle, data, tmp_path):
    words = "--target", bundle, "--members", data / "a.npz", "--nonmembers", data / "b.npz", "--attacks", "loss"
    status, out, err = run(*words, "--fail-above", "auroc=1.0")
    assert (status, err) == (0, "")
    assert "Gate passed (auroc at most 1)." in " ".join(out.split())
    status, out, err = run(*words, "--fail-above", "auroc=0.01", "balanced_accuracy=1")
    assert (status, err) == (1, "")
    assert "Gate broken (auroc at most 0.01, balanced_accuracy at most 1): auroc of loss may be" in " ".join(
        out.split()
    )
    assert "Gate broken" in (tmp_path / "runs" / "attack" / "report.html").read_text(encoding="utf-8")
    status, out, _ = run(*words, "--fail-above", "tpr_at_fpr_0.001=1")
    assert status == 1
    assert "cannot be judged: it needs at least 1000 non-members, has 15" in " ".join(out.split())


def test_a_comparison_that_could_run_nothing_is_a_mistake(run, bundle, data):
    words = "--target", bundle, "--members", data / "a.npz", "--nonmembers", data / "b.npz"
    status, out, err = run(*words, "--attacks", "lira")
    assert (status, err) == (2, "")
    assert "lira-offline could not run: " in out
    assert run(*words, "--attacks", "lira", "loss")[0] == 0


def test_a_second_run_reads_the_signals_of_the_first(run, bundle, data, tmp_path, monkeypatch):
    words = "--target", bundle, "--members", data / "a.npz", "--nonmembers", data / "b.npz", "--attacks", *FAST
    assert run(*words)[0] == 0
    kept = sorted((tmp_path / "runs" / "attack" / "signals").iterdir())
    assert kept
    assert run(*words)[0] == 0
    assert sorted((tmp_path / "runs" / "attack" / "signals").iterdir()) == kept


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.ModuleDict({"model": timm.create_model("test_resnet", num_classes=4)})

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.net["model"](batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers:UserWarning")
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_reference_models_are_built_like_the_target(run, bundle, data, tmp_path):
    from amint.references import train_references

    arrays = [np.load(data / f"{side}.npz") for side in "ab"]
    x, y = (torch.from_numpy(np.concatenate([a[name] for a in arrays])) for name in "xy")
    train_references(Module, TensorDataset(x, y), out=tmp_path / "refs", max_epochs=1, k=4, backbone="net.model")
    words = "--target", bundle, "--members", data / "a.npz", "--nonmembers", data / "b.npz"
    status, _, err = run(*words, "--references", tmp_path / "refs", "--attacks", "rmia", "salem", "watson")
    assert (status, err) == (0, "")
    made = Comparison.from_json((tmp_path / "runs" / "attack" / "comparison.json").read_text(encoding="utf-8"))
    assert [result.name for result in made.ranked if result.forward_passes] != []
    assert made.not_run == ()
    assert made.settings["references"] == 4
    assert made["rmia-offline"].forward_passes == 5


@pytest.fixture(scope="module")
def broken(tmp_path_factory, data):
    """Inputs that cannot be used, by name."""
    root = tmp_path_factory.mktemp("broken")
    for side in "ab":
        (root / f"{side}.npz").write_bytes((data / f"{side}.npz").read_bytes())
    bare = audit_of(timm.create_model("test_resnet"), split="entry", calibration=99)
    bare.save(root / "bare")
    (root / "file.txt").write_text("text")
    (root / "cut.npz").write_bytes(b"PK\x03\x04" + b"x" * 50)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, *SHAPE)).astype(np.float32), rng.integers(4, size=30)
    np.savez(root / "ok.npz", x=x, y=y)
    np.savez(root / "same.npz", x=np.concatenate([x[:2], x[:28] + 1]), y=y)
    np.savez(root / "no_y.npz", x=x)
    np.savez(root / "short.npz", x=x, y=y[:5])
    np.savez(root / "float_y.npz", x=x, y=y.astype(float))
    np.savez(root / "text.npz", x=np.array(["a", "b"]), y=[0, 1])
    np.savez(root / "object.npz", x=np.array([{}, {}], object), y=[0, 1])
    np.savez(root / "odd.npz", x=rng.integers(0, 255, (30, 8, 8, 7), dtype=np.uint8), y=y)
    np.savez(root / "far.npz", x=x, y=y + 4)
    np.savez(root / "nan.npz", x=x * np.nan, y=y)
    np.savez(root / "few.npz", x=x[:3], y=y[:3])
    np.savez(root / "shape.npz", x=x[:, :1], y=y)
    np.savez(root / "flat.npz", x=x.reshape(30, -1), y=y)
    np.savez(root / "last.npz", x=x.transpose(0, 2, 3, 1), y=y)
    np.savez(root / "small.npz", x=x[:, :, :8, :8], y=y)
    np.savez(root / "none.npz", x=x[:0], y=y[:0])
    np.savez(root / "no_pixels.npz", x=np.zeros((30, 0, 0, 3), np.uint8), y=y)
    np.savez(root / "huge_y.npz", x=x, y=np.full(30, 2**63, np.uint64))
    np.savez(root / "minus_y.npz", x=x, y=y - 4)
    pairs = ("two/cat", "two/dog", "other/cat", "other/fox", "listed/cat", "listed/dog")
    for name in (*pairs, "loose/cat", "one/cat", "flat"):
        write_pictures(root / name, 8)
    write_pictures(root / "loose", 1)
    (root / "loose" / "classes.txt").write_text("cat\ndog\nemu\ngnu\n")
    (root / "listed" / "classes.txt").write_text("dog\ncat\ndog\n")
    (root / "bytes" / "cat").mkdir(parents=True)
    (root / "bytes" / "classes.txt").write_bytes(b"\xff\xfe\xff")
    (root / "refs").mkdir()
    return root


ERRORS = [
    ([], "--target"),
    (["BUNDLE", "a.npz"], "--nonmembers requires an argument"),
    (["BUNDLE", "ok.npz", "missing.npz"], "there is nothing at"),
    (
        ["BUNDLE", "ok.npz", "file.txt"],
        "file.txt is neither a folder nor an .npz file with arrays x and y of numbers\n",
    ),
    (["BUNDLE", "ok.npz", "cut.npz"], "neither a folder nor an .npz file"),
    (["BUNDLE", "ok.npz", "no_y.npz"], "neither a folder nor an .npz file with arrays x and y"),
    (["BUNDLE", "ok.npz", "object.npz"], "neither a folder nor an .npz file with arrays x and y of numbers"),
    (["BUNDLE", "ok.npz", "short.npz"], "y integers [n]; found float32 (30, 3, 32, 32) and int64 (5,)"),
    (["BUNDLE", "ok.npz", "float_y.npz"], "y integers [n]"),
    (["BUNDLE", "ok.npz", "text.npz"], "y integers [n]"),
    (
        ["BUNDLE", "ok.npz", "odd.npz"],
        "uint8 pictures are [n, h, w], [n, h, w, c] or [n, c, h, w], with c 1 or 3; found (30, 8, 8, 7)",
    ),
    (["BUNDLE", "ok.npz", "same.npz"], "2 of 30 non-members are also among the 30 members"),
    (["BUNDLE", "ok.npz", "ok.npz"], "30 of 30 non-members are also among the 30 members"),
    (["BUNDLE", "far.npz", "a.npz"], "labels lie outside 0..3 for 4 classes"),
    (["BUNDLE", "ok.npz", "nan.npz"], "hold NaN or infinity"),
    (
        ["BUNDLE", "flat.npz", "a.npz"],
        "flat.npz: the model takes inputs [3, 32, 32], x is float32 [30, 3072] and gives inputs [3072]; the numbers",
    ),
    (["BUNDLE", "ok.npz", "last.npz"], "gives inputs [32, 32, 3]; store channels first, x.transpose(0, 3, 1, 2)"),
    (["BUNDLE", "small.npz", "a.npz"], "gives inputs [3, 8, 8]; store inputs as the model takes them, preprocessed"),
    (["BUNDLE", "ok.npz", "shape.npz"], "x is float32 [30, 1, 32, 32] and gives inputs [1, 32, 32]"),
    (["BUNDLE", "none.npz", "a.npz"], "found 0 members and 30 non-members"),
    (["BUNDLE", "no_pixels.npz", "a.npz"], "found (30, 0, 0, 3)"),
    (["BUNDLE", "huge_y.npz", "a.npz"], "y must be class numbers from 0 up, found 9223372036854775808"),
    (["BUNDLE", "minus_y.npz", "a.npz"], "labels must be class numbers from 0 up"),
    (["BUNDLE", "few.npz", "a.npz"], "3 members are too few"),
    (["BUNDLE", "two", "other"], "the class folders differ"),
    (["BUNDLE", "one", "one"], "has 1 class folders; at least 2 are needed"),
    (["BUNDLE", "flat", "flat"], "flat has no class folders; expected a subfolder of pictures for each class"),
    (["BUNDLE", "loose", "loose"], "000.png lies in"),
    (["BUNDLE", "two", "two"], "tells 4 classes apart, 2 are named by subfolders or classes.txt: cat, dog. List all"),
    (["BUNDLE", "ok.npz", "two"], "the model's order in a file classes.txt, one name a line, in two;"),
    (["BUNDLE", "listed", "listed"], "must hold one class name a line, each once; found 3 names, twice ['dog']"),
    (["BUNDLE", "bytes", "bytes"], "is not UTF-8 text"),
    (["bare", "two", "two"], "the bundle has no preprocessing for pictures"),
    (["file.txt", "ok.npz", "same.npz"], "neither a bundle's folder nor a readable .zip"),
    (["BUNDLE", "a.npz", "b.npz", "--attacks", "los"], "there is no attack 'los'; near names: loss"),
    (["BUNDLE", "a.npz", "b.npz", "--fail-above", "aurok=0.6"], "did you mean auroc?"),
    (
        ["BUNDLE", "a.npz", "b.npz", "--fail-above", "auroc"],
        "a limit is metric=number, such as auroc=0.60; found 'auroc'",
    ),
    (["BUNDLE", "a.npz", "b.npz", "--fail-above"], "--fail-above needs at least one limit, such as auroc=0.60"),
    (["BUNDLE", "a.npz", "b.npz", "--empty-fail-above"], "--fail-above needs at least one limit"),
    (["BUNDLE", "a.npz", "b.npz", "--seed", "-1"], "Must be >= 0"),
    (["BUNDLE", "a.npz", "b.npz", "--seed", str(2**32)], "Must be < 4294967296"),
    (["BUNDLE", "a.npz", "b.npz", "--references", "refs"], "there is no fleet of references in"),
    (["BUNDLE", "a.npz", "b.npz", "--sed", "1"], "Did you mean --seed?"),
    (["BUNDLE", "a.npz", "b.npz", "--out", "file.txt"], "file.txt is a file, where a folder is expected"),
]


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=lambda n: " ".join(ERRORS[n][0])[:50])
def test_mistakes_are_one_line_and_exit_status_2(run, bundle, broken, monkeypatch, number):
    monkeypatch.chdir(broken)
    words, reason = ERRORS[number]
    given = [bundle if word == "BUNDLE" else word for word in words]
    names = ("--target", "--members", "--nonmembers")
    line = [part for name, word in zip(names, given, strict=False) for part in (name, word)] + given[3:]
    status, out, err = run(*line)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err


def test_files_that_cannot_be_read_are_counted(run, bundle, data, tmp_path):
    for side in ("members", "nonmembers"):
        for label, name in enumerate(("cat", "dog", "emu")):
            write_pictures(tmp_path / side / name, 8, seed=label + 10 * (side == "members"))
        (tmp_path / side / "cat" / "broken.png").write_text("text")
        (tmp_path / side / "classes.txt").write_text("emu\ndog\ncat\ngnu\n")
    status, out, err = run(
        "--target", bundle, "--members", "members", "--nonmembers", "nonmembers", "--attacks", "loss"
    )
    assert (status, err) == (0, "")
    assert "Left out, because they could not be read: 2 of the files." in " ".join(out.split())
    made = json.loads((tmp_path / "runs" / "attack" / "comparison.json").read_text())
    assert made["sizes"]["audited_members"] == 12


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_table_fits_every_terminal(width):
    from comparison_values import comparison, result
    from rich.console import Console

    made = comparison(result("loss"), result("modified-entropy-by-class", 0.7), result("x" * 60, reason="no"))
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table_of(made, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in capture.get()
    assert "0.700" in capture.get()
    everything = all(head in capture.get() for head in ("AUROC", "TPR 0.1 %", "bal. acc.", "seconds"))
    assert everything == (width >= 120)
    assert ("comparison.csv" in " ".join(capture.get().split())) == (not everything)
