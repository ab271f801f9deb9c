import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from amint.attacks.modified_entropy import ModifiedEntropy, ModifiedEntropyByClass
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.posteriors import posterior_columns
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())


@pytest.fixture
def signals():
    """The signals of the four reference samples."""
    columns = posterior_columns(torch.tensor(VECTORS["logits"], dtype=torch.float64), torch.tensor(VECTORS["labels"]))
    return Signals({name: column.numpy() for name, column in columns.items()})


def by_class_of(entropies, labels):
    return Signals({"modified_entropy": np.array(entropies, float), "label": np.array(labels)})


def best_accuracies(entropies, member):
    """Balanced accuracy of "at or below means member", threshold by threshold, in plain loops."""
    found = {}
    for threshold in sorted(set(entropies)):
        hits = sum(e <= threshold for e, m in zip(entropies, member, strict=True) if m) / sum(member)
        passed = sum(e > threshold for e, m in zip(entropies, member, strict=True) if not m) / sum(
            not m for m in member
        )
        found[threshold] = (hits + passed) / 2
    return found


def test_scores_equal_the_reference_vectors(signals):
    np.testing.assert_allclose(
        ModifiedEntropy().score(signals), -np.array(VECTORS["modified_entropy"]), rtol=0, atol=1e-9
    )


def test_a_confident_mistake_is_the_opposite_of_a_confident_hit():
    columns = posterior_columns(torch.tensor([[6.0, 0.0]] * 2 + [[0.5, 0.0]] * 2), torch.tensor([0, 1, 0, 1]))
    scores = ModifiedEntropy().score(Signals({"modified_entropy": columns["modified_entropy"].numpy()}))
    assert scores[0] > scores[2] > scores[3] > scores[1]


def test_thresholds_by_hand():
    known = by_class_of([1, 2, 3, 4, 10, 20, 30, 40], [0, 0, 0, 0, 1, 1, 1, 1])
    fitted = ModifiedEntropyByClass().fit(known, np.array([1, 1, 0, 0, 1, 1, 0, 0], bool))
    assert fitted.thresholds == ((0, 2.0), (1, 20.0))
    assert fitted.score(by_class_of([2, 2.5, 20, 25], [0, 0, 1, 1])).tolist() == [0, -0.5, 0, -5]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=25))
def test_the_threshold_is_the_best_one_on_the_known_samples(rows):
    entropies, member = [e / 2 for e, _ in rows], [m for _, m in rows]
    assume(any(member) and not all(member))
    fitted = ModifiedEntropyByClass().fit(by_class_of(entropies, [3] * len(rows)), np.array(member))
    accuracy = best_accuracies(entropies, member)
    best = [threshold for threshold, value in accuracy.items() if value == pytest.approx(max(accuracy.values()))]
    assert fitted.pooled in best
    assert fitted.thresholds == ((3, fitted.pooled),)


def test_classes_without_both_kinds_use_the_pooled_threshold():
    known = by_class_of([1, 2, 3, 4, 1.5], [0, 0, 0, 0, 1])
    fitted = ModifiedEntropyByClass().fit(known, np.array([1, 1, 0, 0, 1], bool))
    assert dict(fitted.thresholds).keys() == {0}
    assert fitted.pooled == 2.0
    assert fitted.score(by_class_of([1, 1], [1, 99])).tolist() == [1.0, 1.0]


def test_thresholds_for_each_class_help_where_classes_differ():
    """Member entropy is 1 below the class's mean; the classes' means lie 10 apart, which hides it when pooled."""
    draw = np.random.default_rng(0)

    def sample(n):
        labels, member = draw.integers(0, 5, n), draw.random(n) < 0.5
        return by_class_of(10 * labels + draw.normal(size=n) - 2 * member, labels), member

    known, is_member = sample(2000)
    judged, truth = sample(4000)
    assert auroc(ModifiedEntropyByClass().fit(known, is_member).score(judged), truth) > 0.88
    assert auroc(ModifiedEntropy().score(judged), truth) < 0.6


def test_thresholds_need_known_members_and_non_members():
    known = by_class_of([1, 2], [0, 0])
    for labels in ([True, True], [False, False], [True]):
        with pytest.raises(UsageError):
            ModifiedEntropyByClass().fit(known, np.array(labels))
    with pytest.raises(UsageError, match="call fit"):
        ModifiedEntropyByClass().score(known)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_a_number_is_refused(bad):
    with pytest.raises(NonFiniteError, match="modified_entropy: 1 of 3 are NaN or infinite, the first at index 1"):
        ModifiedEntropy().score(Signals({"modified_entropy": np.array([0.5, bad, 0.5])}))


@pytest.mark.parametrize("column", [np.zeros((3, 1)), np.array(["a", "b"])])
def test_a_signal_of_another_shape_or_type_is_refused(column):
    with pytest.raises(UsageError, match="modified_entropy must be a one-dimensional array of numbers"):
        ModifiedEntropy().score(Signals({"modified_entropy": column}))
