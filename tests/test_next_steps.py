from dataclasses import replace

import pytest
from test_evidence import verdict

from amint.evidence import Control, Provenance, SetTest
from amint.findings import without_files
from amint.next_steps import next_steps
from amint.signing import SignatureStatus
from amint.wording import fine_print

POWER = {"needed": 200}
SAVED = Provenance(bundle_sha256="ab", weights_sha256="cd", method="active", signature="The bundle is not signed.")


def told(one, **parts):
    return " ".join(next_steps(replace(one, **parts)))


def test_a_bundle_is_to_be_compared_with_the_model_in_use():
    assert "weights' SHA-256" in told(verdict(), provenance=SAVED)
    assert "not signed" in told(verdict(), provenance=SAVED)
    assert "Nothing was committed" in told(verdict(), provenance=SAVED)
    sound = replace(SAVED, signature="Signed with 01.", commitment="ef")
    assert next_steps(replace(verdict(), provenance=sound)) == [
        "Compare the weights' SHA-256 in this verdict with that of the model in use: a bundle vouches for its own."
    ]
    assert "SHA-256" not in told(verdict()), "a model in memory has none"


def test_a_signature_by_nobody_knows_whom_is_no_signature():
    by_anybody = replace(SAVED, signature=SignatureStatus("self-signed", "ab" * 32).sentence())
    by_the_owner = replace(SAVED, signature=SignatureStatus("valid", "ab" * 32).sentence())
    assert "Anybody can sign a bundle" in told(verdict(), provenance=by_anybody)
    assert "sign" not in told(verdict(), provenance=by_the_owner)


def test_what_the_head_alone_was_shown_and_what_was_committed_to_is_said():
    origin = replace(SAVED, commitment="ef", committed="8 members were committed to.", members_alone=300)
    said = fine_print(replace(verdict(), provenance=origin))
    assert "8 members were committed to." in said
    assert any(line.startswith("300 rows were told to the MINT head as members that never passed") for line in said)
    assert not any("MINT head as members" in line or "committed" in line for line in fine_print(verdict()))


def test_too_few_samples():
    few = verdict("no evidence", 0.4, judged=37)
    assert "37 were judged, and it takes about 200" in told(few, power=POWER)
    assert "1 was judged, and it takes" in told(verdict("no evidence", 0.4, judged=1), power=POWER)
    assert "more samples" not in told(few, power={"needed": 30})
    assert "more samples" not in told(few, power={"needed": None})
    assert "audit.evaluate" in told(few)
    assert "audit.evaluate" not in told(few, by_class=True), "members are kept without their class"
    assert "more samples of the same origin" in told(few, by_class=True)
    assert "more samples" not in told(verdict(), power=POWER), "nothing is missing"


@pytest.mark.parametrize(
    "name, said",
    [
        ("blind baseline", "before anything converted"),
        ("odd samples", "not like the rest"),
        ("members against external", "external data must come from"),
        ("control against control", "another calibration"),
        ("duplicates", "has not used as calibration"),
        ("a control of another version", ""),
    ],
)
def test_every_control_that_fails_has_a_remedy(name, said):
    failed = Control(name, "failed", "It failed.")
    steps = next_steps(replace(verdict("cannot tell"), controls=(failed,), provenance=SAVED))
    assert said in steps[0]
    assert told(verdict(), controls=(replace(failed, outcome="passed"),)) == told(verdict())


def test_files_that_were_not_compared():
    passed = Control("blind baseline", "passed", "It passed.")
    assert "amint.ImageFiles" not in told(verdict(), controls=(passed,))
    assert "amint.ImageFiles" in told(verdict(), controls=(without_files(passed),))


def test_what_could_not_be_read():
    [step] = next_steps(verdict("cannot tell", None, judged=0, rejected=3))
    assert "can be read" in step


def test_a_contradiction_is_a_question_to_the_owner():
    tests = tuple(SetTest(name, p, p, 0.5, 0.4, 0.6, 0, 9) for name, p in (("MINT head", 0.6), ("confidence", 0.001)))
    assert "what else the model was trained on" in told(verdict(judged=9), tests=tests)
