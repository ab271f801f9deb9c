import importlib.util
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import amint

RECIPES = Path(__file__).parents[1] / "recipes"
STARTED = [path for path in sorted(RECIPES.glob("*.py")) if "__main__" in path.read_text()]
WAYS = {"active MINT", "registered", "hash register", "passive mint", "loss"}


def ran(name, out, *options):
    """What a recipe printed on its smallest budget."""
    command = [sys.executable, RECIPES / f"{name}.py", "--smoke", "--out", out, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def row_of(name, out, *options, calibration=120):
    printed = ran(name, out, *options)
    row = json.loads((out / "row.json").read_text())
    assert set(row["measured"]) == WAYS
    assert all(way in printed for way in WAYS)
    for way in row["measured"].values():
        assert set(way) == {"auroc", "balanced_accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}
        assert all(low <= value <= high for value, low, high in way.values())
    assert row["scaled_down"]
    assert "scaled down: the paper has" in printed
    assert set(row["drawn"]) == {"members", "external", "calibration", "unseen"}
    # Passive MINT and the loss know one half of the rows and are judged on the other; members twice count once.
    judged = row["attacks_on_the_plain_network"]["audited_members"]
    assert row["drawn"]["members"] // 2 - 5 < judged <= row["drawn"]["members"] // 2
    assert row["measured"]["hash register"]["auroc"][0] > 0.9, "members are on the list, whatever the network learned"
    assert all(0 <= row[name] <= 1 for name in ("plain_accuracy", "audited_accuracy"))
    drawn = row["drawn"]["calibration"]
    assert calibration - 20 < drawn <= calibration, "copies of members are left out"
    # Rows that are in it twice calibrate once.
    assert drawn - 10 < len(amint.load(out / "model.amint").calibrated().scores) <= drawn
    return row


def face(rng, side=40):
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_records(folder, faces):
    """InsightFace's layout: record 0 says where images end."""
    folder.mkdir()
    records = [struct.pack("<IfQQ2f", 2, 0, 0, 0, len(faces) + 1, len(faces) + 1)]
    for number, (image, label) in enumerate(faces, 1):
        held = io.BytesIO()
        image.save(held, "PNG")
        records.append(struct.pack("<IfQQ", 0, label, number, 0) + held.getvalue())
    index, content = [], b""
    for key, record in enumerate(records):
        index.append(f"{key}\t{len(content)}\n")
        assert struct.pack("<I", 0xCED7230A) not in record
        content += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(index))


@pytest.mark.slow
def test_mnist_and_sets_of_it(data_root, tmp_path):
    row = row_of("mnist", tmp_path / "row", "--data-root", data_root)
    assert row["paper"] is None, "the small network is not the paper's"
    command = [sys.executable, RECIPES / "sets.py", "--data-root", data_root, "--run", tmp_path / "row"]
    done = subprocess.run([*command, "--repeats", "20", "--half", "25"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "row" / "sets.json").read_text())
    assert any("20 sets of 20 unseen images" in name for name in found)
    command = [sys.executable, RECIPES / "head_or_list.py", "--data-root", data_root]
    done = subprocess.run([*command, "--run", tmp_path / "row"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "row" / "head_or_list.json").read_text())
    unchanged = {(one["way"], one["fpr"]): one["tpr"] for one in both["found"] if one["change"] == "none"}
    # The row knows the same of its own members and unseen images.
    head = [unchanged["head", fpr][0] for fpr in (0.01, 0.001)]
    assert head == pytest.approx(
        [row["measured"]["active MINT"][f"tpr_at_fpr_{fpr}"][0] for fpr in (0.01, 0.001)], abs=1e-4
    )
    assert unchanged["list", 0.01][0] == row["measured"]["hash register"]["tpr_at_fpr_0.01"][0]


@pytest.mark.slow
def test_a_head_and_a_list_are_asked_about_the_same_pictures(tmp_path):
    assert "200 members; the head has" in ran("head_or_list", tmp_path)
    found = json.loads((tmp_path / "head_or_list.json").read_text())
    assert found["bytes"]["list"] < found["bytes"]["head"]
    assert {one["way"] for one in found["found"]} == {"head", "list"}
    assert len(found["found"]) == 8 * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_rows_of_packed_data(name, data_root, tmp_path):
    if not (data_root / name.upper()).is_dir():
        pytest.skip(f"no {name.upper()} in {data_root}")
    # 120 rows in tracks of six are twenty tracks, and one frame of each calibrates.
    precision = "bf16" if name == "gtsrb" else "fp32"
    options = ["--data-root", data_root, "--precision", precision]
    row_of(name, tmp_path, *options, calibration=20 if name == "gtsrb" else 120)


@pytest.mark.slow
def test_tiny_imagenet_in_its_own_layout(tmp_path):
    root, rng = tmp_path / "tiny-imagenet-200", np.random.default_rng(0)
    names = ["n01", "n02", "n03"]
    lines = []
    for place, name in enumerate(names):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(60):
            face(rng, 64).save(root / "train" / name / "images" / f"{name}_{number}.JPEG")
        lines += [f"val_{place}_{number}.JPEG\t{name}\t0\t0\t1\t1\n" for number in range(60)]
    (root / "wnids.txt").write_text("\n".join(names))
    (root / "val" / "images").mkdir(parents=True)
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    for line in lines:
        face(rng, 64).save(root / "val" / "images" / line.split("\t")[0])
    row_of("tiny_imagenet", tmp_path / "row", "--data-root", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "records", "orl"])
def test_faces_from_folders_records_and_orl(kind, tmp_path, request):
    rng, data, options = np.random.default_rng(0), tmp_path / "faces", []
    faces = [(face(rng), number % 5) for number in range(360)]
    faces += faces[:20]  # such collections hold the same photo twice
    if kind == "folder":
        for number, (image, person) in enumerate(faces):
            (data / f"person {person}").mkdir(parents=True, exist_ok=True)
            image.save(data / f"person {person}" / f"{number}.png")
    elif kind == "records":
        write_records(data, faces)
        options = ["--side", "40"]
    else:
        data, options = request.getfixturevalue("data_root"), ["--orl"]
        if not (data / "ORL").is_dir():
            pytest.skip(f"no ORL in {data}")
    row_of("casia_webface", tmp_path / "row", "--data-root", data, *options)


@pytest.mark.slow
def test_a_table_goes_on_where_it_was_and_past_rows_that_fail(data_root, tmp_path):
    options = ["--data-root", data_root, "--arch", "mobilenetv1_100", "--split", "entry", "nowhere", "--workers", "2"]
    options += ["--trunk-gradient", "0.5"]
    command = [sys.executable, RECIPES / "table.py", "--smoke", "--out", tmp_path, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "nowhere failed: SplitError" in " ".join(done.stderr.split())
    [row] = json.loads(next((tmp_path / "cifar10").rglob("table.json")).read_text())
    assert (row["split"], row["head_epochs"], row["batch"], row["trunk_gradient"]) == ("entry", 1, 16, 0.5)
    printed = " ".join(done.stdout.split())
    assert "1 of 2 rows" in printed
    assert "scaled" in printed
    assert "1 rows are missing" in done.stderr
    [path] = tmp_path.rglob("row.json")
    written = path.stat().st_mtime_ns
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert path.stat().st_mtime_ns == written


@pytest.mark.slow
def test_heads_of_several_splits_are_registered_on_one_network(data_root, tmp_path):
    options = ["--data", "mnist", "--data-root", data_root, "--arch", "mobilenetv1_100", "--head-hidden", "64"]
    printed = ran("registered", tmp_path, *options, "--split", "entry", "output")
    files = {path.parent.name: path for path in tmp_path.rglob("row.json")}
    assert set(files) == {"mobilenetv1_100-entry-36px", "mobilenetv1_100-output-36px"}
    rows = [json.loads(files[name].read_text()) for name in sorted(files)]
    assert [row["split"] for row in rows] == ["entry", "output"]
    assert rows[0]["taps"] != rows[1]["taps"]
    for row in rows:
        assert set(row["measured"]) == WAYS - {"active MINT"}
        assert (row["registered_epochs"], row["head_hidden"], row["trunk_gradient"]) == (1, 64, 0.0)
        assert row["plain_accuracy"] == row["audited_accuracy"] == rows[0]["plain_accuracy"]
    kept = [amint.load(path.parent / "model.amint").backbone.state_dict() for path in files.values()]
    assert all(bool((kept[0][name] == kept[1][name]).all()) for name in kept[0]), "one network"
    # The third head alone is made, and a network of other settings is not taken for this one.
    [network] = tmp_path.glob("mnist/*/*.safetensors")
    times = [path.stat().st_mtime_ns for path in (network, *files.values())]
    again = ran("registered", tmp_path, *options, "--split", "entry", "middle", "output")
    assert printed.split("seconds:")[0] in again
    assert len(list(tmp_path.rglob("row.json"))) == 3
    assert times == [path.stat().st_mtime_ns for path in (network, *files.values())]
    save_file(load_file(network), network, {"settings": "others"})
    files["mobilenetv1_100-entry-36px"].unlink()
    ran("registered", tmp_path, *options, "--split", "entry")
    with safe_open(network, "pt") as file:
        assert file.metadata() != {"settings": "others"}


def test_the_papers_figures_stand_below_rows_of_its_size_only(capsys):
    sys.path.insert(0, str(RECIPES))
    try:
        from table_shown import show
    finally:
        sys.path.remove(str(RECIPES))
    kinds = ("auroc", "balanced_accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001")
    measured = {way: dict.fromkeys(kinds, (0.5, 0.4, 0.6)) for way in WAYS}
    row = {"arch": "net", "split": "entry", "plain_accuracy": 0.5, "audited_accuracy": 0.5, "paper": (0.86, 0.41)}
    for scaled_down in (True, False):
        show("cifar10", [{**row, "measured": measured, "drawn": {"members": 9}, "scaled_down": scaled_down}], 1)
        printed = capsys.readouterr().out
        assert ("0.86" in printed) == ("0.41" in printed) == (not scaled_down)
        assert ("scaled" in printed) == scaled_down


@pytest.mark.slow
def test_the_sweep_tries_every_balance_and_plots_the_front(data_root, tmp_path):
    printed = ran("lambda_sweep", tmp_path, "--data-root", data_root)
    found = json.loads((tmp_path / "lambda_sweep.json").read_text())
    assert len(found) == 18
    assert all("".join(name.split()) in "".join(printed.split()) for name in ("lambda 0.1", "upgrad", "gradnorm"))
    with Image.open(tmp_path / "lambda_sweep.png") as plot:
        assert min(plot.size) > 300


@pytest.mark.slow
def test_ablations_change_one_thing_each(data_root, tmp_path):
    ran("ablations", tmp_path, "--data-root", data_root)
    found = json.loads((tmp_path / "ablations.json").read_text())
    assert {"middle", "output", "no hard negatives", "running average of weights"} < set(found)
    assert len({json.dumps([line["accuracy"], line["auroc"]]) for line in found.values()}) > len(found) // 2
    again = ran("ablations", tmp_path, "--data-root", data_root)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1 + len(found), "nothing is trained twice"
    assert "members" in again


@pytest.mark.slow
def test_the_speed_of_attacks_is_measured(tmp_path):
    assert "peak memory" in ran("attack_speed", tmp_path)
    found = json.loads((tmp_path / "attack_speed.json").read_text())
    assert {"rmia-online", "informia-offline", "lira-online"} < set(found["seconds"])


@pytest.mark.slow
def test_a_step_is_timed_with_and_without_an_audit(tmp_path):
    assert "of plain" in ran("step_cost", tmp_path)
    found = json.loads((tmp_path / "step_cost.json").read_text())["seconds"]
    assert {"plain", "audited", "trunk_gradient=0"} < set(found)
    parts = {"first epoch", "step", "forward", "losses", "backward", "optimizer"}
    assert all(set(row) == parts and min(row.values()) > 0 for row in found.values())


@pytest.mark.slow
def test_attacks_are_compared_beside_a_head_that_learned_alone_at_the_end(tmp_path):
    printed = ran("compare_attacks", tmp_path)
    assert "mint, before its" in printed
    assert "The head that was trained in (mint)" in printed
    found = {row["name"]: row for row in json.loads((tmp_path / "comparison.json").read_text())["attacks"]}
    assert {"mint", "rmia-online", "informia-online, 30 known", "passive-mint", "loss"} < set(found)
    assert all(not row["reason"] for row in found.values()), "every attack runs"
    before = json.loads((tmp_path / "row.json").read_text())["mint_before_its_head_learned_alone"]
    assert before["auroc"][1] <= before["auroc"][0] <= before["auroc"][2]
    assert before["auroc"][0] > 0.7
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_a_list_of_hashes_finds_exact_copies_and_few_changed_digits(tmp_path):
    ran("hash_register", tmp_path)
    found = {row["change"]: row["found"]["0.01"] for row in json.loads((tmp_path / "hash_register.json").read_text())}
    assert found["none"] == found["grey"] == 1.0
    assert max(found["crop"], found["resized"]) < 0.2


@pytest.mark.slow
def test_references_are_timed_both_ways(tmp_path):
    assert "one after the other" in ran("stacking_speed", tmp_path, "--device", "cpu")
    found = json.loads((tmp_path / "stacking_speed.json").read_text())
    assert found["models"] == 2
    assert 0 < found["alone"] < 60
    assert 0 < found["at_once"] < 60


def test_the_front_and_its_knee():
    sys.path.insert(0, str(RECIPES))
    try:
        from lambda_sweep import front, knee
    finally:
        sys.path.remove(str(RECIPES))
    points = [(0.9, 0.6), (0.5, 0.95), (0.85, 0.9), (0.7, 0.7), (0.9, 0.5), (0.5, 0.95)]
    assert [points[i] for i in front(points)] == [(0.5, 0.95), (0.5, 0.95), (0.85, 0.9), (0.9, 0.6)]
    assert knee([(0.5, 0.95), (0.85, 0.9), (0.9, 0.6)]) == 1
    assert knee([(0.5, 0.95), (0.9, 0.6)]) is None
    assert knee([(0.43, 0.83), (0.459, 0.30), (0.488, 0.256)]) is None, "it bends the other way"
    assert knee([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]) is None
    assert knee([(0.5, 0.95)] * 3) is None


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_recipes_are_short_and_use_the_public_interface(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 130
    imported = [line for line in source.splitlines() if line.startswith(("from amint", "import amint"))]
    public = (
        "from amint import datasets",
        *(
            f"from amint.{name}"
            for name in ("attacks", "datasets", "errors", "metrics", "report", "roles", "signals", "tolerance")
        ),
    )
    assert all(line == "import amint" or line.startswith(public) for line in imported)
    assert importlib.util.spec_from_file_location(path.stem, path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.stem)
def test_every_recipe_that_is_started_has_help_and_a_smallest_budget(path):
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--smoke" in done.stdout
