"""What was committed to against what was used."""

import json
import os
import subprocess
import sys

import pytest
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of, images, tensors_of, write_pictures

import amint
from amint.architecture import Architecture
from amint.bundle import read
from amint.commitments import Commitment, Proof, commit, commitment_sentence, prove, read_public
from amint.errors import InputError, RoleOverlapError, UsageError
from amint.facts import check_facts

MEMBERS, EXTERNAL, CALIBRATION = images(8, seed=1), images(6, seed=2), images(12, seed=3)
COMMITTED = commit(members=MEMBERS, external=EXTERNAL, calibration=CALIBRATION)
COUNTS = COMMITTED.public()["counts"]


def trained(commitment=COMMITTED, secret=True, members=MEMBERS):
    """A model that the head was trained on, not calibrated; with the commitment's secret or its public part."""
    public = commitment.public()
    audit = amint.register(ToyNet().eval(), members, EXTERNAL, epochs=1, commitment=public)
    audit.committed = commitment if secret else None
    return audit


def test_calibration_rows_that_were_committed_to_are_recorded_as_found():
    audit = trained()
    audit.calibrate(CALIBRATION[:9])
    seen = {"members": 8, "external": 6, "calibration": 9}
    assert audit.facts["commitment_use"] == {"seen": seen, "checked": "rows"}
    assert audit.facts["commitment"] == COMMITTED.public()


def test_without_the_secret_rows_are_only_counted():
    audit = trained(secret=False)
    audit.calibrate(images(12, seed=44))
    assert audit.facts["commitment_use"]["checked"] == "counts"
    assert audit.facts["commitment_use"]["seen"]["calibration"] == 12


def test_an_audit_without_a_commitment_records_no_use():
    audit = audit_of()
    assert "commitment_use" not in audit.facts


@pytest.mark.parametrize(
    "rows",
    [images(12, seed=44), torch.cat([CALIBRATION[:5], images(1, seed=44)]), CALIBRATION.double(), CALIBRATION + 1e-6],
)
def test_a_calibration_row_that_was_not_committed_to_is_refused(rows):
    audit = trained()
    with pytest.raises(UsageError, match=r"different calibration samples were not committed to .* bit for bit"):
        audit.calibrate(rows)
    assert audit.records is None
    assert "commitment_use" not in audit.facts
    audit.calibrate(CALIBRATION)


@pytest.mark.parametrize("role", ["members", "external"])
def test_a_calibration_row_that_was_committed_to_as_something_else_is_refused(role):
    # Training stopped before it came to the last of them.
    audit = amint.register(ToyNet().eval(), MEMBERS[:4], EXTERNAL[:4], epochs=1, commitment=COMMITTED.public())
    audit.committed = COMMITTED
    last = {"members": MEMBERS, "external": EXTERNAL}[role][-1:]
    with pytest.raises(RoleOverlapError, match=f"1 of 13 different calibration samples were committed to as {role}"):
        audit.calibrate(torch.cat([CALIBRATION, last]))


def test_more_calibration_samples_than_committed_to_are_refused():
    audit = trained(secret=False)
    with pytest.raises(UsageError, match=r"13 different samples are to calibrate, but 12 were committed to"):
        audit.calibrate(images(13, seed=44))
    assert audit.records is None


def test_copies_of_calibration_samples_are_no_more_samples_than_committed_to():
    audit = trained()
    audit.calibrate(CALIBRATION.repeat(3, 1, 1, 1))
    assert audit.facts["commitment_use"]["seen"]["calibration"] == 12


def test_more_member_rows_than_committed_to_are_told_and_not_refused():
    """Random augmentation makes new rows of the same members, epoch by epoch."""
    audit = trained(members=torch.cat([MEMBERS, MEMBERS.flip(3)]))
    audit.calibrate(CALIBRATION)
    assert audit.facts["commitment_use"]["seen"]["members"] == 16
    assert "More members than committed to can come from random augmentation" in commitment_sentence(audit.facts)


@pytest.mark.parametrize("secret", [True, False])
def test_what_nothing_was_committed_to_for_is_left_alone(secret):
    audit = trained(commit(members=MEMBERS), secret=secret)
    audit.calibrate(images(12, seed=44))
    assert audit.facts["commitment_use"]["checked"] == ("rows" if secret else "counts")


def test_members_cannot_calibrate_though_no_calibration_was_committed_to():
    audit = amint.register(ToyNet().eval(), MEMBERS[:4], EXTERNAL, epochs=1, commitment=COMMITTED.public())
    audit.committed = commit(members=MEMBERS)
    audit.facts["commitment"] = audit.committed.public()
    with pytest.raises(RoleOverlapError, match="1 of 3 different calibration samples were committed to as members"):
        audit.calibrate(torch.cat([CALIBRATION[:2], MEMBERS[-1:]]))


def test_the_secret_of_another_commitment_is_refused():
    audit = trained()
    audit.committed = commit(members=MEMBERS, external=EXTERNAL, calibration=CALIBRATION)
    with pytest.raises(UsageError, match=f"started with the commitment {COMMITTED.root}"):
        audit.calibrate(CALIBRATION)


def test_what_was_seen_survives_loading_and_another_calibration(tmp_path):
    audit = trained()
    audit.calibrate(CALIBRATION)
    loaded = amint.load(audit.save(tmp_path / "a.amint"), model=ToyNet())
    assert loaded.facts["commitment_use"] == audit.facts["commitment_use"]
    loaded.calibrate(CALIBRATION[:7])
    seen = {"members": 8, "external": 6, "calibration": 7}
    assert loaded.facts["commitment_use"] == {"seen": seen, "checked": "counts"}
    read(loaded.save(tmp_path / "b.amint"))


def facts_of(checked="rows", method="active", counts=(8, 6, 12), seen=(8, 6, 12)):
    roles = ("members", "external", "calibration")
    facts = {"method": method, "commitment": COMMITTED.public() | {"counts": dict(zip(roles, counts, strict=True))}}
    if checked:
        facts["commitment_use"] = {"seen": dict(zip(roles, seen, strict=True)), "checked": checked}
    return facts


def test_the_sentence_says_what_was_committed_to_and_when():
    assert commitment_sentence({}).startswith("Nothing was committed to before training")
    said = commitment_sentence(facts_of())
    assert said.startswith("8 members, 6 external and 12 calibration samples were committed to when training began.")
    assert "a proof for any one of them can be asked for" in said
    assert "was not checked; the head saw 8 different rows of members and 6 external ones." in said
    assert "augmentation" not in said
    assert "after the model’s own training" in commitment_sentence(facts_of(method="registered"))


@pytest.mark.parametrize(
    "facts, said",
    [
        (facts_of("rows"), "each of the 12 calibration samples used was found among those committed to"),
        (facts_of("counts"), "Of the calibration only the number was compared: 12 different samples were used."),
        (facts_of(None), "Whether these are the samples that were used was not checked."),
        (
            facts_of("rows", seen=(8, 6, 9)),
            "Only 9 of 12 were used: unless the others are copies of them, which to",
        ),
        (facts_of("counts", seen=(8, 6, 9)), "and such a choice can move every p-value."),
        (facts_of("counts", counts=(8, 6, 0)), "No calibration samples were committed to."),
        (facts_of("rows", counts=(8, 6, 0)), "none of the 12 that were used was committed to in another role."),
        (facts_of(seen=(9, 6, 12)), "More members than committed to can come from"),
        (facts_of(seen=(9, 7, 12)), "More members and external rows than committed to can come from"),
    ],
)
def test_the_sentence_says_no_more_than_was_checked(facts, said):
    whole = commitment_sentence(facts)
    assert said in whole
    by_rows = facts.get("commitment_use", {}).get("checked") == "rows"
    looked_up = by_rows and facts["commitment"]["counts"]["calibration"] > 0
    assert ("was found among" in whole) == looked_up


@pytest.mark.parametrize(
    "use",
    [
        None, [], {}, 5, {"seen": {}, "checked": "rows"},
        {"seen": {"members": 1, "external": 1, "calibration": -1}, "checked": "rows"},
        {"seen": {"members": 1, "external": 1, "calibration": True}, "checked": "rows"},
        {"seen": {"members": 1, "external": 1, "calibration": 1}, "checked": "all"},
        {"seen": {"members": 1, "external": 1, "calibration": 1}, "checked": []},
        {"seen": {"members": 1, "external": 1, "calibration": 1}, "checked": "rows", "more": 1},
    ],
)  # fmt: skip
def test_what_is_no_use_of_a_commitment_is_refused(use):
    with pytest.raises(UsageError, match="the fact 'commitment_use' is not what amint writes"):
        check_facts({"commitment": COMMITTED.public(), "commitment_use": use})


def test_the_use_of_no_commitment_is_refused():
    with pytest.raises(UsageError, match="there is no commitment"):
        check_facts({"commitment_use": facts_of()["commitment_use"]})


@pytest.mark.parametrize("load", [Commitment.load, read_public, Proof.load])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, load):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null", tmp_path):
        with pytest.raises(InputError, match="cannot be read: it is not a regular file"):
            load(path)


def test_a_link_to_a_file_is_read(tmp_path):
    COMMITTED.publish(tmp_path / "public.json")
    (tmp_path / "link").symlink_to(tmp_path / "public.json")
    assert read_public(tmp_path / "link") == COMMITTED.public()


def test_no_command_waits_for_a_pipe(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 2)
    architecture = Architecture("import", "audit_toys:ToyNet")
    bundle = audit_of().save(tmp_path / "a.amint", preprocessing=PREPROCESSING, architecture=architecture)
    rows = tensors_of(folder)
    commitment = commit(members=rows)
    commitment.save(tmp_path / "private.json")
    commitment.publish(tmp_path / "public.json")
    prove(commitment, rows[0]).save(tmp_path / "proof.json")
    os.mkfifo(tmp_path / "pipe")
    sound = {
        "prove": [tmp_path / "private.json", bundle, folder / "000.png"],
        "check-proof": [tmp_path / "public.json", tmp_path / "proof.json", bundle, folder / "000.png"],
    }
    calls = [
        [command, *arguments[:at], tmp_path / "pipe", *arguments[at + 1 :]]
        for command, arguments in sound.items()
        for at in range(len(arguments))
    ]
    calls = [[*map(str, call), *([str(tmp_path / "out.json")] if call[0] == "prove" else [])] for call in calls]
    # A process of its own for all of them, so that one that waits fails the test instead of stopping it.
    script = (
        "import json, sys\nfrom amint.cli import main\ncodes = []\nfor call in json.loads(sys.argv[1]):\n"
        "    try:\n        main(call)\n    except SystemExit as stop:\n        codes.append(stop.code)\nprint(codes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(calls)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1] == str([2] * 7), done.stderr
    assert not (tmp_path / "out.json").exists()


def test_attaching_and_registering_take_over_a_commitment_alike():
    for commitment, secret in ((COMMITTED, COMMITTED), (COMMITTED.public(), None), (None, None)):
        attached = amint.attach(ToyNet(), external=EXTERNAL, commitment=commitment)
        registered = amint.register(ToyNet().eval(), MEMBERS, EXTERNAL, epochs=1, commitment=commitment)
        public = None if commitment is None else COMMITTED.public()
        for audit in (attached, registered):
            assert audit.committed is secret
            assert audit.facts.get("commitment") == public


def test_a_damaged_commitment_leaves_the_model_as_it_was():
    model = ToyNet()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(InputError, match="it was edited or damaged"):
        amint.attach(model, external=EXTERNAL, commitment=COMMITTED.public() | {"counts": {**COUNTS, "members": 9}})
    assert [name for name, _ in model.named_modules()] == names
    assert not model._forward_hooks


@pytest.mark.parametrize("secret", [True, False])
def test_what_calibrate_would_refuse_is_refused_before_training(secret):
    audit = amint.attach(ToyNet(), external=EXTERNAL, commitment=COMMITTED if secret else COMMITTED.public())
    audit.check_calibration(CALIBRATION)
    audit.check_calibration(CALIBRATION[:5].repeat(2, 1, 1, 1))
    if secret:
        with pytest.raises(UsageError, match="12 of 12 different calibration samples were not committed to"):
            audit.check_calibration(CALIBRATION.double())
        with pytest.raises(RoleOverlapError, match="1 of 13 different calibration samples were committed to as member"):
            audit.check_calibration(torch.cat([CALIBRATION, MEMBERS[:1]]))
    else:
        with pytest.raises(UsageError, match="13 different samples are to calibrate, but 12 were committed to"):
            audit.check_calibration(images(13, seed=44))
    with pytest.raises(UsageError, match="calibration data is empty"):
        audit.check_calibration([])
    assert "commitment_use" not in audit.facts
    assert audit.records is None
