import re
import subprocess
import sys

import pytest
from audit_toys import PREPROCESSING, ToyNet, audit_of, images

import amint
from amint.bundle import read
from amint.cli import main
from amint.commands import console


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    audit = amint.register(ToyNet().eval(), images(16), images(24, seed=2), split="entry", epochs=2, batch_size=8)
    audit.calibrate(images(30, seed=3))
    return audit.save(tmp_path_factory.mktemp("bundle") / "a.amint")


def run(*arguments):
    """Exit status of a command; 0 when it returns."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_the_report_is_written_where_it_should_be(bundle, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert run("inspect", bundle, "--report", page) == 0
    assert read(bundle).sha256 in page.read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "page.html" in "".join(out.split())


def test_without_the_option_nothing_is_written_and_the_curves_are_not_printed(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("inspect", bundle) == 0
    out = capsys.readouterr().out
    assert "curves of the training" in out
    assert "mint_loss" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_curves_says_nothing_of_them(tmp_path, capsys):
    assert run("inspect", audit_of(ToyNet()).save(tmp_path / "a.amint")) == 0
    assert "training: history" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A bundle with everything that can be known of it."""
    members, external, calibration = images(24), images(40, seed=2), images(50, seed=3)
    audit = amint.register(
        ToyNet().eval(), members, external, split="entry", epochs=5, batch_size=8,
        commitment=amint.commit(members=members, external=external, calibration=calibration),
    )  # fmt: skip
    audit.calibrate(calibration)
    audit.evaluate(members, images(30, seed=4), alpha=0.1)
    audit.note(plain_accuracy=0.912, audited_accuracy=0.905)
    return audit.save(
        tmp_path_factory.mktemp("bundle") / "a.amint",
        preprocessing=PREPROCESSING,
        architecture=amint.Architecture("import", "audit_toys:ToyNet", {"activation": "ReLU", "width": 8}),
    )


def test_everything_is_said_in_words_and_figures(full, monkeypatch, capsys):
    monkeypatch.setattr(console.out, "width", 400)
    assert run("inspect", full) == 0
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    said = {line[1].strip(): line[2].strip() for line in lines}
    facts = read(full).manifest["facts"]
    labels = {
        "auroc": "AUROC",
        "balanced_accuracy": "balanced accuracy, at alpha = 0.1",
        "tpr_at_fpr_0.01": "TPR at an FPR of 0.01",
    }
    for name, label in labels.items():
        found = facts["evaluation"][name]
        interval = f"95 % interval {found['low']:.3f} – {found['high']:.3f}; 24 members, 30 unseen"
        interval += "; needs at least 100 non-members, has 30" if name.startswith("tpr") else ""
        assert said[f"evaluation: {label}"] == f"{found['value']:.3f} ({interval})"
    assert (said["task: plain accuracy"], said["task: audited accuracy"]) == ("91.2 %", "90.5 %")
    (control,) = facts["controls"]
    assert said["control: members against external"] == f"{control['outcome']}: {control['sentence']}"
    assert said["commitment, Merkle root"] == facts["commitment"]["root"]
    assert said["commitment"].startswith("24 members, 40 external and 50 calibration samples were committed to when")
    assert said["training: method"] == "registered afterwards"
    assert said["training: different members"] == "24"
    assert said["training: Passes over the members"] == "5"
    assert said["training: Compared within the predicted class"] == "no"
    assert said["training: Members evaluated that the head was not told of, as they are"] == "0"
    assert said["model"] == "import/audit_toys:ToyNet with activation=ReLU, width=8"
    assert said["preprocessing"] == "3 x 16 x 16, bicubic, mean 0.4 / 0.5 / 0.6, std 0.2 / 0.3 / 0.4"
    assert re.match(r"entry \(8 x 8 x 8\) at \d+\.\d% of the forward cost, middle \(16 x 4 x 4\) at", said["taps"])
    assert not [text for text in said.values() if re.search(r"[{}\[\]]|None|True|False", text)], "no Python values"


def test_what_the_terminal_says_needs_no_plots(full):
    script = f"from amint.cli import main\ntry:\n    main(['inspect', {str(full)!r}])\nfinally:\n    import sys\n"
    script += "    print({'matplotlib', 'jinja2'} & {*sys.modules})"
    for more, loaded in (("", "set()"), ("import jinja2\n", "{'jinja2'}")):
        done = subprocess.run([sys.executable, "-c", more + script], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == loaded, done.stderr


def test_facts_that_amint_never_writes_are_one_line_of_error(tmp_path, capsys):
    audit = audit_of(ToyNet())
    audit.facts["task"] = {"plain_accuracy": "<script>"}
    path = audit.save(tmp_path / "a.amint")
    assert run("inspect", path, "--report", tmp_path / "page.html") == 2
    assert "not what amint writes" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "page.html").exists()
