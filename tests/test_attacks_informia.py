import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from test_attacks_references import (
    EXACT,
    KNOWN,
    KNOWN_MEMBERS,
    MEMBERS,
    SCORED,
    VECTORS,
    changed,
    fleet,
    rows,
    vector_signals,
)

from amint.attacks import informia
from amint.attacks.informia import InfoRmia, max_k, min_k, span_sums, token_informia
from amint.attacks.rmia import Rmia
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc, tpr_at_fpr
from amint.signals import Signals

VECTOR = VECTORS["results"]
TOKEN = VECTORS["token"]
X, Z = vector_signals()
NATS = math.log(2)


@pytest.mark.parametrize(
    "entry, field, mode, a, weights",
    [
        ("online", "informia_uniform_z", "online", None, "uniform"),
        *(
            (f"offline_a={a}", field, "offline", a, weights)
            for a in (0.3, 1.0)
            for field, weights in (("informia_uniform_z", "uniform"), ("informia_pz_weighted", "density"))
        ),
    ],
)
def test_the_score_equals_the_reference_vectors(entry, field, mode, a, weights):
    bits = InfoRmia(mode, a, weights).fit(Z, np.zeros(4, bool)).score(X)
    assert bits * NATS == pytest.approx(VECTOR[entry][field], **EXACT)
    if weights == "uniform" and mode == "offline":
        assert bits == pytest.approx(VECTOR[entry]["informia_bits_uniform"], **EXACT)


def slow_log_ratio(signals, i, mode, a):
    references, inside = np.exp(signals["reference_logprob"][i]), signals["reference_in"][i]
    outside_mean = references[~inside].mean()
    p = (references[inside].mean() + outside_mean) / 2 if mode == "online" else ((1 + a) * outside_mean + 1 - a) / 2
    return math.log(math.exp(signals["logprob"][i]) / p)


@pytest.mark.parametrize("mode, a", [("online", None), ("offline", 0.0), ("offline", 0.6), ("offline", 1.0)])
def test_the_score_equals_loops(mode, a):
    constant = np.mean([slow_log_ratio(KNOWN, i, mode, a) for i in np.flatnonzero(~KNOWN_MEMBERS)])
    slow = [(slow_log_ratio(SCORED, i, mode, a) - constant) / NATS for i in range(len(SCORED))]
    np.testing.assert_allclose(InfoRmia(mode, a).fit(KNOWN, KNOWN_MEMBERS).score(SCORED), slow, rtol=1e-10, atol=1e-10)


def test_the_constant_only_shifts():
    few = rows(KNOWN, ~KNOWN_MEMBERS)
    fits = [
        InfoRmia("online").fit(KNOWN, KNOWN_MEMBERS),
        InfoRmia("online", weights="density").fit(KNOWN, KNOWN_MEMBERS),
        InfoRmia("online").fit(rows(few, slice(1)), np.zeros(1, bool)),
    ]
    scores = np.array([attack.score(SCORED) for attack in fits])
    assert len({attack.constant.nats for attack in fits}) == 3
    assert np.ptp(scores - scores[0], axis=1).max() < 1e-12


def test_the_constant_makes_targets_comparable():
    """A target that is surer of everything shifts all ratios, and the constant takes the shift away again."""

    def surer(signals):
        return changed(signals, logprob=signals["logprob"] - 0.75)

    plain = InfoRmia("online").fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    np.testing.assert_allclose(
        InfoRmia("online").fit(surer(KNOWN), KNOWN_MEMBERS).score(surer(SCORED)), plain, atol=1e-12
    )


def test_a_small_population_costs_rmia_the_low_fprs_and_informia_nothing():
    """The paper's main finding: the AUROC is the same, RMIA's top score is shared by more than 0.1 % of non-members."""
    signals, is_member = fleet(n=6000, seed=13, gain=3.0)
    few, many = fleet(n=400, seed=14, gain=3.0), fleet(n=4000, seed=14, gain=3.0)
    bits, exact = (InfoRmia("online").fit(*known).score(signals) for known in (few, many))
    shares = Rmia("online").fit(*few).score(signals)
    assert auroc(bits, is_member) == pytest.approx(auroc(shares, is_member), abs=0.005)
    assert tpr_at_fpr(shares, is_member, 0.001) == 0
    assert tpr_at_fpr(bits, is_member, 0.001) > 0.1
    assert tpr_at_fpr(bits, is_member, 0.001) == tpr_at_fpr(exact, is_member, 0.001)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_token_scores_equal_the_reference_vectors(temperature):
    expected = TOKEN["results"][f"temperature={temperature}"]
    scores = token_informia(TOKEN["target_logits"], [TOKEN["reference_logits"]], TOKEN["truth"], temperature)
    assert scores.log_ratio == pytest.approx(expected["log_ratio"], **EXACT)
    assert scores.divergence == pytest.approx(expected["kl_ref_target"], **EXACT)
    assert scores.score == pytest.approx(expected["score_full_vocab"], **EXACT)
    assert scores.bits * NATS == pytest.approx(expected["score_full_vocab"], **EXACT)
    q_truth = np.exp(scores.log_reference)
    assert q_truth == pytest.approx(expected["q_truth"], **EXACT)
    assert scores.excluding_truth == pytest.approx(expected["score_excluding_truth_renormalised"], **EXACT)
    assert scores.excluding_truth == pytest.approx(scores.score / (1 - q_truth), **EXACT)
    # Leaving the truth out without renormalising counts its own term once more.
    unnormalised = scores.score + q_truth * scores.log_ratio
    assert unnormalised == pytest.approx(expected["score_excluding_truth_unnormalised"], **EXACT)
    assert min_k(scores.score, 1.0) == pytest.approx(expected["sequence_mean"], **EXACT)
    assert min_k(scores.score, 0.34) == pytest.approx(expected["sequence_min_k_34pct"], **EXACT)
    assert max_k(scores.score, 0.34) == pytest.approx(expected["sequence_max_k_34pct"], **EXACT)


def test_references_are_averaged_as_probabilities():
    expected = TOKEN["results"]["two_references_mean_prob_T1"]
    references = [TOKEN["reference_logits"], expected["reference2_logits"]]
    scores = token_informia(TOKEN["target_logits"], references, TOKEN["truth"])
    assert scores.score == pytest.approx(expected["score_full_vocab"], **EXACT)


def test_the_sequence_signal_is_the_mean_log_probability():
    """Attacks on sequences read it as ``logprob``; the geometric mean of the token probabilities is its exponential."""
    vector = VECTORS["sequence_signal"]
    assert math.exp(np.log(vector["token_probs"]).mean()) == pytest.approx(vector["geometric_mean"], **EXACT)


def logits(t, v, k, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(t, v)), list(3 * rng.normal(size=(k, t, v))), rng.integers(v, size=t)


def slow_token_scores(target, references, ids, temperature):
    """Position by position and class by class, in probabilities."""
    scores = []
    for t, y in enumerate(ids):
        p = special.softmax(target[t] / temperature)
        q = np.mean([special.softmax(reference[t] / temperature) for reference in references], axis=0)
        expectation = sum(q[v] * math.log(p[v] / q[v]) for v in range(len(p)))
        scores.append(math.log(p[y] / q[y]) - expectation)
    return np.array(scores)


@pytest.mark.parametrize("k, temperature", [(1, 1.0), (3, 1.0), (2, 0.5), (2, 4.0)])
def test_token_scores_equal_loops(k, temperature, monkeypatch):
    target, references, ids = logits(50, 11, k)
    slow = slow_token_scores(target, references, ids, temperature)
    np.testing.assert_allclose(token_informia(target, references, ids, temperature).score, slow, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(informia, "BLOCK", 30)
    np.testing.assert_allclose(token_informia(target, references, ids, temperature).score, slow, rtol=1e-10, atol=1e-10)


@given(st.integers(2, 20), st.integers(1, 4), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 1000))
@settings(deadline=None)
def test_the_expected_token_score_under_the_reference_is_zero(v, k, temperature, seed):
    target, references, _ = logits(1, v, k, seed)
    every = token_informia(np.repeat(target, v, 0), [np.repeat(r, v, 0) for r in references], np.arange(v), temperature)
    q = np.mean([special.softmax(reference[0] / temperature) for reference in references], axis=0)
    assert q @ every.score == pytest.approx(0, abs=1e-12)
    # The same holds at the level of the other reading: over the vocabulary without the truth it is the mean gap.
    assert (every.divergence >= -1e-12).all()


def test_a_classifier_is_a_sequence_of_one_token():
    """With the vocabulary as the population, weighted by the reference, the example-level score is the token's."""
    target, references, _ = logits(1, 7, 3)
    log_p = special.log_softmax(target[0])
    log_q = np.stack([special.log_softmax(reference[0]) for reference in references], axis=1)
    classes = Signals({"logprob": log_p, "reference_logprob": log_q, "reference_in": np.zeros((7, 3), bool)})
    example = InfoRmia("offline", a=1.0, weights="density").fit(classes, np.zeros(7, bool)).score(classes)
    for y in range(7):
        assert token_informia(target, references, [y]).bits[0] == pytest.approx(example[y], abs=1e-12)


def test_a_target_like_its_references_has_zero_token_scores():
    target, _, ids = logits(20, 9, 1)
    scores = token_informia(target, [target, target], ids)
    for values in scores.score, scores.divergence, scores.excluding_truth:
        np.testing.assert_allclose(values, 0, atol=1e-14)


def test_token_scores_do_not_depend_on_other_positions_or_on_the_level_of_the_logits():
    target, references, ids = logits(20, 9, 2)
    scores = token_informia(target, references, ids).score
    single = [token_informia(target[[t]], [r[[t]] for r in references], ids[[t]]).score[0] for t in range(20)]
    np.testing.assert_array_equal(single, scores)
    lifted = token_informia(target + 100.0, [r - 50.0 for r in references], ids).score
    np.testing.assert_allclose(lifted, scores, atol=1e-10)
    order = np.random.default_rng(0).permutation(9)
    renamed = token_informia(target[:, order], [r[:, order] for r in references], np.argsort(order)[ids]).score
    np.testing.assert_allclose(renamed, scores, atol=1e-12)


def test_a_surer_target_has_a_higher_log_ratio():
    target, references, ids = logits(1, 6, 2)
    surer = np.repeat(target, 30, axis=0)
    surer[:, ids[0]] += np.linspace(-10, 10, 30)
    scores = token_informia(surer, [np.repeat(r, 30, axis=0) for r in references], np.repeat(ids, 30))
    assert (np.diff(scores.log_ratio) > 0).all()


@pytest.mark.parametrize("huge", [1e3, 1e4])
def test_huge_logits_have_finite_token_scores(huge):
    sure = np.array([[huge, 0.0, 0.0], [0.0, huge, 0.0]])
    for target, reference in ((sure, sure), (sure, -sure), (-sure, sure)):
        for ids in ([0, 1], [2, 2]):
            scores = token_informia(target, [reference], ids)
            for values in scores.score, scores.log_ratio, scores.divergence, scores.excluding_truth:
                assert np.isfinite(values).all()


def test_no_tokens_have_no_scores():
    assert token_informia(np.empty((0, 5)), [np.empty((0, 5))], np.empty(0, int)).score.shape == (0,)


def test_float32_logits_over_a_large_vocabulary_give_nearly_the_same_scores():
    target, references, ids = logits(16, 20_000, 1)
    narrow = token_informia(target.astype(np.float32), [r.astype(np.float32) for r in references], ids)
    np.testing.assert_allclose(narrow.score, token_informia(target, references, ids).score, rtol=1e-4, atol=1e-4)
    assert narrow.score.dtype == np.float64


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, found 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"reference_logits": []}, "at least one reference"),
        ({"reference_logits": [np.zeros((3, 4))]}, r"logits of the target's shape \(3, 5\), found \[\(3, 4\)\]"),
        ({"target_logits": np.zeros(5)}, r"target_logits must be numbers \[t, v\] with v >= 2 classes"),
        ({"target_logits": np.zeros((3, 1))}, "v >= 2 classes"),
        ({"reference_logits": [[["a", "b"]]]}, r"reference_logits\[0\] must be numbers"),
        ({"ids": [0, 1]}, "ids must be 3 integers from 0 to 4"),
        ({"ids": [0, 1, 5]}, "ids must be 3 integers from 0 to 4"),
        ({"ids": [0, -100, 2]}, "Drop ignored positions"),
        ({"ids": [0.0, 1.0, 2.0]}, "dtype float64"),
    ],
)
def test_token_inputs_that_cannot_work_are_refused(changes, message):
    good = {"target_logits": np.zeros((3, 5)), "reference_logits": [np.ones((3, 5))], "ids": [0, 1, 2]}
    with pytest.raises(UsageError, match=message):
        token_informia(**(good | changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    bad = np.zeros((3, 5))
    bad[1, 2] = value
    with pytest.raises(NonFiniteError, match="target_logits: 1 of 3 positions"):
        token_informia(bad, [np.zeros((3, 5))], [0, 1, 2])
    with pytest.raises(NonFiniteError, match=r"reference_logits\[1\]: 1 of 3 positions"):
        token_informia(np.zeros((3, 5)), [np.zeros((3, 5)), bad], [0, 1, 2])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(0.01, 1))
@settings(deadline=None)
def test_aggregations_lie_around_the_mean(scores, fraction):
    low, high = min_k(scores, fraction), max_k(scores, fraction)
    assert min(scores) - 1e-9 <= low <= np.mean(scores) + 1e-9
    assert np.mean(scores) - 1e-9 <= high <= max(scores) + 1e-9


@pytest.mark.parametrize("scores, fraction", [([], 0.5), ([1.0], 0.0), ([1.0], 1.1), ([1.0], float("nan"))])
def test_aggregations_refuse_what_has_no_mean(scores, fraction):
    for aggregate in min_k, max_k:
        with pytest.raises(UsageError, match="at least one token score and a fraction"):
            aggregate(scores, fraction)


def test_spans_sum_their_tokens():
    scores = np.random.default_rng(0).normal(size=30)
    spans = np.array([[0, 30], [3, 3], [30, 30], [7, 19], [5, 6]])
    np.testing.assert_allclose(span_sums(scores, spans), [scores[a:b].sum() for a, b in spans], atol=1e-12)
    assert span_sums(scores, np.empty((0, 2), int)).shape == (0,)
    for bad in ([[0, 31]], [[5, 4]], [[-1, 3]], [0, 3], [[0.0, 3.0]]):
        with pytest.raises(UsageError, match="spans must be integers"):
            span_sums(scores, bad)


def test_members_score_higher_in_bits():
    bits = InfoRmia("online").fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    assert bits[MEMBERS].mean() > 0 > bits[~MEMBERS].mean() - 0.1
