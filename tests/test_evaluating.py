"""Rows called unseen are refused where they were seen, for they would flatter the head."""

import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images
from torch.utils.data import DataLoader, TensorDataset

import amint
from amint.errors import RoleOverlapError
from amint.evaluating import UNKNOWN
from amint.loading import load
from amint.roles import Ledger

MEMBERS, EXTERNAL, CALIBRATION, UNSEEN = images(16), images(24, seed=2), images(30, seed=3), images(20, seed=4)
SEEN = {"external rows": EXTERNAL, "calibration rows": CALIBRATION, "members": MEMBERS}


def registered():
    audit = amint.register(ToyNet().eval(), MEMBERS, EXTERNAL, split="entry", epochs=3, batch_size=8)
    audit.calibrate(CALIBRATION)
    return audit


@pytest.mark.parametrize("role", SEEN)
@pytest.mark.parametrize("as_loader", [False, True])
def test_rows_with_a_role_are_not_unseen(role, as_loader):
    audit = registered()
    assert audit.ledger.count("external") == 24
    others = torch.cat([UNSEEN[:3], SEEN[role][:2], UNSEEN[3:], SEEN[role][5:6]])
    source = DataLoader(TensorDataset(others, torch.zeros(23)), batch_size=7) if as_loader else others
    wrong = rf"but 3 of 23 are {role} \(first at rows \[3, 4, 22\]\); take them out"
    before = dict(audit.facts)
    with pytest.raises(RoleOverlapError, match=wrong):
        audit.evaluate(MEMBERS[8:], source)
    assert audit.facts == before
    assert audit.training.member_scores is None
    assert audit.evaluate(MEMBERS, UNSEEN)["auroc"].n_nonmembers == 20


def test_every_role_is_named():
    with pytest.raises(RoleOverlapError, match=r"24 of 70 are external rows .* 30 of 70 are calibration .* 16 of 70"):
        registered().evaluate(UNSEEN, torch.cat([EXTERNAL, CALIBRATION, MEMBERS]))


@pytest.mark.parametrize("role", ["external rows", "calibration rows"])
def test_a_bundle_knows_what_was_seen_but_its_members(tmp_path, role):
    loaded = load(registered().save(tmp_path / "a.amint"), model=ToyNet())
    with pytest.raises(RoleOverlapError, match=rf"but 1 of 21 are {role} \(first at rows \[20\]\)"):
        loaded.evaluate(MEMBERS, torch.cat([UNSEEN, SEEN[role][:1]]))
    loaded.evaluate(MEMBERS[:8], torch.cat([UNSEEN, MEMBERS[8:]]))
    assert UNKNOWN not in loaded.facts


def test_one_row_is_not_both_member_and_unseen():
    audit = audit_of()
    with pytest.raises(RoleOverlapError, match=r"1 of 20 are members \(first at rows \[19\]\)"):
        audit.evaluate(UNSEEN[19:], UNSEEN)


def test_figures_of_another_head_are_not_kept(tmp_path):
    audit = registered()
    audit.evaluate(MEMBERS, UNSEEN)
    audit.calibrate(CALIBRATION)
    assert {"evaluation", UNKNOWN} <= audit.facts.keys(), "nothing changed"
    with torch.no_grad():
        next(audit.head.parameters()).add_(1)
    audit.calibrate(CALIBRATION)
    assert audit.facts.keys().isdisjoint({"evaluation", UNKNOWN})
    assert audit.training.member_scores is None
    loaded = load(audit.save(tmp_path / "a.amint"), model=ToyNet())
    assert loaded.training.member_scores is None
    assert "evaluation" not in loaded.facts


def test_members_that_the_head_was_not_told_of_are_counted_and_not_refused(tmp_path):
    audit = registered()
    audit.evaluate(torch.cat([MEMBERS, MEMBERS[:4].flip(3)]), UNSEEN)
    assert audit.facts[UNKNOWN] == 4
    audit.evaluate(MEMBERS, UNSEEN)
    assert audit.facts[UNKNOWN] == 0
    loaded = load(audit.save(tmp_path / "a.amint"), model=ToyNet())
    assert loaded.facts[UNKNOWN] == 0
    loaded.evaluate(MEMBERS, UNSEEN)
    assert UNKNOWN not in loaded.facts, "a bundle knows no members, and the old figures are gone"


def test_members_beyond_what_is_remembered_are_not_counted(monkeypatch):
    monkeypatch.setattr(Ledger, "MOST", 10)
    audit = registered()
    audit.evaluate(MEMBERS, UNSEEN)
    assert UNKNOWN not in audit.facts


def test_a_generator_is_read_once():
    audit = audit_of()
    measured = audit.evaluate((x for x in MEMBERS.split(5)), (x for x in UNSEEN.split(6)))
    assert measured["auroc"].value == audit.evaluate(MEMBERS, UNSEEN)["auroc"].value
    assert np.array_equal(audit.training.member_scores, audit.scores(MEMBERS))
