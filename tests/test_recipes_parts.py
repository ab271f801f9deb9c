"""What the recipes share: who plays which role, where images lie, what is refused, what is resumed."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import amint
from amint.datasets import faces
from amint.errors import InputError, SplitError, UsageError
from amint.roles import fingerprints
from amint.whitening import Whitening

RECIPES = Path(__file__).parents[1] / "recipes"
LOOK = amint.Preprocessing(mean=(0.5,), std=(0.5,))
HALF = amint.HardNegatives(amint.horizontal_flip)


@pytest.fixture(scope="module", autouse=True)
def recipes():
    """The recipes import each other as scripts do."""
    before = set(sys.modules)
    sys.path.insert(0, str(RECIPES))
    yield
    sys.path.remove(str(RECIPES))
    for name in set(sys.modules) - before:
        if (RECIPES / f"{name}.py").exists():
            del sys.modules[name]


def settings(**changes):
    from settings import Settings

    given = {"data_root": Path("data"), "out": Path("out"), "members": 40, "external": 60, "calibration": 30}
    return Settings(**given | {"arch": "test_resnet", "device": "cpu", "batch": 16, "epochs": 1} | changes)


def pool(n=200, **changes):
    from common import Pool

    images = torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8)
    return replace(Pool(images, torch.arange(n) % 5, LOOK, HALF, lambda x: x), **changes)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epochs": 0}, "--epochs must be at least 1, found 0"),
        ({"members": 1}, "--members must be at least 2, found 1"),
        ({"calibration": 18}, "--calibration must be at least 19"),
        ({"most_unseen": 0}, "--most-unseen must be at least 1"),
        ({"lambda_": 0.0}, "--lambda must be positive and finite, found 0.0"),
        ({"tap_lr": float("inf")}, "--tap-lr must be positive"),
        ({"arch": "resnet51"}, "no network 'resnet51'; near names: .*resnet50"),
        ({"ratio": 5000.0}, "--ratio must be at most 1,000 external rows a member, found 5000"),
        ({"label_smoothing": 2.0}, "--label-smoothing must be between 0 and 1, found 2.0"),
        ({"head_pool": 0}, "sizes of a head are whole numbers from 1"),
        ({"side": 4}, "--side must be at least 8"),
        ({"device": "gpu"}, "--device gpu cannot be used here .*; cpu always can"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_read(wrong, message):
    with pytest.raises(UsageError, match=message):
        settings(**wrong)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--data-root", "nowhere"], "MNIST"),
        (["--data-root", "nowhere", "--epochs", "0"], "--epochs"),
    ],
)
def test_the_command_line_says_what_is_wrong_without_a_traceback(options, message, tmp_path):
    command = [sys.executable, RECIPES / "mnist.py", "--smoke", "--out", tmp_path, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_more_rows_than_there_are_and_too_few_left_over():
    from common import Parts

    with pytest.raises(UsageError, match="ask for fewer"):
        Parts.of(settings(members=150), pool())
    with pytest.raises(UsageError, match="20 calibration and 0 unseen rows are left"):
        Parts.of(settings(members=100, external=80, calibration=20), pool())
    with pytest.raises(UsageError, match="5 calibration and 13 unseen rows are left"):
        Parts.of(settings(), pool(groups=torch.arange(200) // 6))


def test_images_are_resized_as_files_are_when_they_are_verified():
    from data import resized

    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    for look in (LOOK, replace(LOOK, size=(32, 32))):
        assert resized(images, look) is images
    larger = replace(LOOK, size=(40, 36), interpolation="bicubic")
    picture = Image.fromarray(images[3].permute(1, 2, 0).numpy())
    assert torch.equal(resized(images, larger)[3], larger.pixels(picture))
    grey = amint.Preprocessing(size=(40, 36), channels=1, mean=(0.5,), std=(0.5,))
    assert torch.equal(resized(images[:, :1], grey)[3], grey.pixels(Image.fromarray(images[3, 0].numpy())))


def test_only_takes_several_lines(tmp_path):
    command = [sys.executable, RECIPES / "ablations.py", "--data-root", tmp_path, "--only", "entry", "middle"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "CIFAR10" in done.stderr, "the arguments were understood"
    assert "Unused" not in done.stdout + done.stderr


def test_copies_of_a_member_play_no_other_role():
    from common import Parts

    alike = pool()
    alike.images[1::2] = alike.images[::2]
    parts = Parts.of(settings(), alike)
    marks = [set(rows.marks().tolist()) for rows in (parts.members, parts.external, parts.calibration, parts.unseen)]
    members, external, calibration, unseen = marks
    assert parts.members.n == 40
    assert 0 < parts.external.n < 60
    assert not members & (external | calibration | unseen)
    assert not external & (calibration | unseen)
    amint.check_disjoint(members=parts.members, external=parts.external, calibration=parts.calibration)


def test_images_are_held_in_one_block_if_they_fit_and_read_as_they_go_if_not(tmp_path, monkeypatch):
    import data
    from common import Parts

    random = np.random.default_rng(0)
    for number in range(200):
        (tmp_path / str(number % 5)).mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(
            tmp_path / str(number % 5) / f"{number}.png"
        )
    files = faces(tmp_path, size=16)
    source = pool(images=files, labels=files.labels)
    fitting = Parts.of(settings(), source)
    monkeypatch.setattr(data, "room", lambda device: 130 * 3 * 256 - 1)
    reading = Parts.of(settings(most_unseen=30), source)
    assert isinstance(fitting.members.images, torch.Tensor)
    assert isinstance(reading.members.images, type(files))
    for role in ("members", "external", "calibration"):
        (a, ya), (b, yb) = (next(iter(getattr(parts, role))) for parts in (fitting, reading))
        assert torch.equal(a, b)
        assert torch.equal(ya, yb)
    monkeypatch.setattr(data, "room", lambda device: 160 * 3 * 256)
    assert len(Parts.of(settings(most_unseen=30), source).members.images) == 160, "rows without a role are not read"
    x, _ = next(iter(reading.members.shuffled(16)))
    assert x.shape == (16, 3, 16, 16)


def test_room_is_half_of_what_is_free():
    from data import room

    assert 2**20 < room("cpu") < 2**50


def test_classes_are_counted_in_the_whole_data_set():
    from common import Parts

    rare = pool()
    rare.labels[:] = 0
    rare.labels[7] = 11
    assert Parts.of(settings(), rare).network(settings()).get_classifier().out_features == 12


def test_the_deepest_tap_does_not_depend_on_the_order_of_names():
    from common import Parts
    from joined import attached

    use = settings(split="layer2,layer1", arch="resnet10t")
    parts = Parts.of(use, pool())
    assert attached(use, parts, parts.network(use)).points[-1].name == "layer2"
    with pytest.raises(SplitError, match="nowhere"):
        attached(replace(use, split="nowhere"), parts, parts.network(use))


def test_unseen_rows_are_a_draw_and_not_the_first_class():
    from common import Parts

    ordered = pool(400, labels=torch.arange(400) // 20)
    unseen = Parts.of(settings(most_unseen=40), ordered).unseen
    assert unseen.n == 40
    assert len(set(ordered.labels[list(unseen.numbers)].tolist())) > 10


def test_a_running_average_takes_in_network_and_head(monkeypatch):
    from common import Parts
    from joined import attached
    from training import train

    use = settings(arch="resnet10t", epochs=3, lr=0.1, tap_lr=0.1, head_lr=0.1)
    parts = Parts.of(use, pool())
    model = parts.network(use)
    audit = attached(use, parts, model)

    # No basis is taken before there were as many rows as values.
    bases = {id(module.matrix) for module in audit.head.modules() if isinstance(module, Whitening)}

    def values():
        every = (*audit.head.parameters(), *model.parameters(), *model.buffers())
        return [value.detach().clone() for value in every if value.is_floating_point() and id(value) not in bases]

    expected, ended, step = [values()], [], torch.optim.AdamW.step

    def seen(optimizer, *arguments):
        step(optimizer, *arguments)
        if not any(p is audit.head.join[0].bias for group in optimizer.param_groups for p in group["params"]):
            return  # the head's optimizers come last
        ended[:] = values()
        expected[0] = [0.7 * mean + 0.3 * value for mean, value in zip(expected[0], ended, strict=True)]

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    train(model, parts.members, use, parts.augment, audit, 0.7)
    for found, mean, last in zip(values(), expected[0], ended, strict=True):
        assert torch.allclose(found, mean, atol=1e-5)
        assert not torch.allclose(last, mean, atol=1e-4)


@pytest.mark.parametrize("precision, expected", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_network_trains_in_the_precision_asked_for_on_views_in_full_precision(precision, expected):
    from common import Parts
    from training import train

    views, maps = set(), set()

    def seen(x):
        views.add((x.dtype, torch.is_autocast_enabled("cpu")))
        return x

    use = settings(arch="resnet10t", precision=precision)
    parts = Parts.of(use, pool())
    model = parts.network(use)
    model.conv1.register_forward_hook(lambda module, given, result: maps.add(result.dtype))
    train(model, parts.members, use, seen)
    assert (views, maps) == ({(torch.float32, False)}, {expected})


def test_without_an_audit_every_layer_learns_at_the_usual_rate(monkeypatch):
    from common import Parts
    from joined import attached
    from training import train

    use, rates = settings(arch="resnet10t", lr=0.1, tap_lr=0.01, head_lr=0.02), []
    parts, cycle = Parts.of(use, pool()), OneCycleLR

    def seen(optimizer, most, steps):
        rates.append(most)
        return cycle(optimizer, most, steps)

    monkeypatch.setattr("training.OneCycleLR", seen)
    model = parts.network(use)
    train(model, parts.members, use, parts.augment)
    train(model, parts.members, use, parts.augment, attached(use, parts, model))
    assert rates == [[0.1], [0.01, 0.1], [0.02], [0.02]]


def test_lines_are_chosen_by_name_or_by_how_they_begin():
    from repeated import chosen

    lines = dict.fromkeys(("lambda 1", "lambda 10", "upgrad"))
    assert list(chosen(lines, ())) == list(lines)
    assert list(chosen(lines, ("lambda 1",))) == ["lambda 1"]
    assert list(chosen(lines, ("lambda", "up"))) == list(lines)
    for wrong in (("mgda",), ("lambda 1", "upgrd")):
        with pytest.raises(SystemExit, match=f"--only {wrong[-1]}: no line begins so; there are: lambda 1"):
            chosen(lines, wrong)


def test_lines_are_compared_seed_by_seed():
    from lines import KEYS
    from spread import differences, means

    def runs(*values):
        return [dict.fromkeys(KEYS, (value, value - 0.1, value + 0.1)) for value in values]

    alone = {"first": runs(0.5), "second": runs(0.6)}
    assert means(alone)["second"]["auroc"] == pytest.approx((0.6, 0.5, 0.7))
    assert differences(alone) == {}
    found = {"first": runs(0.4, 0.5, 0.6), "second": runs(0.5, 0.6, 0.7)}
    value, low, high = means(found)["first"]["auroc"]
    assert (value, high - value) == pytest.approx((0.5, 4.3027 * 0.1 / 3**0.5), abs=1e-3)
    assert high - value == pytest.approx(value - low)
    assert list(differences(found)) == ["second"]
    assert differences(found)["second"]["auroc"] == pytest.approx((0.1, 0.1, 0.1))
    assert means({"high": runs(0.999, 0.97, 0.995)})["high"]["auroc"][2] == 1.0
    assert means({"same": runs(0.9, 0.9)})["same"]["auroc"] == pytest.approx((0.9, 0.8, 1.0))


def test_layers_up_to_a_tap_without_weights_are_those_before_it():
    from training import layers_up_to

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    assert len(layers_up_to("2", model)) == 4
    assert len(layers_up_to("3", model)) == 6
    assert layers_up_to("4", model) == set(model.parameters())


def test_the_paper_knows_its_networks_by_family():
    from paper import Paper

    paper = Paper(
        "some", 10, 20, {"xception entry": (0.1, 0.2), "vit entry": (0.3, 0.4), "resnet50 middle": (0.5, 0.6)}
    )
    assert paper.of(settings(arch="legacy_xception")) == (0.1, 0.2)
    assert paper.of(settings(arch="vit_tiny_patch16_224")) == (0.3, 0.4)
    assert paper.of(settings(arch="resnet50", split="middle")) == (0.5, 0.6)
    for other in ("mobilevit_s", "resnet10t"):
        assert paper.of(settings(arch=other)) is None


def killed(data, use):
    os._exit(1) if use.split == "middle" else use.out.mkdir(parents=True)


def test_a_row_that_is_killed_takes_no_other_with_it(tmp_path, monkeypatch, capsys):
    import grid
    import table

    monkeypatch.setattr(table, "work", killed)
    uses = [("mnist", grid.settings("mnist", "resnet10t", split, {}, tmp_path)) for split in grid.SPLITS]
    table.run_all(uses, 2)
    assert [use.out.is_dir() for _, use in uses] == [True, False, True]
    assert "resnet10t middle failed: BrokenProcessPool" in " ".join(capsys.readouterr().err.split())


def test_runs_are_resumed_wherever_the_data_lies_and_after_a_torn_line(tmp_path, monkeypatch):
    from lines import KEYS
    from repeated import Small, repeated

    made = []

    def line(use, data):
        made.append(use.seed)
        return dict.fromkeys(KEYS, (0.5, 0.4, 0.6))

    lines = {"one": line, "two": line}
    use = Small(data_root=Path("../data"), out=tmp_path)
    repeated(lines, use, None)
    journal = tmp_path / "runs.jsonl"
    journal.write_text(journal.read_text() + '{"name": "one", "se')
    again = repeated(lines, replace(use, data_root=Path("/data"), seeds=2), None)
    assert made == [0, 0, 1, 1]
    assert [run["auroc"] for run in again["two"]] == [(0.5, 0.4, 0.6)] * 2
    assert [json.loads(text).get("seed") for text in journal.read_text().splitlines()] == [None, 0, 0, 1, 1]
    with pytest.raises(SystemExit, match="runs with other settings or of other code"):
        repeated(lines, replace(use, epochs=2), None)
    with monkeypatch.context() as changed:
        changed.setattr("repeated.sources", lambda: "edited")
        with pytest.raises(SystemExit, match="of other code"):
            repeated(lines, use, None)
    journal.write_text("")
    with pytest.raises(SystemExit, match="is empty; remove it"):
        repeated(lines, use, None)


def test_the_weight_of_the_mint_loss_follows_its_schedule():
    from levers import Scheduled

    balance = Scheduled.over(settings(lambda_=2.0), 0.1, 1)()
    task, mint = torch.tensor(4.0), torch.tensor(3.0)
    totals = [float(balance.combine(task, mint)) for _ in range(4)]
    assert totals == pytest.approx([1.2, 2.1, 3.0, 3.0])


def test_damaged_test_signs_are_not_taken_for_missing_ones(tmp_path, monkeypatch):
    import gtsrb

    def read(root, *, train, size):
        if not train:
            raise InputError("damaged")
        return torch.zeros(1), torch.zeros(1), None

    monkeypatch.setattr(gtsrb, "gtsrb", read)
    assert gtsrb.pool(settings(data_root=tmp_path)).test is None
    (tmp_path / "gtsrb").mkdir()
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("")
    with pytest.raises(InputError, match="damaged"):
        gtsrb.pool(settings(data_root=tmp_path))


@pytest.mark.parametrize("data", ["mnist", "cifar10", "gtsrb", "tiny_imagenet", "casia_webface"])
def test_tables_have_the_papers_size_unless_less_is_asked_for(data):
    import grid

    paper = grid.MODULES[data].PAPER
    use = grid.settings(data, "mobilenetv1_100", "entry", {}, Path("out"))
    assert (use.members, use.external) == (paper.members, paper.external)
    assert paper.of(use) is not None
    few = grid.settings(data, "mobilenetv1_100", "entry", {"members": 50, "seed": 3}, Path("out"))
    assert few.out == Path("out") / data / f"50-{paper.external}-seed3" / f"mobilenetv1_100-entry-{use.side}px"
    assert (few.head_hidden, use.head_hidden) == (grid.FULL[data].head_hidden, 1024)
    assert grid.settings(data, "vit_small_patch16_224", "entry", {}, Path("out")).lr < use.lr or data == "casia_webface"


def test_a_table_lets_no_mint_gradient_into_the_network_unless_told_to():
    import grid

    shares = {name: grid.settings("cifar10", "resnet50", name, {}, Path("out")).trunk_gradient for name in grid.SPLITS}
    assert shares == {"entry": 0, "middle": 0, "output": 0}
    for split in grid.SPLITS:
        told = grid.settings("gtsrb", "resnet50", split, {"trunk_gradient": 0.3}, Path("out"))
        assert (told.trunk_gradient, told.lambda_) == (0.3, 1), "a table's own weight, not that of the recipe"


@pytest.mark.parametrize("orl", [True, False])
def test_other_faces_are_not_set_beside_the_papers(orl, monkeypatch, tmp_path):
    import casia_webface

    told = []
    monkeypatch.setattr(casia_webface, "pool", lambda use: None)
    monkeypatch.setattr(casia_webface, "run_row", lambda use, pool, paper: told.append(paper.of(use)))
    casia_webface.main(casia_webface.Casia(data_root=tmp_path, orl=orl))
    assert told == [None if orl else (0.86, 0.15)]


def test_without_a_trunk_gradient_the_audited_network_is_the_plain_one():
    from common import Parts
    from joined import attached
    from training import mirrored, train

    use = settings(arch="resnet10t", trunk_gradient=0.0, epochs=2)
    parts = Parts.of(use, pool(augment=mirrored))
    plain, model = parts.network(use), parts.network(use)
    train(plain, parts.members, use, parts.augment)
    audit = attached(use, parts, model)
    train(model, parts.members, use, parts.augment, audit)
    audit.detach()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_the_head_sees_plain_members_unless_told_otherwise():
    from common import Parts
    from joined import attached
    from training import train

    use = settings(arch="resnet10t", batch=20)
    parts = Parts.of(use, pool())
    plain = fingerprints(next(iter(parts.members))[0]).tolist()
    for view in (True, False):
        audit = attached(use, parts, model := parts.network(use))
        train(model, parts.members, use, lambda x: x.flip(-1), audit, plain_view=view)
        assert (set(plain) <= set(audit.ledger.marks("members").tolist())) == view


def test_a_row_with_other_heads_is_not_the_one_that_was_asked_for(tmp_path):
    from finished import done
    from sources import sources

    use = settings(out=tmp_path)
    row = {name: str(value) for name, value in asdict(use).items()}
    row |= {"sources": sources(), "heads": ["registered"]}
    (tmp_path / "row.json").write_text(json.dumps(row), encoding="utf-8")
    assert done(use, "registered") == row
    assert done(use, "active MINT", "registered") is None


def test_a_row_of_other_code_is_refused(tmp_path):
    from finished import finished

    (tmp_path / "row.json").write_text(json.dumps({"data": "cifar10", "members": 4, "seed": 0}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"row.json was made by other code, it does not say arch, augment, batch, .*"):
        finished(tmp_path, tmp_path)
