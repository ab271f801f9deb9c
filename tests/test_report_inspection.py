import re
from dataclasses import asdict, replace
from xml.etree import ElementTree

import numpy as np
import pytest
from audit_toys import PREPROCESSING, SHAPE, ToyNet, audit_of, images
from test_report import HOSTILE, METHODS, RESULTS, Page, check_self_contained, curves

import amint
from amint.bundle import read
from amint.errors import BundleError
from amint.findings import Control
from amint.history import Curves
from amint.report import write_training_report
from amint.report.inspection import write_bundle_report
from amint.report.progress import accuracy_curve, loss_curves

STEPS = 30
RUN = Curves(
    2 * STEPS - 1,
    2,
    tuple(np.linspace(0.9, 0.1, STEPS).tolist()),
    tuple(np.linspace(0.5, 1, STEPS).tolist()),
    tuple(np.linspace(2.3, 0.4, STEPS).tolist()),
)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """The bundle of a registration, with everything that can be known of it."""
    members, external, calibration = images(24), images(40, seed=2), images(50, seed=3)
    commitment = amint.commit(members=members, external=external, calibration=calibration)
    model = ToyNet().eval()
    audit = amint.register(
        model, members, external, split="entry", epochs=5, batch_size=8, negatives=amint.one_pixel_shift,
        commitment=commitment,
    )  # fmt: skip
    audit.calibrate(calibration)
    audit.evaluate(members, images(30, seed=4))
    audit.note(plain_accuracy=0.912, audited_accuracy=0.905)
    return read(audit.save(tmp_path_factory.mktemp("bundle") / "a.amint", preprocessing=PREPROCESSING))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return read(audit_of(ToyNet()).save(tmp_path_factory.mktemp("bundle") / "a.amint"))


def with_facts(bundle, **facts):
    return replace(bundle, manifest={**bundle.manifest, "facts": {**bundle.manifest["facts"], **facts}})


def page_of(bundle, folder):
    page = Page(write_bundle_report(bundle, folder / "new" / "page.html").read_text(encoding="utf-8"))
    check_self_contained(page)
    return page


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 pass over"), (20, "20 passes over"), (None, None)])
def test_what_the_head_learned_alone_is_said(bare, tmp_path, epochs, said):
    (sentence,) = page_of(with_facts(bare, **({"head_epochs": epochs} if epochs else {})), tmp_path).said(
        "p", "sentence"
    )
    assert (said is None) == ("then alone for" not in sentence)
    assert said is None or f"then alone for {said} the members" in sentence


def rows_of(page):
    """Label -> value of all tables of facts."""
    found = {}
    for rows in re.findall(r'<table class="facts">(.*?)</table>', page.text, re.DOTALL):
        shown = Page(rows)
        found |= dict(zip(shown.said("th"), shown.said("td", "name"), strict=True))
    return found


def test_everything_a_bundle_knows_is_shown(registered, tmp_path):
    page = page_of(registered, tmp_path)
    facts, manifest = registered.manifest["facts"], registered.manifest
    assert page.said("p", "sentence")[0].startswith(
        "After its own training, a MINT head was trained on this model over 15 steps, told of 24 members. 50 known"
    )
    key = page.key()
    assert (key["Task accuracy, plain"], key["Task accuracy, audited"]) == ("91.2 %", "90.5 %")
    assert "−0.7 points; the owner’s" in page.said("dd")
    auroc = facts["evaluation"]["auroc"]
    assert key["AUROC of the head"] == f"{auroc['value']:.3f}"
    assert f"{auroc['low']:.3f} – {auroc['high']:.3f}; the owner’s" in page.said("dd")
    assert (key["Members"], key["Calibration"]) == ("24", "50")
    assert page.said("td", "n") == ["24", "24", "40", "40", "50", "50"], "seen and committed, role by role"
    rows = rows_of(page)
    assert rows["Hard negatives"] == "one_pixel_shift"
    assert rows["Passes over the members"] == "5"
    assert rows["MINT head"] == "registered afterwards, 15 training steps"
    assert rows["Bundle SHA-256"] == registered.sha256
    for name, digest in manifest["files"].items():
        assert rows[f"SHA-256 of {name}"] == digest
    assert rows["Commitment, Merkle root"] == facts["commitment"]["root"]
    assert rows["Libraries"] == ", ".join(f"{name} {version}" for name, version in manifest["libraries"].items())
    assert rows["Made at"] == manifest["created"]
    assert rows["Signature"] == "The bundle is not signed."
    assert "history" not in rows
    assert len([name for name in rows if name.startswith("Owner’s")]) == 5
    assert facts["controls"][0]["sentence"] in page.said("p")


def test_the_curves_of_a_registration_have_no_task_loss(registered, tmp_path):
    page = page_of(registered, tmp_path)
    assert page.said("title")[1:] == [
        "MINT loss over 15 training steps",
        "Balanced accuracy of the MINT head over 15 training steps",
    ]
    assert "task loss" not in page.text


def test_what_a_bundle_lacks_is_left_out(bare, tmp_path):
    page = page_of(replace(bare, manifest={**bare.manifest, "facts": {}}), tmp_path)
    assert page.said("h2") == ["Who was what", "Settings", "Where it comes from"]
    assert page.key() == {"Calibration": "49"}
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "Committed to" not in page.text
    assert "None" not in page.text
    assert page.said("th", None)[:3] == ["Role", "Different samples", "Calibration"]


@pytest.mark.parametrize("n, said", [(0, "nothing trained the model without it"), (3, "leaves no trace in it")])
def test_updates_that_the_head_did_not_see_are_told(bare, tmp_path, n, said):
    page = page_of(
        with_facts(bare, accounted_updates=1250, unaccounted_updates=n, replaced_weights=0, method="active"), tmp_path
    )
    assert page.key()["Updates without the head"] == str(n)
    assert rows_of(page)["With the head"] == "1,250"
    assert said in " ".join(page.said("small")).replace("\n", " ")


def test_one_of_the_two_accuracies_will_do(bare, tmp_path):
    key = page_of(with_facts(bare, task={"audited_accuracy": 0.5}), tmp_path).key()
    assert [name for name in key if "accuracy" in name] == ["Task accuracy, audited"]


def test_failed_controls_are_shown_as_failed(bare, tmp_path):
    control = asdict(Control("members against external", "failed", "The pictures differ in size."))
    page = page_of(with_facts(bare, controls=[control]), tmp_path)
    assert page.said("span", "tag") == ["failed"]
    assert "The pictures differ in size." in page.said("p")


@pytest.mark.parametrize("text", [*HOSTILE, "\x1b[31mred\u202e", "\ud800", "x" * 5000])
def test_hostile_text_stays_text(bare, tmp_path, text):
    controls = [asdict(Control(text, "passed", text))]
    facts = {text: text, "method": text, "balance": text, "deep": {text: [text, None, 1]}, "evaluation": {"auroc": {}}}
    facts["evaluation"] = {"auroc": {"value": 0.5, "low": 0.4, "high": 0.6, "n": [1, 1]}, text: text}
    facts["commitment"] = {"root": text, "counts": {}}
    page = page_of(with_facts(bare, **facts, controls=controls), tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(character.isprintable() or character in "\n" for character in page.text)
    if len(text) < 400 and text.isprintable():
        assert rows_of(page)[text] == text


@pytest.mark.parametrize(
    "facts",
    [
        {"members_seen": "many"}, {"members_seen": -1}, {"steps": 1.5}, {"unaccounted_updates": [1]},
        {"history": {}}, {"history": [1]}, {"history": RUN.to_json() | {"steps": 7}}, {"task": {}}, {"task": 1},
        {"task": {"plain_accuracy": 95}}, {"task": {"plain_accuracy": "<b>"}}, {"controls": 1}, {"controls": [1]},
        {"controls": [{"name": "x", "outcome": "odd", "sentence": ""}]}, {"evaluation": [1]}, {"evaluation": {"a": 1}},
        {"evaluation": {"auroc": {"value": 10**400, "low": 0, "high": 1, "n": [1, 1]}}}, {"commitment": "root"},
        {"commitment": {"root": "ab", "counts": {"members": "x"}}}, {"commitment": {"counts": {}}},
    ],
)  # fmt: skip
def test_facts_that_amint_never_writes_are_refused(bare, tmp_path, facts):
    with pytest.raises(BundleError, match="are not what amint writes"):
        write_bundle_report(with_facts(bare, **facts), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def drawn(svg, color):
    """Points ``[k, 2]`` of the line of a colour, as shares of its panel from the lower left."""
    root = ElementTree.fromstring(svg)
    (line,) = (
        p for p in root.iter("path") if p.get("clip-path") and re.search(f"stroke: {color}", p.get("style") or "")
    )
    clip = line.get("clip-path").removeprefix("url(#").removesuffix(")")
    (box,) = next(element for element in root.iter("clipPath") if element.get("id") == clip)
    x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", line.get("d")), float)
    return np.c_[(points[:, 0] - x) / width, (y + height - points[:, 1]) / height]


def test_both_losses_are_drawn_over_the_steps():
    svg = loss_curves("losses", RUN)
    task, mint = drawn(svg, "#0072b2"), drawn(svg, "#d55e00")
    top = 1.08 * 0.9
    np.testing.assert_allclose(mint[[0, -1], 1] * top, [0.9, 0.1], atol=2e-3)
    assert 1 > task[0, 1] > task[-1, 1] > 0
    np.testing.assert_allclose(mint[[0, -1], 0], task[[0, -1], 0], atol=1e-4)
    np.testing.assert_allclose(drawn(svg, "#6b7280")[:, 1] * top, np.log(2), atol=2e-3)


def test_the_figures_say_in_words_what_they_draw():
    (said,) = re.findall("<desc[^>]*>(.*?)</desc>", loss_curves("losses", RUN))
    first, last = np.mean(RUN.task_loss[:3]), np.mean(RUN.task_loss[-3:])
    assert f"Task loss: {first:.3g} over the first tenth, {last:.3g} over the last; between 0.4 and 2.3." in said
    assert said.endswith("A head that guesses has a MINT loss of ln 2.")
    assert "Balanced accuracy: 51.7% over the first tenth, 98.3% over the last" in accuracy_curve("accuracy", RUN)


def test_a_single_step_and_wild_losses_are_drawn():
    for run in (Curves(1, 1, (0.7,), (0.5,), (2.0,)), Curves(2, 1, (1e12, 0.0), (0.0, 1.0), (-1e30, 1e30))):
        for svg in (loss_curves("losses", run), accuracy_curve("accuracy", run)):
            assert "nan" not in svg
            ElementTree.fromstring(svg)


def test_the_training_report_draws_the_curves_it_is_given(tmp_path):
    path = write_training_report(RESULTS, curves(), {}, tmp_path / "report.html", progress=RUN)
    page = Page(path.read_text(encoding="utf-8"))
    check_self_contained(page)
    assert "Task loss and MINT loss over 59 training steps" in page.said("title")
    assert "Each point is the mean of 2 steps." in " ".join(page.said("figcaption"))
    without = write_training_report(RESULTS, curves(), {}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The training, step by step" not in without


def test_the_names_of_the_methods_are_those_of_the_other_reports(registered, tmp_path):
    assert METHODS["registered"] in rows_of(page_of(registered, tmp_path))["MINT head"]
    assert registered.input_shape == SHAPE
