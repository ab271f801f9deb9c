from dataclasses import replace

import numpy as np
import pytest
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of, images, registered, write_pictures
from scipy import stats

import amint
from amint.errors import UsageError
from amint.findings import Control
from amint.judging import Samples, Scale, as_one, judged_items, set_tests
from amint.next_steps import next_steps
from amint.records import CalibrationRecords
from amint.roles import fingerprints
from amint.set_tests import permutation_p, separation, split_test
from amint.texts import Texts
from amint.verification import verify


@pytest.fixture(scope="module")
def knowing():
    """An audit that knows 32 members by heart, calibrated with 199 non-members."""
    return registered(images(32), images(64, seed=2), images(199, seed=3))


def test_what_was_calibration_or_external_data_cannot_be_judged(knowing):
    submitted = torch.cat([images(30, seed=9), images(199, seed=3)[:2], images(64, seed=2)[:1]])
    verdict = verify(knowing, submitted, alpha=0.05)
    assert [item.decision for item in verdict.items[30:]] == ["cannot tell"] * 3
    assert all(item.p_value is None and item.score is None for item in verdict.items[30:])
    assert ["calibration" in item.note for item in verdict.items[30:]] == [True, True, False]
    assert "external" in verdict.items[32].note
    alone = verify(knowing, submitted[:30], alpha=0.05)
    assert verdict.tests == alone.tests
    assert [item.adjusted for item in verdict.items[:30]] == [item.adjusted for item in alone.items]


def test_a_submission_of_calibration_data_only_cannot_be_judged(knowing):
    verdict = verify(knowing, images(199, seed=3), alpha=0.05)
    assert verdict.decision == "cannot tell"
    assert verdict.p_value is None
    assert "calibration" in verdict.sentence()


def test_another_domain_gives_no_verdict_and_says_why(knowing):
    shifted = verify(knowing, images(60, seed=9, level=0.8), alpha=0.05)
    assert shifted.decision == "cannot tell"
    assert {item.decision for item in shifted.items} == {"cannot tell"}
    assert "never sees the model" in shifted.sentence()
    [failed] = [control for control in shifted.controls if control.outcome == "failed"]
    assert failed.name == "blind baseline"


def test_controls_pass_on_members_and_on_unseen_data(knowing):
    for submitted in (images(32), images(60, seed=9)):
        outcomes = {c.name: c.outcome for c in verify(knowing, submitted, alpha=0.05).controls}
        assert "failed" not in outcomes.values()
        assert set(outcomes) == {"blind baseline", "control against control", "duplicates", "members against external"}


def test_external_data_of_another_domain_than_the_members_is_noticed():
    audit = registered(images(64), images(64, seed=2, level=1.0), images(99, seed=3))
    verdict = verify(audit, images(40, seed=9), alpha=0.05)
    assert verdict.decision == "cannot tell"
    assert "Without this it would have been p = " in verdict.sentence()
    assert "Without this it would have been p = 1, " in replace(verdict, p_value=1.0, reason="p = 1e-06.").sentence()
    assert "members against external" in {c.name for c in verdict.controls if c.outcome == "failed"}


def test_by_class_compares_with_the_predicted_class(tmp_path):
    audit = audit_of(calibration=0)
    x = images(400, seed=5)
    audit.calibrate(x, by_class=True)
    submitted = images(20, seed=6)
    verdict = verify(audit, submitted, alpha=0.2)
    assert "compared with its own class" in verdict.comparison
    reading, known = audit.read(submitted), audit.records
    for i, item in enumerate(verdict.items):
        own = known.scores[known.classes == reading.classes[i]]
        assert item.p_value == pytest.approx((1 + (own >= reading.scores[i]).sum()) / (len(own) + 1))
        assert item.predicted == reading.classes[i]
    pooled = verify(audit, submitted, alpha=0.2, by_class=False)
    assert "all 400 calibration samples" in pooled.comparison
    assert [i.p_value for i in pooled.items] == audit.calibrated().p_values(reading.scores).tolist()


def of_several_classes(calibration):
    """An audit that knows 32 members by heart, of a model that predicts different classes for them."""
    torch.manual_seed(0)
    model = ToyNet().eval()
    with torch.no_grad():
        model.classifier.bias -= model(images(300, seed=77)).mean(0)
    audit = amint.register(model, images(32), images(64, seed=2), split=("entry", "middle"), epochs=60, ratio=2.0)
    audit.calibrate(calibration)
    return audit


def test_by_class_with_classes_too_small_everything_is_compared_with_all_of_them():
    audit = of_several_classes(images(199, seed=3))
    assert len(np.unique(audit.records.classes)) > 1
    for x in (images(1), images(40, seed=9)):
        asked, pooled = (verify(audit, x, alpha=0.01, by_class=by_class) for by_class in (True, False))
        assert "All samples are compared with all classes together" in asked.comparison
        assert "Taken together" not in asked.comparison
        assert not asked.by_class
        assert asked.tests == pooled.tests
        assert asked.items == pooled.items
        assert asked.controls == pooled.controls
    alone = verify(audit, images(1), alpha=0.01, by_class=True)
    assert alone.tests[0].p_value == alone.items[0].p_value


def test_by_class_it_is_said_where_the_whole_is_compared_otherwise_than_its_samples():
    audit = of_several_classes(images(400, seed=5))
    names, sizes = np.unique(audit.records.classes, return_counts=True)
    few = sizes.argmin()
    # Two more than the smallest class has: with three samples of it, it has enough; with one, it does not.
    alpha, own = 1 / (sizes[few] + 2), images(900, seed=6)
    of_few = own[audit.read(own).classes == names[few]][:3]
    verdict = verify(audit, of_few, alpha=alpha, by_class=True)
    assert verdict.comparison.startswith("All samples are compared with all classes together")
    assert verdict.comparison.endswith(
        "Taken together they are compared within classes, each of which has enough with them counted."
    )


def test_by_class_needs_classes():
    class NoLogits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.entry, self.rest = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)

        def forward(self, x):
            return self.rest(self.entry(x).relu())

    x = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    audit = amint.register(NoLogits(), x[:20], x[20:50], split=["entry"], epochs=1)
    with pytest.raises(UsageError, match="needs a classifier"):
        audit.calibrate(x[50:], by_class=True)
    audit.calibrate(x[50:])
    with pytest.raises(UsageError, match="needs a classifier"):
        verify(audit, x[:3], alpha=0.1, by_class=True)


def test_the_power_curve_needs_known_members(knowing):
    assert verify(knowing, images(3), alpha=0.05).power is None
    audit = registered(images(32), images(64, seed=2), images(199, seed=3))
    audit.evaluate(images(32), images(100, seed=12))
    verdict = verify(audit, images(40, seed=9), alpha=0.05)
    assert not verdict.by_class
    assert verify(audit, images(40, seed=9), alpha=0.05, by_class=True).by_class
    assert verdict.power["members_n"] == 32
    assert verdict.power["needed"] <= 10
    assert verdict.power["alpha"] == 0.05 / len(verdict.tests), "the verdict's two tests share alpha"
    assert verify(audit, images(40, seed=9), alpha=0.05, by_class=True).power is None
    assert verdict.provenance.evaluation["auroc"]["value"] > 0.9


def test_near_duplicates_are_told_and_still_judged(knowing):
    near = images(199, seed=3)[:1] + 0.01
    assert fingerprints(near) != fingerprints(images(199, seed=3)[:1])
    verdict = verify(knowing, torch.cat([near, images(10, seed=9)]), alpha=0.05)
    assert "looks nearly like calibration sample 0" in verdict.items[0].note
    assert verdict.items[0].p_value is not None


def test_near_copies_of_a_sample_are_no_more_evidence_than_the_sample(knowing):
    unused = images(100, seed=9)
    best = unused[int(knowing.score(unused).argmax())][None]
    copies = best + torch.linspace(0, 0.003, 8)[:, None, None, None]
    alone, many = verify(knowing, best, alpha=0.05), verify(knowing, copies, alpha=0.05)
    assert alone.tests[0].p_value <= 0.02
    assert [test.samples for test in many.tests] == [1, 1]
    assert many.tests[0].members_at_least <= 1
    assert many.tests[0].p_value >= alone.tests[0].p_value
    assert "(7 near copies not counted again)" in many.sentence()
    assert verify(knowing, torch.cat([copies, images(20, seed=10)]), alpha=0.05).tests[0].samples == 21


def test_of_a_single_sample_the_same_is_said_as_of_the_submission(knowing):
    samples = torch.cat([images(6), images(14, seed=9)])
    verdicts = [verify(knowing, x[None], alpha=0.05) for x in samples]
    assert [verdict.items[0].decision for verdict in verdicts] == [verdict.decision for verdict in verdicts]
    assert [verdict.items[0].adjusted for verdict in verdicts] == [verdict.p_value for verdict in verdicts]
    assert {verdict.decision for verdict in verdicts} == {"used", "no evidence"}
    twice = verify(knowing, samples[[0, 0]], alpha=0.05)
    assert {item.decision for item in twice.items} == {twice.decision}


@pytest.mark.parametrize("n, decision", [(78, "cannot tell"), (79, "used")])
def test_a_single_sample_that_could_not_have_been_found_gives_no_verdict(n, decision):
    """Two tests share alpha = 0.025: the smallest p-value they can give one sample is 2 / (n + 1)."""
    audit = registered(images(32), images(64, seed=2), images(n, seed=3))
    highest = max(images(32), key=lambda x: float(audit.score(x[None])))
    verdict = verify(audit, highest[None], alpha=0.025)
    assert (verdict.decision, verdict.items[0].decision) == (decision, decision)
    assert verdict.p_value == pytest.approx(2 / (n + 1))
    if decision == "cannot tell":
        assert "cannot show its use with 78 calibration samples: the highest of all scores would have" in verdict.reason
        assert "p = 0.025. It takes 79 of them, or more than one sample." in verdict.sentence()
        assert "Without this" not in verdict.sentence(), "the highest score's p-value is this one's"
        assert any("Submit more samples" in step for step in next_steps(verdict))
    # Taken together, two are enough.
    assert verify(audit, images(32)[:2], alpha=0.025).decision == "used"


def test_by_class_a_single_sample_is_compared_with_its_class_and_could_have_been_found():
    audit = of_several_classes(images(400, seed=3))
    verdict = verify(audit, images(1), alpha=0.05, by_class=True)
    assert verdict.decision != "cannot tell", verdict.reason


def test_a_verdict_says_when_nothing_could_check_for_other_differences(knowing):
    few, many = (verify(knowing, images(n), alpha=0.05) for n in (2, 30))
    assert few.decision == many.decision == "used"
    assert "could not be checked" in few.sentence()
    assert "could not be checked" not in many.sentence()
    passed = replace(few, controls=(few.controls[0], Control("odd samples", "passed", "Not odd.")))
    assert "could not be checked further: none of them is strange by itself." in passed.sentence()
    one = replace(passed, items=few.items[:1]).sentence()
    assert "Whether it differs from the calibration data" in one
    assert "the sample is not strange by itself." in one


def test_a_few_samples_of_another_kind_give_no_verdict_and_are_named():
    audit = audit_of(calibration=999)
    for x in (images(1, level=0.8), torch.rand(1, 3, 16, 16), images(4, seed=5, level=0.8)):
        verdict = verify(audit, x, alpha=0.05)
        outcomes = {control.name: control for control in verdict.controls}
        assert outcomes["blind baseline"].outcome == "not checked"
        assert (verdict.decision, verdict.items[0].decision) == ("cannot tell", "cannot tell")
        assert outcomes["odd samples"].details["odd"] == [f"row {i}" for i in range(len(x))]
        assert verdict.sentence().startswith("Cannot tell: ")
        assert "far outside the calibration data" in verdict.sentence()
        assert any(step.startswith("Leave out what is not like the rest") for step in next_steps(verdict))


def test_a_few_samples_like_the_calibration_pass_and_many_need_no_such_control():
    audit = audit_of(calibration=999)
    few, many = (verify(audit, images(n, seed=5), alpha=0.05) for n in (3, 30))
    assert {control.name: control.outcome for control in few.controls}["odd samples"] == "passed"
    assert few.decision == "no evidence"
    assert "odd samples" not in [control.name for control in many.controls]


def test_by_class_odd_samples_are_looked_for_within_classes():
    audit = of_several_classes(images(1_500, seed=5))
    asked, pooled = (verify(audit, images(1, seed=6), alpha=0.05, by_class=by_class) for by_class in (True, False))
    ranked = [{c.name: c for c in verdict.controls}["odd samples"].details["ranked"] for verdict in (asked, pooled)]
    assert ranked[0] < ranked[1] == 750
    assert asked.by_class


@pytest.mark.parametrize("how", ["tensors", "files"])
def test_files_that_the_calibration_cannot_be_compared_with_are_told(tmp_path, how):
    files = amint.ImageFiles(write_pictures(tmp_path / "calibration", 60, seed=6), PREPROCESSING)
    audit = audit_of(calibration=0)
    audit.calibrate(files if how == "files" else torch.cat([batch["image"] for batch in files]))
    architecture = amint.Architecture("import", "audit_toys:ToyNet")
    path = audit.save(tmp_path / "toy.amint", preprocessing=PREPROCESSING, architecture=architecture)
    folder = write_pictures(tmp_path / "pictures", 30)
    verdict = verify(path, folder, alpha=0.05, allow_import=["audit_toys:ToyNet"])
    [blind] = [control for control in verdict.controls if control.name == "blind baseline"]
    told = how == "tensors"
    assert blind.outcome == "passed"
    assert ("compression of the files were not compared" in blind.sentence) is told
    assert any("amint.ImageFiles" in step for step in next_steps(verdict)) is told
    rows = verify(audit, torch.cat([batch["image"] for batch in amint.ImageFiles(folder, PREPROCESSING)]), alpha=0.05)
    assert "files" not in rows.controls[0].sentence, "tensors have no files"


@pytest.mark.slow
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("size, n", [(1, 100), (2, 100), (5, 100), (20, 100), (50, 25)])
def test_no_path_to_used_exceeds_its_false_alarm_rate(size, n, by_class):
    """2,000 null submissions, each against a calibration of its own, through everything that can say ``used``."""
    audit, x, alpha, repeats = audit_of(), images(6_000, seed=31), 0.05, 2_000
    read, marks = audit.read(x), np.arange(6_000)
    blind = np.zeros((6_000, 62), np.float32)
    rng = np.random.default_rng(size)
    together = listed = flagged = 0
    for _ in range(repeats):
        own, known = np.split(rng.permutation(6_000)[: size + n], [size])
        scale = Scale(
            CalibrationRecords(
                read.scores[known], marks[known], blind[known], None, read.confidence[known], read.classes[known]
            ),
            by_class,
            alpha,
        )
        names = Texts(f"row {i}" for i in own), Texts(None for _ in own), Texts("" for _ in own)
        samples = Samples(
            *names, read.scores[own], marks[own], None, read.confidence[own], read.classes[own], blind[own], None
        )
        tests = set_tests(samples, scale, np.arange(size), np.arange(size))
        items = judged_items(samples, scale, np.arange(size), ())
        if size == 1:
            items = as_one(items, min(test.adjusted for test in tests), alpha)
        together += min(test.adjusted for test in tests) <= alpha
        listed += any(item.decision == "used" for item in items)
        flagged += sum(item.p_value <= alpha for item in items)
    most = stats.binom.ppf(0.9999, repeats, alpha)
    assert together <= most
    assert listed <= most
    # Samples of one submission share a calibration, which widens the spread of their rate but not its mean.
    assert flagged / (repeats * size) <= alpha + 4 * np.sqrt(alpha * (1 - alpha) * (1 / size + 1 / n) / repeats)


@pytest.mark.slow
def test_members_are_counted_among_unused_data_as_rarely_as_a_verdict_is_wrong():
    """2,000 null submissions: at 95 % for each test the bound would be above 0 in 3 to 5 % of them."""
    size, n, alpha, repeats, rng = 20, 500, 0.01, 2_000, np.random.default_rng(0)
    counted = 0
    for _ in range(repeats):
        own, known = np.arange(size), np.arange(n)
        records = CalibrationRecords(rng.normal(size=n), known, np.zeros((n, 62), np.float32), None, rng.normal(size=n))
        names = Texts(f"row {i}" for i in own), Texts(None for _ in own), Texts("" for _ in own)
        blind = np.zeros((size, 62), np.float32)
        samples = Samples(*names, rng.normal(size=size), own, None, rng.normal(size=size), own, blind, None)
        tests = set_tests(samples, Scale(records, False, alpha), own, own)
        counted += any(test.members_at_least > 0 for test in tests)
    assert counted <= stats.binom.ppf(0.999, repeats, alpha)


def test_several_signals_of_one_reading_together(knowing):
    """As in the README."""
    own, known, unseen = (
        np.column_stack([read.scores, read.confidence])
        for read in map(knowing.read, (images(32), images(199, seed=3), images(40, seed=9)))
    )
    for p_value in (
        lambda rows: knowing.calibrated().set_p_value(rows[:, 0], test="welch"),
        lambda rows: split_test(rows, known),
        lambda rows: permutation_p(rows, known, separation, permutations=199),
    ):
        assert p_value(own) <= 0.01 < p_value(unseen)
