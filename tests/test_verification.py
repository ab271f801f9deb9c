import copy
import dataclasses
import datetime
import itertools

import numpy as np
import pytest
import torch
from audit_toys import PREPROCESSING, ToyNet, audit_of, images, registered, tensors_of, write_pictures
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import amint
from amint.architecture import Architecture
from amint.errors import AlphaError, BundleError, InputError, NonFiniteError, UsageError
from amint.loading import load
from amint.preprocessing import Preprocessing
from amint.records import CalibrationRecords
from amint.verification import verify

TOY = Architecture("import", "audit_toys:ToyNet")


@pytest.fixture(scope="module")
def knowing():
    """An audit that knows 32 members by heart, calibrated with 199 non-members."""
    return registered(images(32), images(64, seed=2), images(199, seed=3))


def saved(tmp_path, preprocessing=PREPROCESSING, **options):
    return audit_of(**options).save(tmp_path / "toy.amint", preprocessing=preprocessing, architecture=TOY)


def judge(bundle, submitted, alpha=0.05, **options):
    return verify(bundle, submitted, alpha=alpha, allow_import=[TOY.name], **options)


def slow_p_values(scores, known):
    return [(1 + sum(other >= score for other in known)) / (len(known) + 1) for score in scores]


def slow_benjamini_hochberg(p_values):
    """Adjusted p: the smallest level at which the textbook's step-up procedure rejects it."""
    m, adjusted = len(p_values), []
    for p in p_values:
        levels = [q * m / sum(other <= q for other in p_values) for q in p_values if q >= p]
        adjusted.append(min(1.0, *levels))
    return adjusted


def slow_rank_sum(scores, known):
    """The share of all ways to pick the submission out of the pool that rank at least as high."""
    pool = np.r_[scores, known]
    ranks = np.array([(pool < s).sum() + ((pool == s).sum() + 1) / 2 for s in pool])
    sums = [ranks[list(rows)].sum() for rows in itertools.combinations(range(len(pool)), len(scores))]
    return np.mean(np.array(sums) >= ranks[: len(scores)].sum() - 1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_against_the_formulas_spelled_out(seed):
    audit = audit_of(calibration=11, seed=seed)
    x = images(5, seed=50 + seed, level=seed / 10)
    alpha = 0.2
    verdict = verify(audit, x, alpha=alpha)
    reading = audit.read(x)
    scores = reading.scores.tolist()
    p_values = slow_p_values(scores, audit.calibrated().scores)
    adjusted = slow_benjamini_hochberg(p_values)
    assert [item.score for item in verdict.items] == scores
    assert [item.p_value for item in verdict.items] == pytest.approx(p_values, abs=1e-12)
    assert [item.adjusted for item in verdict.items] == pytest.approx(adjusted, abs=1e-12)
    assert [item.decision for item in verdict.items] == ["used" if q <= alpha else "no evidence" for q in adjusted]
    assert verdict.flagged == sum(p <= alpha for p in p_values)
    head, confidence = verdict.tests
    assert (head.name, confidence.name) == ("MINT head", "confidence")
    assert head.p_value == pytest.approx(slow_rank_sum(scores, audit.records.scores), abs=1e-12)
    assert confidence.p_value == pytest.approx(slow_rank_sum(reading.confidence, audit.records.confidence), abs=1e-12)
    smaller, larger = sorted([head.p_value, confidence.p_value])
    holm = [min(1, 2 * smaller), min(1, max(2 * smaller, larger))]
    assert sorted([head.adjusted, confidence.adjusted]) == pytest.approx(holm, abs=1e-12)
    assert verdict.p_value == min(head.adjusted, confidence.adjusted)
    assert verdict.decision == ("used" if verdict.p_value <= alpha else "no evidence")
    assert [item.path for item in verdict.items] == [f"row {i}" for i in range(5)]


def test_members_are_found_and_unseen_data_is_not(knowing):
    members, unseen = verify(knowing, images(32), alpha=0.05), verify(knowing, images(60, seed=9), alpha=0.05)
    assert members.decision == "used"
    assert members.p_value < 1e-10
    assert members.used == 32
    assert unseen.decision == "no evidence"
    assert unseen.p_value > 0.05
    assert unseen.used == 0


def test_some_members_among_unseen_data_stand_out_on_their_own(knowing):
    false, audit = [], copy.deepcopy(knowing)
    # What holds on average over submissions holds over calibration data as well, and not for every one of them.
    for seed in range(9, 49):
        audit.calibrate(images(199, seed=1000 + seed))
        mixed = verify(audit, torch.cat([images(60, seed=seed), images(32)[:12]]), alpha=0.1)
        found = [i for i, item in enumerate(mixed.items) if item.decision == "used"]
        assert found[-12:] == list(range(60, 72))
        false.append(1 - 12 / len(found))
    assert np.mean(false) <= 0.1


def test_a_register_says_where_it_comes_from(tmp_path, knowing):
    path = knowing.save(tmp_path / "a", architecture=TOY)
    verdict = judge(path, images(2))
    assert verdict.provenance.bundle_sha256 == load(path, model=ToyNet()).bundle.sha256
    assert verdict.provenance.method == "registered"
    assert (verdict.calibration_n, verdict.smallest_p, verdict.alpha) == (199, 1 / 200, 0.05)
    assert datetime.datetime.fromisoformat(verdict.created).tzinfo is not None
    assert set(verdict.libraries) == {"amint-audit", "torch", "numpy", "scipy"}
    assert verify(knowing, images(2)).provenance.bundle_sha256 is None


@pytest.mark.parametrize("part", ["backbone", "head"])
@pytest.mark.parametrize("loaded", [False, True])
def test_another_model_than_the_calibrated_one_is_refused(tmp_path, part, loaded):
    audit = load(saved(tmp_path), allow_import=[TOY.name]) if loaded else audit_of()
    verify(audit, images(3), alpha=0.05)
    with torch.no_grad():
        next(getattr(audit, part).parameters()).add_(0.01)
    with pytest.raises(UsageError, match=r"changed after audit.calibrate\(\); calibrate again"):
        verify(audit, images(3), alpha=0.05)
    audit.calibrate(images(49, seed=98))
    assert verify(audit, images(3), alpha=0.05).provenance.bundle_sha256 is None


@pytest.mark.parametrize(
    "change",
    [
        lambda audit: audit.calibrate(images(49, seed=98)),
        lambda audit: audit.evaluate(images(30), images(30, seed=2)),
        lambda audit: audit.note(plain_accuracy=0.5),
        lambda audit: setattr(audit, "records", dataclasses.replace(audit.records)),
        lambda audit: audit.facts.update(steps=9),
    ],
    ids=["calibrate", "evaluate", "note", "records", "facts"],
)
def test_an_audit_changed_after_loading_no_longer_goes_by_its_bundle(tmp_path, change):
    path = saved(tmp_path)
    audit, folder = load(path, allow_import=[TOY.name]), write_pictures(tmp_path / "pictures", 3)
    before = verify(audit, folder, alpha=0.05).provenance
    assert before.bundle_sha256 == audit.bundle.sha256
    assert before.signature == audit.bundle.signature.sentence()
    assert before.weights_sha256 == audit.bundle.manifest["files"]["model.safetensors"]
    change(audit)
    after = verify(audit, folder, alpha=0.05).provenance
    assert after.bundle_sha256 is None
    assert after.signature == "not signed: changed after it was loaded from a bundle"
    assert after.weights_sha256 == before.weights_sha256, "the weights are still those"


@pytest.mark.parametrize("alpha, n", [(0.01, 99), (0.019, 52), (0.001, 999)])
def test_alpha_below_what_the_calibration_supports_names_what_would_do(alpha, n):
    with pytest.raises(AlphaError, match=f"alpha={alpha:g} is out of reach with 49 .* Use at least {n} calibration"):
        verify(audit_of(calibration=49), images(3), alpha=alpha)
    verify(audit_of(calibration=n), images(3), alpha=alpha)


@pytest.mark.parametrize("alpha", [0, 1, 2, -0.1, float("nan"), float("inf")])
def test_alpha_is_a_rate(alpha):
    with pytest.raises(AlphaError, match="alpha must lie strictly between 0 and 1"):
        verify(audit_of(), images(3), alpha=alpha)


def test_every_kind_of_submission_gives_the_same_scores(tmp_path):
    bundle = saved(tmp_path)
    folder = write_pictures(tmp_path / "pictures", 9)
    x = tensors_of(folder)
    y = torch.arange(9)
    expected = [item.score for item in judge(bundle, folder).items]
    rows = TensorDataset(x, y)
    for source in (x, rows, DataLoader(rows, 4), ({"x": part} for part in x.split(2)), str(folder)):
        assert [item.score for item in judge(bundle, source).items] == pytest.approx(expected, abs=1e-5)
    [one] = judge(str(bundle), folder / "003.png").items
    assert one.path == "003.png"
    assert one.score == pytest.approx(expected[3], abs=1e-5)


@pytest.mark.parametrize(
    "preprocessing",
    [
        PREPROCESSING,
        Preprocessing(size=(16, 16), interpolation="nearest"),
        Preprocessing(size=(16, 16), interpolation="lanczos", mean=(0.1,), std=(0.33,)),
        Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.1, 0.7, 0.3)),
    ],
)
def test_files_are_preprocessed_to_the_last_bit_as_in_training(tmp_path, preprocessing):
    bundle = saved(tmp_path, preprocessing)
    folder = write_pictures(tmp_path / "pictures", 7, size=(16, 16) if preprocessing.size is None else (23, 31))
    in_training = tensors_of(folder, preprocessing)
    verdict = judge(bundle, folder)
    assert [item.score for item in verdict.items] == audit_of().read(in_training).scores.tolist()
    assert verdict.items == tuple(
        item.__class__(**{**dataclasses.asdict(item), "path": file.path, "sha256": file.sha256})
        for item, file in zip(judge(bundle, in_training).items, verdict.items, strict=True)
    )


def test_order_and_batch_size_do_not_matter(tmp_path):
    bundle = saved(tmp_path)
    folder = write_pictures(tmp_path / "pictures", 11)
    x = tensors_of(folder)
    one = judge(bundle, folder)
    for batch_size in (1, 3, 11, 100):
        for submitted in (folder, x):
            other = judge(bundle, submitted, batch_size=batch_size)
            assert [item.score for item in other.items] == pytest.approx([item.score for item in one.items], abs=1e-5)
            assert other.p_value == pytest.approx(one.p_value, abs=1e-9)
    order = torch.randperm(11)
    shuffled = judge(bundle, x[order])
    assert [item.score for item in shuffled.items] == pytest.approx([one.items[i].score for i in order], abs=1e-5)
    assert shuffled.p_value == pytest.approx(one.p_value, abs=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_named(value):
    x = images(150)
    x[70, 1, 2, 3] = x[75, 0, 0, 0] = value
    with pytest.raises(InputError, match="2 of 64 submitted rows hold NaN or infinity, first row 70; leave them out"):
        verify(audit_of(), x, alpha=0.05)


def test_finite_numbers_however_large_are_no_nan():
    x = images(3).double()
    x[1] = 1e308
    with pytest.raises(NonFiniteError, match=r"1 of 3 scores are not finite \(rows \[1\]\)"):
        verify(audit_of(ToyNet().double()), x, alpha=0.05)


@pytest.mark.parametrize("source", [images(0), [], TensorDataset(images(0)), iter(())], ids=lambda s: type(s).__name__)
def test_nothing_submitted(source):
    with pytest.raises(InputError, match="nothing was submitted"):
        verify(audit_of(), source, alpha=0.05)


def test_nothing_that_can_be_judged_cannot_tell(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no files to judge"):
        judge(saved(tmp_path), folder)
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(b"this is text")
    verdict = judge(saved(tmp_path), folder)
    assert (verdict.decision, verdict.p_value, verdict.judged) == ("cannot tell", None, ())
    assert [item.path for item in verdict.items] == ["a.png", "b.jpg"]
    assert all(item.decision == "cannot tell" and item.note and item.score is None for item in verdict.items)


def test_what_cannot_be_judged_does_not_stop_or_change_the_rest(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 6)
    alone = judge(saved(tmp_path), folder)
    (folder / "002 broken.png").write_bytes((folder / "002.png").read_bytes()[:200])
    (folder / "a.txt").write_text("hello")
    verdict = judge(saved(tmp_path), folder)
    assert [item.path for item in verdict.items] == sorted(path.name for path in folder.iterdir())
    assert verdict.judged == alone.items
    assert verdict.p_value == alone.p_value
    assert "cut short" in verdict.items[2].note or "damaged" in verdict.items[2].note


def test_copies_count_once(tmp_path):
    audit = audit_of()
    x = images(400, seed=21)
    highest = x[audit.score(x).argmax()]
    once = verify(audit, highest[None], alpha=0.05)
    many = verify(audit, highest.repeat(60, 1, 1, 1), alpha=0.05)
    assert many.tests == once.tests
    assert once.tests[0].p_value == once.items[0].p_value
    assert [item.copy_of for item in many.items] == [None] + ["row 0"] * 59
    assert many.copies == 59
    mixed = verify(audit, torch.cat([x[:5], highest[None], x[:5]]), alpha=0.05)
    assert mixed.p_value == verify(audit, torch.cat([x[:5], highest[None]]), alpha=0.05).p_value
    assert [item.copy_of for item in mixed.items] == [None] * 6 + [f"row {i}" for i in range(5)]


def test_copies_of_files_are_recognised_by_what_the_model_sees(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 3)
    Image.open(folder / "001.png").save(folder / "001 again.bmp")
    (folder / "zz.png").write_bytes((folder / "001.png").read_bytes())
    verdict = judge(saved(tmp_path), folder, batch_size=2)
    assert {item.path: item.copy_of for item in verdict.items if item.copy_of} == {
        "001.png": "001 again.bmp",
        "zz.png": "001 again.bmp",
    }
    assert len({item.sha256 for item in verdict.items}) == 4


def test_progress_counts_what_was_read(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 5)
    (folder / "bad.png").write_text("text")
    seen = []
    judge(saved(tmp_path), folder, batch_size=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 6), (4, 6), (6, 6)]
    judge(saved(tmp_path), images(5), batch_size=2, progress=lambda *counts: seen.append(counts))
    assert seen[3:] == [(2, 0), (4, 0), (5, 0)]


def test_what_is_missing_is_named(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 2)
    with pytest.raises(UsageError, match="not calibrated"):
        verify(audit_of(calibration=0), images(2))
    for model in (audit_of(), saved(tmp_path, preprocessing=None)):
        with pytest.raises(UsageError, match="files were submitted, but there is no preprocessing"):
            judge(model, folder)
    with pytest.raises(InputError, match="no such file"):
        judge(saved(tmp_path), tmp_path / "missing")
    with pytest.raises(BundleError, match="code of its own"):
        verify(saved(tmp_path), folder)
    with pytest.raises(UsageError, match=r"does not take inputs of shape \(4, 16, 16\)"):
        verify(audit_of(), images(2, shape=(4, 16, 16)), alpha=0.05)
    with pytest.raises(UsageError, match=r"expected a DataLoader, .* got int"):
        verify(audit_of(), 3, alpha=0.05)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_promised(knowing):
    """Fresh calibration and fresh submissions each time, as the guarantee is about both."""
    alpha, repeats, n, m = 0.05, 1000, 99, 20
    pool = images(12_000, seed=31)
    before, knowing.records = knowing.records, None
    knowing.calibrate(pool)
    columns = {part.name: getattr(knowing.records, part.name) for part in dataclasses.fields(knowing.records)}
    known = {name: column for name, column in columns.items() if column is not None}
    dice = np.random.default_rng(0)
    flagged, whole, any_of_four = [], [], []
    try:
        for _ in range(repeats):
            rows = dice.permutation(len(pool))[: n + m]
            knowing.records = CalibrationRecords(**{name: column[rows[:n]] for name, column in known.items()})
            verdict = amint.verify(knowing, pool[rows[n:]], alpha=alpha)
            flagged.append(verdict.flagged / m)
            whole.append(verdict.decision == "used")
            # Of twenty samples hardly any can stand out with so few calibration samples.
            any_of_four.append(amint.verify(knowing, pool[rows[-4:]], alpha=alpha).used > 0)
    finally:
        knowing.records = before
    noise = 3 * np.sqrt(alpha * (1 - alpha) / repeats)
    assert np.mean(flagged) == pytest.approx(alpha, abs=0.005)
    assert np.mean(whole) == pytest.approx(alpha, abs=noise)
    assert 0 < np.mean(any_of_four) < alpha + noise
