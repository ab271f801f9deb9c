import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
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

from amint.attacks import rmia
from amint.attacks._masked import referenced
from amint.attacks.informia import InfoRmia
from amint.attacks.rmia import UNTUNED_A, Rmia, log_ratio, taylor_logprob, tuned_a
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.signals import Signals

VECTOR = VECTORS["results"]
X, Z = vector_signals()
OFFLINE = [("offline_a=0.3", 0.3), ("offline_a=1.0", 1.0)]
MODES = [("online", "online", None), *((entry, "offline", a) for entry, a in OFFLINE)]


def on_vectors(mode, **options):
    return Rmia(mode, **options).fit(Z, np.zeros(4, bool))


@pytest.mark.parametrize("entry, mode, a", MODES)
def test_the_score_equals_the_reference_vectors(entry, mode, a):
    for gamma in 1.0, 2.0:
        scores = on_vectors(mode, a=a, gamma=gamma).score(X)
        assert scores == pytest.approx(VECTOR[entry][f"rmia_gamma{gamma:.0f}"], **EXACT)


@pytest.mark.parametrize("entry, mode, a", MODES)
def test_normaliser_and_ratio_equal_the_reference_vectors(entry, mode, a):
    for side, signals in ("x", X), ("z", Z):
        ratio = np.exp(log_ratio(referenced(signals, "logprob"), mode, a, "samples")[:, 0])
        assert np.exp(signals["logprob"]) / ratio == pytest.approx(VECTOR[entry][f"p_{side}"], **EXACT)
        if mode == "offline":
            assert ratio == pytest.approx(VECTOR[entry][f"ratio_{side}"], **EXACT)


@pytest.mark.parametrize("entry, a", OFFLINE)
def test_privacy_meters_bias_comes_from_averaging_only_the_larger_half(entry, a):
    """It keeps the K/2 largest signals of each z, although all K are OUT; calling the others IN does the same."""
    largest = np.argsort(np.argsort(-Z["reference_logprob"], axis=1), axis=1) < 2
    biased = Rmia("offline", a=a).fit(changed(Z, reference_in=~largest), np.zeros(4, bool))
    assert biased.score(X) == pytest.approx(VECTOR[entry]["rmia_gamma1_with_privacy_meter_z_top_half_bias"], **EXACT)


def slow_normaliser(p, inside, mode, a):
    """p(y) of one sample from its references' probabilities."""
    outside_mean = np.mean([p[k] for k in range(len(p)) if not inside[k]])
    if mode == "offline":
        return ((1 + a) * outside_mean + 1 - a) / 2
    seen = [p[k] for k in range(len(p)) if inside[k]]
    return (np.mean(seen) + outside_mean) / 2 if seen else outside_mean


def slow_ratios(signals, mode, a):
    p, references = np.exp(signals["logprob_queries"]), np.exp(signals["reference_logprob_queries"])
    return [
        [p[i, j] / slow_normaliser(references[i, :, j], signals["reference_in"][i], mode, a) for j in range(p.shape[1])]
        for i in range(len(p))
    ]


def slow_rmia(known, is_member, scored, mode, a, gamma):
    """The specification over all pairs: one vote a query, the majority decides, a tied vote counts 1/2."""
    ratios_z = slow_ratios(rows(known, ~is_member), mode, a)
    scores = []
    for x in slow_ratios(scored, mode, a):
        dominated = 0.0
        for z in ratios_z:
            votes = sum(x[j] / z[j] > gamma for j in range(len(x)))
            dominated += 1.0 if 2 * votes > len(x) else 0.5 if 2 * votes == len(x) else 0.0
        scores.append(dominated / len(ratios_z))
    return np.array(scores)


@pytest.mark.parametrize("q", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode, a, gamma", [("online", None, 1.0), ("offline", 0.3, 1.0), ("offline", 1.0, 1.5)])
def test_the_score_equals_all_pairs_in_loops(q, mode, a, gamma, monkeypatch):
    (known, is_member), (scored, _) = fleet(n=40, q=q, seed=1), fleet(n=30, q=q, seed=2)
    slow = slow_rmia(known, is_member, scored, mode, a, gamma)
    attack = Rmia(mode, gamma, a, queries=True).fit(known, is_member)
    np.testing.assert_allclose(attack.score(scored), slow, rtol=0, atol=1e-12)
    monkeypatch.setattr(rmia, "VOTES", 50)
    np.testing.assert_allclose(attack.score(scored), slow, rtol=0, atol=1e-12)


@given(st.data(), st.integers(1, 5), st.sampled_from([1.0, 2.0]))
@settings(max_examples=60, deadline=None)
def test_tied_ratios_equal_all_pairs_in_loops(data, q, gamma):
    """Ratios of 1, 2 and 4 against gamma 1 and 2: equality is common, and does not dominate."""
    exponents = st.lists(st.lists(st.integers(-2, 0), min_size=q, max_size=q), min_size=1, max_size=6)

    def signals(levels):
        logprob = np.array(levels) * np.log(2)
        return Signals(
            {
                "logprob_queries": logprob,
                "reference_logprob_queries": np.full((len(logprob), 2, q), np.log(0.25)),
                "reference_in": np.zeros((len(logprob), 2), bool),
            }
        )

    known, scored = signals(data.draw(exponents)), signals(data.draw(exponents))
    attack = Rmia("offline", gamma, 1.0, queries=True).fit(known, np.zeros(len(known), bool))
    levels_z, levels_x = (np.round(s["logprob_queries"] / np.log(2)).astype(int) for s in (known, scored))
    votes = (levels_x[:, None] - levels_z[None] > np.log2(gamma)).sum(axis=2)
    expected = ((2 * votes > q) + (2 * votes == q) / 2).mean(axis=1)
    np.testing.assert_allclose(attack.score(scored), expected, rtol=0, atol=1e-12)


def privacy_meter(target, references, inside, target_z, references_z, a):
    """Privacy Meter's offline RMIA (and PrivacyGuard's port of it) as described: IN signals zeroed, the K/2 largest."""
    half = references.shape[1] // 2
    mean_x = np.sort(references * ~inside, axis=1)[:, ::-1][:, :half].mean(axis=1)
    mean_z = np.sort(references_z, axis=1)[:, ::-1][:, :half].mean(axis=1)
    ratio_x = target / ((1 + a) / 2 * mean_x + (1 - a) / 2)
    ratio_z = target_z / ((1 + a) / 2 * mean_z + (1 - a) / 2)
    return (ratio_x[:, None] / ratio_z[None] > 1).mean(axis=1)


def fresh_population(n=200, k=8, seed=3):
    """Non-members that no reference trained on either."""
    signals, _ = fleet(n=n, k=k, seed=seed, half=False, gain=0.0)
    return signals, np.zeros(n, bool)


def as_probabilities(signals):
    return np.exp(signals["logprob"]), np.exp(signals["reference_logprob"])


def test_privacy_meter_agrees_but_for_its_normaliser_of_z():
    """Equal where each x is OUT exactly half of the references and z has the same K/2; on all K of them it takes the
    larger half, which raises p(z), lowers r_z and so raises scores. Ours averages all OUT references.
    """
    known, nobody = fresh_population()
    p_z, references_z = as_probabilities(known)
    theirs = privacy_meter(*as_probabilities(SCORED), SCORED["reference_in"], p_z, references_z, a=0.3)
    largest = np.argsort(np.argsort(-references_z, axis=1), axis=1) < 4
    same = Rmia("offline", a=0.3).fit(changed(known, reference_in=~largest), nobody).score(SCORED)
    np.testing.assert_allclose(same, theirs, rtol=0, atol=1e-12)
    ours = Rmia("offline", a=0.3).fit(known, nobody).score(SCORED)
    assert (ours <= theirs).all()
    assert (ours < theirs).mean() > 0.5


def leakpro(target, references, outside, target_z, references_z, a, gamma, guard=1e-6):
    """LeakPro's RMIA as described: sample by sample against all z, a guard in denominators, all references for z."""
    mean_x = np.array([p[o].mean() for p, o in zip(references, outside, strict=True)])
    p_x = 0.5 * ((a + 1) * mean_x + 1 - a)
    p_z = 0.5 * ((a + 1) * references_z.mean(axis=1) + 1 - a)
    ratio_x, ratio_z = target / (p_x + guard), target_z / (p_z + guard)
    return np.array([np.mean(x / (ratio_z + guard) > gamma) for x in ratio_x])


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_leakpro_agrees_where_no_reference_trained_on_z(gamma):
    """Its guard of 1e-6 moves a score by one z at the most. References that trained on some z it averages in, which
    raises p(z) and with it every score; ours leaves them out.
    """
    known, nobody = fresh_population()
    arrays = (*as_probabilities(SCORED), ~SCORED["reference_in"], *as_probabilities(known))
    ours = Rmia("offline", gamma, 0.3).fit(known, nobody).score(SCORED)
    np.testing.assert_allclose(ours, leakpro(*arrays, a=0.3, gamma=gamma, guard=0.0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours, leakpro(*arrays, a=0.3, gamma=gamma), rtol=0, atol=1 / 200 + 1e-12)

    others = rows(KNOWN, ~KNOWN_MEMBERS)
    arrays = (*as_probabilities(SCORED), ~SCORED["reference_in"], *as_probabilities(others))
    mixed = Rmia("offline", gamma, 0.3).fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    assert (leakpro(*arrays, a=0.3, gamma=gamma) >= mixed).all()
    assert (leakpro(*arrays, a=0.3, gamma=gamma) > mixed).any()


@pytest.mark.parametrize("mode, a", [("online", None), ("offline", 0.3), ("offline", 1.0)])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_the_score_never_decreases_in_the_ratio(mode, a, gamma):
    """So its ROC is that of InfoRMIA, which is a shift of the log ratio, up to the ties that counting makes."""
    scores = Rmia(mode, gamma, a).fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    bits = InfoRmia(mode, a).fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    assert (np.diff(scores[np.argsort(bits)]) >= 0).all()
    if gamma == 1:
        assert auroc(scores, MEMBERS) == pytest.approx(auroc(bits, MEMBERS), abs=0.01)


def test_scores_of_unused_samples_are_uniform():
    """A population drawn like the scored non-members makes the score one minus a p-value, whatever trained on both."""
    known, known_members = fleet(n=4000, seed=8)
    scored, members = fleet(n=20_000, seed=9)
    m = int((~known_members).sum())
    for attack in Rmia("online"), Rmia("offline", a=0.5):
        scores = attack.fit(known, known_members).score(rows(scored, ~members))
        for level in 0.05, 0.25, 0.5:
            assert abs((scores > 1 - level).mean() - level) < 4.5 * np.sqrt(level * (1 - level) / m)


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("mode, a, gamma", [("online", None, 1.0), ("offline", 0.3, 2.0)])
def test_the_population_is_scored_leaving_each_one_out(mode, a, gamma, queries):
    known = rows(KNOWN, slice(60))
    others = np.flatnonzero(~KNOWN_MEMBERS[:60])
    scores = Rmia(mode, gamma, a, queries).fit(known, KNOWN_MEMBERS[:60]).population_scores()
    for i, z in enumerate(others):
        rest = np.setdiff1d(np.arange(60), [z])
        alone = Rmia(mode, gamma, a, queries).fit(rows(known, rest), KNOWN_MEMBERS[rest])
        assert scores[i] == pytest.approx(alone.score(rows(known, [z]))[0], abs=1e-12)


def test_a_population_of_one_cannot_be_left_out():
    one = rows(Z, slice(1))
    attack = Rmia("offline", a=0.3).fit(one, np.zeros(1, bool))
    assert set(attack.score(X)) <= {0.0, 1.0}
    with pytest.raises(UsageError, match="at least 2 known non-members, found 1"):
        attack.population_scores()


def slow_tuning(logprob, inside, targets):
    """The mean AUROC of each a, reference by reference, in probabilities and with scikit-learn's AUROC."""
    found = []
    for j in targets:
        rest = np.setdiff1d(np.arange(inside.shape[1]), [j])
        ratios = [
            [np.exp(row[j]) / slow_normaliser(np.exp(row[rest]), seen[rest], "offline", a / 10) for a in range(11)]
            for row, seen in zip(logprob, inside, strict=True)
        ]
        found.append([roc_auc_score(inside[:, j], column) for column in np.array(ratios).T])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("k, seed", [(8, 12), (4, 12), (4, 14)])
def test_a_is_tuned_on_references_in_the_place_of_the_target(k, seed):
    signals, _ = fleet(n=100, k=k, seed=seed)
    logprob, inside = signals["reference_logprob"], signals["reference_in"]
    assert tuned_a(logprob, inside) == np.argmax(slow_tuning(logprob, inside, range(4))) / 10
    attack = Rmia("offline").fit(signals, np.zeros(100, bool))
    assert attack.population.a == tuned_a(logprob, inside)
    assert attack.a is None


def test_the_target_plays_no_part_in_tuning():
    other = changed(KNOWN, logprob=np.random.default_rng(0).permutation(KNOWN["logprob"]))
    assert (
        Rmia("offline").fit(other, ~KNOWN_MEMBERS).population.a
        == Rmia("offline").fit(KNOWN, KNOWN_MEMBERS).population.a
    )


def test_a_given_a_is_kept():
    attack = Rmia("offline", a=0.7).fit(KNOWN, KNOWN_MEMBERS)
    assert attack.population.a == 0.7
    assert Rmia("online").fit(KNOWN, KNOWN_MEMBERS).population.a is None


@pytest.mark.parametrize("k, half", [(1, False), (8, False), (2, True)])
def test_an_a_that_cannot_be_tuned_is_the_authors_and_that_is_said(k, half):
    """One reference, references that trained on none of the known samples, or two that share none to leave out."""
    known, nobody = fleet(k=k, half=half)
    if half:
        known = changed(known, reference_in=np.tile([[True, True], [False, True]], (200, 1)))
        known, nobody = rows(known, slice(1, None, 2)), nobody[1::2]
    with pytest.raises(UsageError, match=rf"a cannot be tuned with {k} references and {len(known)} known samples"):
        tuned_a(known["reference_logprob"], known["reference_in"])
    for attack, fixed in ((Rmia("offline"), Rmia("offline", a=0.3)), (InfoRmia("offline"), InfoRmia("offline", a=0.3))):
        fitted, same = (one.fit(known, nobody & False) for one in (attack, fixed))
        kept = fitted.population if isinstance(fitted, Rmia) else fitted.constant
        assert kept.a == UNTUNED_A == 0.3
        assert fitted.note.startswith("a = 0.3, its authors' value for CIFAR-10: it could not be tuned")
        assert (same.note, attack.note) == ("", "")
        np.testing.assert_array_equal(fitted.score(known), same.score(known))


def test_a_population_of_any_size_is_ranked_in_full():
    """Sizes around the widths of the integers that stand for ranks."""
    for m in 255, 256, 257, 65_536:
        logprob = -np.arange(1.0, m + 1)[:, None] * np.ones(3) / m
        z = {"logprob_queries": logprob, "reference_logprob_queries": np.full((m, 1, 3), -1.0)}
        attack = Rmia("offline", a=1.0, queries=True).fit(
            Signals(z | {"reference_in": np.zeros((m, 1), bool)}), np.zeros(m, bool)
        )
        top = np.array([[0.0] * 3, [-2.0] * 3, logprob[m // 2]])
        x = {"logprob_queries": top, "reference_logprob_queries": np.full((3, 1, 3), -1.0)}
        scores = attack.score(Signals(x | {"reference_in": np.zeros((3, 1), bool)}))
        np.testing.assert_allclose(scores, [1.0, 0.0, (m - m // 2 - 1) / m])


@pytest.mark.parametrize("queries", [False, True])
def test_memory_does_not_grow_with_pairs(queries):
    """10,000 against 10,000 would be 100 MB as one byte a pair."""
    n, k, q = 10_000, 2, 3
    rng = np.random.default_rng(0)
    name = "logprob_queries" if queries else "logprob"
    shape = (n, k, q) if queries else (n, k)
    logprob = -rng.exponential(size=shape)
    signals = Signals({name: logprob[:, 0], f"reference_{name}": logprob, "reference_in": np.zeros((n, k), bool)})
    tracemalloc.start()
    try:
        Rmia("offline", a=0.5, queries=queries).fit(signals, np.zeros(n, bool)).score(signals)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6


def slow_taylor(logits, label, temperature, margin, order):
    def exponential(z):
        return sum(z**i / math.factorial(i) for i in range(order + 1))

    truth = exponential(logits[label] / temperature - margin)
    return truth / (truth + sum(exponential(z / temperature) for j, z in enumerate(logits) if j != label))


def test_the_soft_margin_signal_equals_the_reference_vectors():
    vector = VECTORS["taylor_soft_margin"]
    settings = vector["temperature"], vector["margin"]
    ours = np.exp(taylor_logprob([vector["logits"]], [vector["label"]], *settings, vector["n"]))
    assert ours == pytest.approx([vector["true_order_4"]], **EXACT)
    # What the authors' code computes in place of it, one order lower, where a sum can be negative.
    official = slow_taylor(vector["logits"], vector["label"], *settings, order=3)
    assert official == pytest.approx(vector["official_code_order_3"], **EXACT)
    cubic, quartic = (sum((-2.0) ** i / math.factorial(i) for i in range(order + 1)) for order in (3, 4))
    assert cubic == pytest.approx(vector["cubic_value_at_minus2"], **EXACT)
    assert quartic == pytest.approx(vector["quartic_value_at_minus2"], **EXACT)


def test_the_soft_margin_signal_equals_loops_and_is_a_log_probability():
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.normal(size=(40, 6)), rng.integers(6, size=40)
    for order in 2, 4, 6:
        slow = [math.log(slow_taylor(row, y, 2.0, 0.6, order)) for row, y in zip(logits, labels, strict=True)]
        np.testing.assert_allclose(taylor_logprob(logits, labels, order=order), slow, rtol=1e-10, atol=1e-12)
    extreme = taylor_logprob([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], [0, 0])
    assert np.isfinite(extreme).all()
    assert (extreme <= 0).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"order": 3}, "order must be even and temperature positive; found 3 and 2.0"),
        ({"order": 0}, "order must be even"),
        ({"temperature": 0.0}, "found 4 and 0.0"),
        ({"labels": [0, 1]}, "Expected logits"),
        ({"labels": [4]}, "Expected logits"),
        ({"logits": [0.0, 1.0]}, "Expected logits"),
    ],
)
def test_the_soft_margin_signal_refuses_what_it_cannot_use(arguments, message):
    with pytest.raises(UsageError, match=message):
        taylor_logprob(**({"logits": [[0.0, 1.0, 2.0]], "labels": [0]} | arguments))
    with pytest.raises(NonFiniteError, match="1 of 1 samples have NaN or infinite logits"):
        taylor_logprob([[0.0, np.nan]], [0])
