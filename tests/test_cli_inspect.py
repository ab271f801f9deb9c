import pytest
from audit_toys import ToyNet, audit_of, images

import amint
from amint.bundle import read
from amint.cli import main


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


def test_facts_that_amint_never_writes_are_one_line_of_error(tmp_path, capsys):
    audit = audit_of(ToyNet())
    audit.facts["task"] = {"plain_accuracy": "<script>"}
    path = audit.save(tmp_path / "a.amint")
    assert run("inspect", path, "--report", tmp_path / "page.html") == 2
    assert "not what amint writes" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "page.html").exists()
