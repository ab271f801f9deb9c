import numpy as np
import pytest
import torch
from audit_toys import audit_of, images

from amint.errors import UsageError
from amint.records import CalibrationRecords, Sketch, TrainingRecords, perceptual_hashes, without_copies
from amint.roles import Ledger, fingerprints


def records(n=4, **columns):
    made = {"scores": np.arange(n, dtype=float), "marks": np.arange(n), "blind": np.zeros((n, 2), np.float32)}
    return CalibrationRecords(**(made | columns))


def test_tensors_there_and_back():
    audit = audit_of(calibration=20)
    again = CalibrationRecords.from_tensors(audit.records.to_tensors())
    for name, column in vars(audit.records).items():
        assert (column is None) == (getattr(again, name) is None)
        assert column is None or np.array_equal(column, getattr(again, name))
    trained = TrainingRecords(np.arange(3), np.arange(3), np.zeros(5))
    assert TrainingRecords.from_tensors(trained.to_tensors()).to_tensors().keys() == trained.to_tensors().keys()
    assert TrainingRecords.from_tensors({}).member_scores is None


def test_batches_are_joined_in_order_and_a_column_is_there_for_all_or_none():
    first, second = records(2, classes=np.array([1, 2])), records(3)
    joined = CalibrationRecords.joined([first, second])
    assert joined.scores.tolist() == [0, 1, 0, 1, 2]
    assert joined.classes is None
    assert CalibrationRecords.joined([first, first]).classes.tolist() == [1, 2, 1, 2]


def test_of_copies_the_first_is_kept_in_the_order_given():
    marks = np.array([7, 3, 7, 9, 3, 1])
    kept = without_copies(records(6, marks=marks, classes=np.arange(6) * 10))
    assert kept.marks.tolist() == [7, 3, 9, 1]
    assert kept.scores.tolist() == [0, 1, 3, 5]
    assert kept.classes.tolist() == [0, 10, 30, 50]
    assert (kept.confidence, kept.properties) == (None, None)
    assert without_copies(kept) is kept


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(UsageError, match="must have one length"):
        records(4, classes=np.arange(3))


def test_calibration_keeps_the_order_given_and_what_the_model_predicts():
    audit = audit_of(calibration=0)
    x = images(40, seed=8)
    audit.calibrate(x)
    with torch.no_grad():
        logits = audit.backbone(x).double()
    assert np.array_equal(audit.records.marks, fingerprints(x).numpy())
    assert np.array_equal(audit.records.hashes, perceptual_hashes(x))
    assert np.array_equal(audit.records.classes, logits.argmax(1).numpy())
    assert audit.records.confidence == pytest.approx(torch.log_softmax(logits, 1).amax(1).numpy(), abs=1e-5)
    assert np.array_equal(np.sort(audit.records.scores), audit.calibration.scores)


def test_each_different_external_row_is_noted_once():
    ledger, x = Ledger(), images(6)
    ledger.add("external", x[:4])
    ledger.add("external", torch.cat([x[2:], x[5:]]))
    ledger.add("members", images(3, seed=2))
    assert np.array_equal(ledger.sketch.column("external.marks"), fingerprints(x).numpy())
    assert np.array_equal(ledger.sketch.column("external.hashes"), perceptual_hashes(x))
    assert ledger.sketch.column("external.blind").shape[0] == 6
    assert ledger.sketch.column("members.blind").shape[0] == 3
    assert ledger.sketch.column("members.marks") is None


def test_a_sketch_is_restored_and_several_are_joined_without_repeating_rows():
    ledger, x = Ledger(), images(6)
    ledger.add("external", x)
    state = ledger.state_dict()
    twice = {name: torch.cat([column, column]) for name, column in state.items()}
    other = Ledger()
    other.load_state_dict(twice)
    assert other.count("external") == 6
    pairs = [set(zip(*(part.sketch.column(f"external.{c}").tolist() for c in ("marks", "hashes")), strict=True))
             for part in (ledger, other)]  # fmt: skip
    assert pairs[0] == pairs[1]
    assert len(other.sketch.column("external.blind")) == 6


def test_the_sketch_does_not_grow_without_bound():
    sketch = Sketch()
    for seed in range(5):
        x = images(500, seed=seed, shape=(1, 8, 8))
        sketch.add("members", x, fingerprints(x))
    assert len(sketch.column("members.blind")) == 2000


def test_what_is_no_image_has_no_look():
    assert perceptual_hashes(torch.randn(3, 8)) is None
    assert perceptual_hashes(torch.randn(3, 2, 8, 8)) is None
    assert perceptual_hashes(torch.randn(3, 1, 8, 8)).dtype == np.int64
