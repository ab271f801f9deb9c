"""Bundles whose hashes fit and whose facts are odd: refused by name, or judged and shown by everything there is."""

import json
import random

import pytest
from audit_toys import PREPROCESSING, ToyNet, images
from fuzz_material import watched
from test_fuzz import NAMES, TOY, as_folder, changed_somewhere, resealed

import amint
from amint import bundle
from amint.bundle_files import MANIFEST
from amint.cli import main
from amint.errors import BundleError
from amint.ml_bom import ml_bom
from amint.report import write_report

READ_BY_NAME = (
    "method", "by_class", "steps", "members_seen", "calibration_copies", "accounted_updates", "unaccounted_updates",
    "replaced_weights", "controls", "evaluation", "task", "history", "commitment", "commitment_use",
)  # fmt: skip
WITH_PARTS = READ_BY_NAME[-6:]
ODD = [
    None, True, 0, -1, 1.5, 10**30, 1e308, "", "x\x1b[31m", "\ud800", [], {}, [{}], [[]], {"a": 1},
    [{"name": "x", "outcome": "passed", "sentence": 5}], {"root": 5}, {"alpha": 0.1, "auroc": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The files of a bundle with all the facts that there can be, by name."""
    members, external, calibration = images(10), images(30, seed=2), images(19, seed=3)
    commitment = amint.commit(members=members, external=external, calibration=calibration)
    audit = amint.register(ToyNet().eval(), members, external, split="entry", epochs=2, commitment=commitment)
    audit.calibrate(calibration, by_class=True)
    audit.evaluate(members, images(10, seed=4))
    audit.note(plain_accuracy=0.5, audited_accuracy=0.25)
    audit.facts |= dict.fromkeys(("steps", "accounted_updates", "unaccounted_updates", "replaced_weights"), 3)
    path = tmp_path_factory.mktemp("told") / "toy.amint"
    audit.save(path, preprocessing=PREPROCESSING, architecture=TOY)
    assert set(READ_BY_NAME) <= set(json.loads((path / MANIFEST).read_bytes())["facts"])
    return {name: (path / name).read_bytes() for name in NAMES}


def judged_and_shown(path, out):
    """Why a bundle is refused, by every command; "" if it is not, and then everything speaks of its facts."""
    page = out / "bundle.html"
    page.unlink(missing_ok=True)
    with watched():
        with pytest.raises(SystemExit) as stop:
            main(["inspect", str(path), "--report", str(page)])
        assert (stop.value.code, page.exists()) in [(0, True), (2, False)]
        try:
            verdict = amint.verify(path, images(3, seed=9), alpha=0.1, allow_import=[TOY.name])
        except BundleError as error:
            assert not page.exists()
            return str(error)
        assert page.exists()
        held = bundle.read(path)
        write_report(verdict, held.calibration, out / "verdict.html")
        verdict.write(out)
        json.dumps(ml_bom(held), allow_nan=False)
    return ""


@pytest.mark.parametrize("name", [*READ_BY_NAME, "of another name"])
def test_odd_facts_are_refused_by_name_or_go_the_whole_way(tmp_path, told, name):
    # Facts that nothing reads by name go the whole way each time.
    values, passed = ODD if name in READ_BY_NAME else ODD[::3], []
    for value in values:
        files = resealed(told, lambda manifest, value=value: manifest["facts"].update({name: value}))
        reason = judged_and_shown(as_folder(tmp_path / "b", files), tmp_path)
        assert not reason or f"the fact '{name}' is not what amint writes" in reason
        passed += [] if reason else [value]
    texts = [value for value in ODD if isinstance(value, str)]
    of_a_kind = {"of another name": values, "method": texts, "by_class": [True], "controls": [[]]}
    assert passed == of_a_kind.get(name, [] if name in WITH_PARTS else [0])


@pytest.mark.parametrize(
    "loss, refused", [(0.0, False), (1e300, False), (-1e300, False), (1e308, True), (-1e308, True)]
)
def test_losses_are_drawn_or_refused(tmp_path, told, loss, refused):
    def change(manifest):
        manifest["facts"]["history"] |= {"mint_loss": [loss, -loss], "task_loss": [loss, 0.5]}

    reason = judged_and_shown(as_folder(tmp_path / "b", resealed(told, change)), tmp_path)
    assert ("the fact 'history' is not what amint writes: expected losses of at most" in reason) == refused


@pytest.mark.parametrize("rounds", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_facts_with_odd_values_inside_are_refused_or_go_the_whole_way(tmp_path, told, rounds):
    dice = random.Random(rounds)
    outcomes = []
    for _ in range(rounds):
        name, seed = dice.choice(WITH_PARTS), dice.random()

        def change(manifest, name=name, seed=seed):
            manifest["facts"][name] = changed_somewhere(manifest["facts"][name], random.Random(seed))

        outcomes.append(judged_and_shown(as_folder(tmp_path / "b", resealed(told, change)), tmp_path))
    assert sum("is not what amint writes" in reason for reason in outcomes) > rounds / 2
