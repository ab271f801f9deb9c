import csv
import dataclasses
import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amint.errors import UsageError
from amint.evidence import HEAD, SCHEMA, Control, Evidence, Provenance, SetTest, Verdict, by_rank

FINITE = st.floats(allow_nan=False, allow_infinity=False)
P = st.floats(5e-324, 1)
# Names as readers print them: no lone surrogates, which no file can hold in UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EVIDENCE = st.builds(
    Evidence,
    path=TEXT,
    decision=st.sampled_from(["used", "no evidence", "cannot tell"]),
    score=st.none() | FINITE,
    p_value=st.none() | P,
    adjusted=st.none() | P,
    note=TEXT,
    sha256=st.none() | TEXT,
    copy_of=st.none() | TEXT,
)
TESTS = st.builds(
    SetTest,
    name=st.sampled_from([HEAD, "confidence"]),
    p_value=P,
    adjusted=P,
    superiority=FINITE,
    low=FINITE,
    high=FINITE,
    members_at_least=st.integers(0, 9),
)
CONTROLS = st.builds(
    Control,
    name=TEXT,
    outcome=st.sampled_from(["passed", "failed", "not checked"]),
    sentence=TEXT,
    p_value=st.none() | P,
    value=st.none() | FINITE,
    details=st.dictionaries(TEXT, FINITE | TEXT | st.none(), max_size=2),
)
PROVENANCE = st.builds(
    Provenance, bundle_sha256=st.none() | TEXT, method=TEXT, steps=st.none() | st.integers(0, 9), signature=TEXT
)
VERDICT = st.builds(
    Verdict,
    decision=st.sampled_from(["used", "no evidence", "cannot tell"]),
    p_value=st.none() | P,
    alpha=st.floats(1e-9, 0.999),
    items=st.lists(EVIDENCE, max_size=5).map(tuple),
    tests=st.lists(TESTS, max_size=2).map(tuple),
    controls=st.lists(CONTROLS, max_size=3).map(tuple),
    reason=TEXT,
    comparison=TEXT,
    by_class=st.booleans(),
    power=st.none() | st.dictionaries(TEXT, FINITE, max_size=2),
    provenance=PROVENANCE,
    calibration_n=st.integers(1, 10**9),
    smallest_p=P,
    created=TEXT,
    libraries=st.dictionaries(TEXT, TEXT, max_size=3),
)


def verdict(decision="used", p=0.00021, alpha=0.01, judged=37, used=0, rejected=0, copies=0, near=0):
    items = [
        Evidence(
            f"{i:03}.png", "used" if i < used else "no evidence", 1.0, 0.5, 0.5, copy_of="x" if i < copies else None
        )
        for i in range(judged)
    ]
    items += [Evidence(f"bad {i}.png", "cannot tell", note="damaged") for i in range(rejected)]
    head = () if p is None else (SetTest(HEAD, p, p, 0.9, 0.8, 0.95, 3, judged - copies - near),)
    return Verdict(
        decision=decision,
        p_value=p,
        alpha=alpha,
        items=tuple(items),
        tests=head,
        controls=(),
        reason="",
        comparison="Each sample is compared with all 99 calibration samples.",
        power=None,
        provenance=Provenance(method="active"),
        calibration_n=99,
        smallest_p=0.01,
        created="2025-01-01T00:00:00+00:00",
        libraries={"torch": "2"},
    )


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


@given(VERDICT)
def test_json_there_and_back_is_exact(one):
    text = one.to_json()
    assert Verdict.from_json(text) == one
    data = json.loads(text, parse_constant=refuse_constant)
    assert data["schema"] == SCHEMA
    assert data["sentence"] == one.sentence()
    assert data["contradiction"] == one.contradiction
    assert data["bound_level"] == 1 - one.alpha / max(1, len(one.tests))
    assert data["counts"] == {
        "submitted": len(one.items),
        "judged": sum(item.score is not None for item in one.items),
        "copies": one.copies,
        "flagged_before_correction": one.flagged,
        "used_after_correction": one.used,
    }


@pytest.mark.parametrize("field, value", [("p_value", float("nan")), ("alpha", float("inf"))])
def test_nan_is_never_written(field, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(verdict(), **{field: value}).to_json()


def edited(**changes):
    return json.dumps(json.loads(verdict(used=2).to_json()) | changes)


@pytest.mark.parametrize(
    "text, reason",
    [
        (edited(schema=1), "has schema 1, expected 4; use the amint that wrote it"),
        (edited(schema=3), "has schema 3, expected 4; use the amint that wrote it"),
        (edited(schema=None), "has schema None"),
        ("{}", "not a verdict that amint wrote"),
        ("[1]", "not a verdict that amint wrote"),
        ("null", "not a verdict that amint wrote"),
        ("", "not a verdict that amint wrote"),
        ("[" * 100_000, "not a verdict that amint wrote"),
        ('{"schema": 4}', "not a verdict that amint wrote"),
        (edited(items=3), "not a verdict that amint wrote"),
        (edited(items=[{"path": "a"}]), "not a verdict that amint wrote"),
        (edited(items=[{"path": "a", "decision": "used", "more": 1}]), "not a verdict that amint wrote"),
        (edited(p_value="low"), "not a verdict that amint wrote"),
        (edited(p_value=float("nan")), "not a verdict that amint wrote"),
        (edited(decision="not used"), "a verdict cannot be .*'not used'.*; it is one of"),
        (edited(items=[{"path": "a", "decision": "guilty"}]), "a sample cannot be .*guilty"),
    ],
)
def test_what_is_no_verdict_is_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        Verdict.from_json(text)


@given(st.lists(EVIDENCE, max_size=6))
def test_csv_reads_back(items):
    one = dataclasses.replace(verdict(), items=tuple(items))
    rows = list(csv.DictReader(io.StringIO(one.to_csv(), newline="")))
    assert list(rows[0] if rows else dataclasses.asdict(Evidence("", "used"))) == list(Evidence.__dataclass_fields__)
    for row, item in zip(rows, items, strict=True):
        assert row["path"] in (item.path, f"'{item.path}")
        assert row["decision"] == item.decision
        for name in ("score", "p_value", "adjusted"):
            value = getattr(item, name)
            assert (float(row[name]) if row[name] else None) == value


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start):
    text = f'{start}HYPERLINK("http://evil","x")'
    one = dataclasses.replace(verdict(), items=(Evidence(text, "used", -1.5, 0.5, 0.5, text, text, text),))
    [row] = csv.DictReader(io.StringIO(one.to_csv(), newline=""))
    assert [row[name] for name in ("path", "note", "sha256", "copy_of")] == [f"'{text}"] * 4
    # A number may begin with a minus: it is no text.
    assert row["score"] == "-1.5"


CORRECTED = ", after correction for their number"
# Without these words, which follow wherever samples stand out.
SENTENCES = {
    "Used: taken together, the 37 judged samples score higher than data that was not used would (p = 0.00021; accepted "
    "false-alarm rate 1%). 12 samples stand out on their own; on average, at most 1% of samples like these are false "
    "alarms.": verdict(used=12),
    "Used: taken together, the 37 judged samples score higher than data that was not used would (p < 0.0001; accepted "
    "false-alarm rate 5%). 1 sample stands out on its own; on average, at most 5% of samples like these are false "
    "alarms.": verdict(p=3e-20, alpha=0.05, used=1),
    "Used: taken together, the 2 judged samples score higher than data that was not used would (p = 0.001; accepted "
    "false-alarm rate 0.1%). No sample stands out on its own (with 99 calibration samples, either 20 or more can, or "
    "none); what shows the use is all of them together. 1 of 3 files could not be judged.": verdict(
        p=0.001, alpha=0.001, judged=2, rejected=1
    ),
    "Used: the judged sample scores higher than data that was not used would (p = 0.01; accepted false-alarm rate "
    "1%).": verdict(p=0.01, judged=1, used=1),
    "Used: taken together, the 9 judged samples (1 exact copy not counted again) score higher than data that was not "
    "used would (p = 0.0021; accepted false-alarm rate 7%). No sample stands out on its own (with 99 calibration "
    "samples, either 2 or more can, or none); what shows the use is all of them together.": verdict(
        p=0.00214, alpha=0.07, judged=9, copies=1
    ),
    "Used: taken together, the 7 judged samples score higher than data that was not used would (p = 0.0021; accepted "
    "false-alarm rate 7%). No sample stands out on its own; what shows the use is all of them together.": verdict(
        p=0.00214, alpha=0.07, judged=7
    ),
    "No evidence of use: taken together, the 37 judged samples do not score clearly higher than data that was not used "
    "would (p = 0.43; accepted false-alarm rate 1%). No sample stands out on its own (with 99 calibration samples, "
    "either 37 or more can, or none). This does not show that they were not used. 3 of 40 files could not be "
    "judged.": verdict("no evidence", 0.43, rejected=3),
    "No evidence of use for the submission as a whole: taken together, the 37 judged samples (5 exact copies not "
    "counted again) do not score clearly higher than data that was not used would (p = 0.43; accepted false-alarm rate "
    "1%). But 2 samples stand out on their own; on average, at most 1% of samples like these are false alarms. This "
    "does not show that the others were not used.": verdict("no evidence", 0.43, used=2, copies=5),
    "No evidence of use: the judged sample does not score clearly higher than data that was not used would (p = 1; "
    "accepted false-alarm rate 1%). This does not show that it was not used.": verdict("no evidence", 1.0, judged=1),
    "Cannot tell: none of the 3 files could be judged.": verdict("cannot tell", None, judged=0, rejected=3),
    "Cannot tell: the submitted file could not be judged.": verdict("cannot tell", None, judged=0, rejected=1),
    "Cannot tell: nothing was submitted.": verdict("cannot tell", None, judged=0),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_sentences(sentence):
    said = SENTENCES[sentence].sentence()
    assert said.replace(CORRECTED, "") == sentence
    assert said.count(f" own{CORRECTED}") == said.count(" own") == sentence.count(" own")


@given(VERDICT)
def test_no_verdict_says_not_used(one):
    said = one.sentence()
    assert said.startswith(("Used:", "No evidence of use", "Cannot tell:"))
    for clause in said.split(". "):
        # What samples are compared with was not used; the samples themselves never are said to be.
        own = clause.replace("than data that was not used", "").replace("than of data that was not used", "")
        assert "not used" not in own or own.startswith("This does not show that")


def test_counts():
    items = (
        Evidence("a", "used", 2.0, 0.01, 0.01),
        Evidence("b", "no evidence", 1.0, 0.0100001, 0.02),
        Evidence("c", "no evidence", 1.0, 0.01, 0.02, copy_of="a"),
        Evidence("d", "cannot tell", note="damaged"),
    )
    one = dataclasses.replace(verdict(alpha=0.01), items=items)
    assert (len(one.judged), one.flagged, one.used, one.copies) == (3, 2, 1, 1)


def test_values_are_frozen():
    for one in (verdict(), verdict().items[0]):
        for field in dataclasses.fields(one):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(one, field.name, None)


def test_the_most_suspicious_come_first_and_the_unjudged_last():
    scores = [0.5, None, 3.0, -2.0, None, 0.5]
    items = [Evidence(str(i), "no evidence", score) for i, score in enumerate(scores)]
    assert [item.path for item in by_rank(items)] == ["2", "0", "5", "3", "1", "4"]


def test_write(tmp_path):
    one = verdict(used=1, rejected=1)
    paths = one.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["verdict.json", "verdict.csv"]
    assert Verdict.from_json(paths[0].read_text(encoding="utf-8")) == one
    assert paths[1].read_bytes() == one.to_csv().encode()


def test_reading_a_verdict_needs_no_torch():
    code = "import sys, amint.evidence; print(sorted({'torch', 'scipy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def two_kinds(head, confidence, **changes):
    tests = (
        SetTest(HEAD, head, head, 0.5, 0.4, 0.6, 0, 37),
        SetTest("confidence", confidence, confidence, 0.9, 0.8, 0.95, 3, 37),
    )
    return dataclasses.replace(verdict(**changes), tests=tests, p_value=min(head, confidence))


def test_strong_evidence_that_the_head_does_not_share_is_called_a_contradiction():
    one = two_kinds(0.6, 0.0001)
    assert one.contradiction
    assert "This is a contradiction: the MINT head" in one.sentence()
    assert "kept from the head" in one.sentence()
    for agreeing in (two_kinds(0.0001, 0.6), two_kinds(0.0001, 0.0001), two_kinds(0.6, 0.6)):
        assert not agreeing.contradiction
        assert "contradiction" not in agreeing.sentence()
    assert not verdict(decision="cannot tell", p=None).contradiction
    untold = two_kinds(0.6, 0.0001, decision="cannot tell")
    assert not untold.contradiction
    assert json.loads(untold.to_json())["contradiction"] is False
    assert not [step for step in json.loads(untold.to_json())["next_steps"] if "what else" in step]


def test_a_failed_control_is_the_verdict():
    one = dataclasses.replace(verdict("cannot tell", p=1e-9), reason="The pictures differ in size.")
    assert one.sentence().startswith("Cannot tell: The pictures differ in size. Without this")
    assert "p < 0.0001, which shows nothing by itself." in one.sentence()
    assert "Used" not in one.sentence()


def test_a_verdict_is_shown_in_short():
    assert repr(verdict(p=0.00021, rejected=3)) == "<Verdict: used, p = 0.00021, 40 items>"
    assert repr(verdict("cannot tell", None, judged=0, rejected=1)) == "<Verdict: cannot tell, 1 items>"
