import re

import numpy as np
import pytest
import torch
from audit_toys import audit_of, images
from comparison_toys import TableFleet, TableTarget, table

from amint.comparison import compare
from amint.labelled import read_labelled
from amint.reference_notes import calibration_refusal
from amint.roles import fingerprints

SIDE = 200
CAUSE = "other preprocessing or in another dtype"


def noted(n_members, n_others, attacks=("loss", "watson"), **changes):
    """A comparison whose references were trained on the first rows of each side; columns of members, then others."""
    signals, members, nonmembers = table(SIDE, SIDE)
    at = torch.cat([members[0], nonmembers[0]])[:, 0].long().numpy()
    for name, column in changes.items():
        signals.columns[name][at] = column
    first = np.arange(SIDE)
    seen = np.concatenate([first < n_members, first < n_others])
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    return compare(TableTarget(signals, own), members, nonmembers, attacks=attacks, fleet=TableFleet(signals, seen))


def test_references_of_the_pool_are_no_matter_of_a_note():
    found = noted(SIDE, SIDE)
    assert not any("reference" in note for note in found.notes)
    assert found["watson"].note == ""


def test_references_of_none_of_the_audited_rows_are_noted_first_and_in_their_own_lines():
    found = noted(0, 0)
    assert found.notes[0].startswith(
        "The reference models were trained on none of the audited rows (0 of 100 members, 0 of 100 non-members)."
    )
    assert CAUSE in found.notes[0]
    assert found["watson"].note == "the reference models were trained on none of the audited rows, see the notes"
    assert found["loss"].note == ""


@pytest.mark.parametrize(
    "name, runs", [("attack-r", True), ("lira-offline", True), ("watson", True), ("lira-online", False)]
)
def test_references_of_other_samples_only_serve_offline_attacks(name, runs):
    # LiRA's IN variance is that of known samples with IN references, of which there are none here.
    found = noted(0, 0, [name], reference_in=False)
    assert not found[name].reason if runs else "have no IN reference" in found[name].reason


@pytest.mark.parametrize("counts", [(60, 60), (200, 60), (60, 200)])
def test_references_of_few_of_the_audited_rows_are_noted_with_counts(counts):
    found = noted(*counts)
    (note,) = [note for note in found.notes if CAUSE in note]
    assert "audited members and" in note
    assert note.count("of 100 audited") == 2
    assert found["watson"].note == ""


def test_most_of_the_rows_are_enough():
    assert not any(CAUSE in note for note in noted(170, 170).notes)


def test_rows_read_in_another_way_than_the_references_did_are_noticed():
    """The models were trained on these very samples, scaled by a millionth less."""
    from amint.fleet import Fleet

    signals, (x, y), (x2, y2) = table(SIDE, SIDE)
    marks = fingerprints(torch.cat([x, x2])).numpy()
    trained = Fleet(None, None, {}, marks, np.arange(4) % 2 == np.arange(2 * SIDE)[:, None] % 2)

    class OfTable(TableFleet):
        def saw(self, marks):
            return trained.saw(marks)

    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}

    def notes(scale):
        shown = [(torch.stack([rows[:, 0], rows[:, 1] * scale], 1), labels) for rows, labels in ((x, y), (x2, y2))]
        return compare(TableTarget(signals, own), *shown, attacks=["watson"], fleet=OfTable(signals)).notes

    assert not any(CAUSE in note for note in notes(1.0))
    assert CAUSE in notes(1 + 1e-6)[0]


def test_the_shadow_s_own_members_are_counted():
    rows = np.arange(2 * SIDE)
    found = noted(SIDE, SIDE, ["salem", "watson"], shadow_in=rows % 2 == 0)
    said = re.search(r"the shadow model was trained on (\d+) of the 100 audited members$", found["salem"].note)
    assert 30 < int(said[1]) < 70
    assert "shadow" not in found["watson"].note
    assert "shadow" not in noted(SIDE, SIDE, ["salem"], shadow_in=(rows >= SIDE) & (rows % 2 == 0))["salem"].note


class Saw:
    """References that were trained on these samples."""

    provides = frozenset({"reference_in", "reference_logprob"})
    k = 4

    def __init__(self, x):
        self.marks = fingerprints(x).numpy()

    def saw(self, marks):
        return np.isin(marks, self.marks)

    def signals(self, batches, needs, **arguments):
        raise AssertionError("they were asked")


@pytest.fixture(scope="module")
def calibrated():
    """An audit with 49 calibration samples, and the rows of a comparison."""
    y = torch.arange(30) % 4
    return audit_of(calibration=49), images(49, seed=99), (images(30, seed=1), y), (images(30, seed=2), y)


def test_references_that_saw_the_audit_s_calibration_are_refused_with_counts(calibrated):
    audit, calibration, members, nonmembers = calibrated
    found = compare(
        audit, members, nonmembers, attacks=["loss", "watson"], fleet=Saw(torch.cat([members[0], calibration[:12]]))
    )
    assert "trained on 12 of 49 calibration samples of this audit" in found["watson"].reason
    assert "train references on a pool without them" in found["watson"].reason
    assert not found["loss"].reason


def test_references_that_saw_no_calibration_sample_stand(calibrated):
    audit, _, members, nonmembers = calibrated
    rows = read_labelled(members, nonmembers)
    assert calibration_refusal(Saw(torch.cat([members[0], nonmembers[0]])), audit, rows) == ""
    assert calibration_refusal(None, audit, rows) == ""
    assert calibration_refusal(Saw(members[0]), None, rows) == ""
    assert calibration_refusal(Saw(members[0]), audit_of(calibration=0), rows) == ""


def test_calibration_samples_that_are_compared_as_non_members_may_be_in_the_pool(calibrated):
    audit, calibration, members, _ = calibrated
    pool = Saw(torch.cat([members[0], calibration]))
    y = torch.arange(49) % 4
    assert calibration_refusal(pool, audit, read_labelled(members, (calibration, y))) == ""
    said = calibration_refusal(pool, audit, read_labelled(members, (calibration[:40], y[:40])))
    assert "9 of 9 calibration samples" in said
