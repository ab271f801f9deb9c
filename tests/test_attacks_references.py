"""What every attack on reference models must do, whatever its formula; and the toys that their own tests share."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from amint.attacks import _masked
from amint.attacks.attack_p import AttackP
from amint.attacks.attack_r import AttackR
from amint.attacks.informia import InfoRmia
from amint.attacks.lira import Lira
from amint.attacks.rmia import Rmia
from amint.attacks.watson import Watson
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "informia.json").read_text())
EXACT = {"rel": 0, "abs": 1e-9}

CALIBRATED = {
    "watson": Watson(),
    "attack-r": AttackR(),
    "attack-r share": AttackR("share"),
    "lira online": Lira("online"),
    "lira offline": Lira("offline"),
    "lira online per example": Lira("online", variance="per_example", location="median"),
    "lira online shrunk": Lira("online", variance="shrunk"),
    "lira offline official": Lira("offline", variance="official", location="median"),
    "lira online bug": Lira("online", variance="official_bug"),
    "lira online queries": Lira("online", queries=True),
    "rmia online": Rmia("online"),
    "rmia offline": Rmia("offline"),
    "rmia offline gamma": Rmia("offline", gamma=2.0, a=0.3),
    "rmia online queries": Rmia("online", queries=True),
    "rmia offline queries": Rmia("offline", queries=True),
    "informia online": InfoRmia("online"),
    "informia offline": InfoRmia("offline"),
    "informia density": InfoRmia("offline", a=0.6, weights="density"),
}
ATTACKS = {"attack-p": AttackP(), **CALIBRATED}
every = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
calibrated = pytest.mark.parametrize("attack", CALIBRATED.values(), ids=CALIBRATED)


def fleet(n=400, k=8, q=3, seed=0, gain=1.5, half=True):
    """Signals of a toy target and its references, and who is a member of the target.

    A sample has a difficulty of its own; a model that trained on it is ``gain`` surer; models differ by noise.
    With ``half`` a sample is IN exactly half of the references, else IN none of them.
    """
    rng = np.random.default_rng(seed)
    difficulty = 2 * rng.normal(size=n)
    is_member = rng.random(n) < 0.5
    inside = rng.permuted(np.arange(k) < (k // 2 if half else 0) * np.ones((n, 1)), axis=1)
    phi = difficulty[:, None] + gain * is_member[:, None] + rng.normal(size=(n, q))
    phi_reference = difficulty[:, None, None] + gain * inside[:, :, None] + rng.normal(size=(n, k, q))
    return columns_of(phi, phi_reference, inside), is_member


def columns_of(phi, phi_reference, inside):
    """All columns from scaled logits ``[n, q]`` and ``[n, k, q]``."""
    columns = {"reference_in": inside}
    for prefix, logit in ("", phi), ("reference_", phi_reference):
        logprob = special.log_expit(logit)
        columns |= {f"{prefix}scaled_logit": logit[..., 0], f"{prefix}scaled_logit_queries": logit}
        columns |= {f"{prefix}logprob": logprob[..., 0], f"{prefix}logprob_queries": logprob}
    return Signals(columns)


def vector_signals():
    """The reference vectors' five samples, and their population of four that no reference trained on."""
    z = np.log(VECTORS["z_ref_p"])
    x = {
        "logprob": np.log(VECTORS["target_p"]),
        "reference_logprob": np.log(VECTORS["ref_p"]),
        "reference_in": np.array(VECTORS["ref_in"], bool),
    }
    population = {
        "logprob": np.log(VECTORS["z_target_p"]),
        "reference_logprob": z,
        "reference_in": np.zeros(z.shape, bool),
    }
    return Signals(x), Signals(population)


def rows(signals, chosen):
    return Signals({name: column[chosen] for name, column in signals.columns.items()})


def changed(signals, **columns):
    return Signals({**signals.columns, **columns})


def untuned(attack):
    """With a fixed a: the tuned one depends on the first references and on the first query."""
    offline = isinstance(attack, Rmia | InfoRmia) and attack.mode == "offline"
    return dataclasses.replace(attack, a=0.5) if offline else attack


KNOWN, KNOWN_MEMBERS = fleet(seed=1)
SCORED, MEMBERS = fleet(seed=2)


def fitted(attack):
    return attack.fit(KNOWN, KNOWN_MEMBERS)


@every
def test_members_score_higher(attack):
    scores = fitted(attack).score(SCORED)
    assert scores.shape == MEMBERS.shape
    assert scores.dtype == np.float64
    assert auroc(scores, MEMBERS) > (0.6 if isinstance(attack, AttackP) else 0.7)


@calibrated
def test_without_a_difference_between_in_and_out_there_is_nothing_to_find(attack):
    known, known_members = fleet(n=2000, seed=3, gain=0.0)
    scored, members = fleet(n=2000, seed=4, gain=0.0)
    # 0.065 is five standard errors of the AUROC of 1,000 against 1,000.
    assert abs(auroc(attack.fit(known, known_members).score(scored), members) - 0.5) < 0.065


@every
def test_the_order_of_the_samples_does_not_matter(attack):
    attack, order = fitted(attack), np.random.default_rng(0).permutation(len(SCORED))
    np.testing.assert_array_equal(attack.score(rows(SCORED, order)), attack.score(SCORED)[order])


@every
def test_the_order_of_the_known_samples_does_not_matter(attack):
    order = np.random.default_rng(0).permutation(len(KNOWN))
    shuffled = attack.fit(rows(KNOWN, order), KNOWN_MEMBERS[order]).score(SCORED)
    np.testing.assert_allclose(shuffled, fitted(attack).score(SCORED), rtol=1e-12, atol=1e-12)


@calibrated
def test_the_order_of_the_references_does_not_matter(attack):
    order = np.random.default_rng(0).permutation(8)
    attack = untuned(attack)

    def shuffled(signals):
        over_references = [name for name in signals.columns if name.startswith("reference_")]
        return changed(signals, **{name: signals[name][:, order] for name in over_references})

    again = attack.fit(shuffled(KNOWN), KNOWN_MEMBERS).score(shuffled(SCORED))
    np.testing.assert_allclose(again, fitted(attack).score(SCORED), rtol=1e-9, atol=1e-9)


@every
def test_a_sample_scores_the_same_in_every_batch(attack, monkeypatch):
    attack = fitted(attack)
    whole = attack.score(SCORED)
    single = [attack.score(rows(SCORED, slice(i, i + 1))) for i in range(0, len(SCORED), 7)]
    np.testing.assert_array_equal(np.concatenate(single), whole[::7])
    monkeypatch.setattr(_masked, "BLOCK", 1000)
    np.testing.assert_array_equal(attack.score(SCORED), whole)


@every
def test_the_layout_in_memory_does_not_matter(attack):
    attack = fitted(attack)
    fortran = Signals({name: np.asfortranarray(column) for name, column in SCORED.columns.items()})
    np.testing.assert_array_equal(attack.score(fortran), attack.score(SCORED))


@every
def test_no_samples_have_no_scores(attack):
    scores = fitted(attack).score(rows(SCORED, slice(0)))
    assert scores.shape == (0,)
    assert scores.dtype == np.float64


@every
def test_fit_changes_neither_the_attack_nor_the_signals(attack):
    before = {name: column.copy() for name, column in KNOWN.columns.items()}
    described = repr(attack)
    once = fitted(attack)
    assert repr(attack) == described
    np.testing.assert_array_equal(once.fit(*fleet(seed=5)).score(SCORED), attack.fit(*fleet(seed=5)).score(SCORED))
    np.testing.assert_array_equal(once.score(SCORED), fitted(attack).score(SCORED))
    for name, column in KNOWN.columns.items():
        np.testing.assert_array_equal(column, before[name])
    if dataclasses.is_dataclass(attack):
        with pytest.raises(dataclasses.FrozenInstanceError):
            once.mode = "online"


@every
def test_only_the_needed_columns_are_read(attack):
    def narrow(signals):
        return Signals({name: signals[name] for name in attack.needs})

    np.testing.assert_array_equal(
        attack.fit(narrow(KNOWN), KNOWN_MEMBERS).score(narrow(SCORED)), fitted(attack).score(SCORED)
    )
    for name in attack.needs:
        rest = Signals({column: values for column, values in SCORED.columns.items() if column != name})
        with pytest.raises(UsageError, match=f"no signal '{name}' here"):
            fitted(attack).score(rest)


@every
def test_float32_signals_give_nearly_the_same_scores(attack):
    narrow = Signals({n: c.astype(np.float32) if c.dtype == np.float64 else c for n, c in SCORED.columns.items()})
    exact, rounded = fitted(attack).score(SCORED), fitted(attack).score(narrow)
    assert rounded.dtype == np.float64
    assert np.quantile(np.abs(rounded - exact) / (1 + np.abs(exact)), 0.95) < 1e-5


@every
@pytest.mark.parametrize("phi", [-1e4, -800.0, 0.0, 800.0, 1e4])
def test_extreme_confidence_is_a_finite_score(attack, phi):
    """Logits of +-1e4 are log-probabilities of -1e4 and of exactly 0."""
    inside = np.indices((6, 8)).sum(axis=0) % 2 == 0
    agreed = columns_of(np.full((6, 3), phi), np.full((6, 8, 3), phi), inside)
    disputed = columns_of(np.full((6, 3), phi), np.full((6, 8, 3), -phi), inside)
    for attack_fitted in fitted(attack), attack.fit(agreed, np.zeros(6, bool)), attack.fit(disputed, np.zeros(6, bool)):
        for scored in agreed, disputed:
            assert np.isfinite(attack_fitted.score(scored)).all()


@pytest.mark.parametrize(
    "attack",
    [
        Watson(),
        Lira("online", variance="shrunk"),
        Lira("online"),
        Lira("offline"),
        Rmia("online"),
        Rmia("offline", a=1.0),
        Rmia("online", queries=True),
        Rmia("offline", a=1.0, queries=True),
        InfoRmia("online"),
        InfoRmia("offline", a=1.0),
        InfoRmia("offline", a=1.0, weights="density"),
    ],
    ids=repr,
)
def test_a_target_like_its_references_scores_zero(attack):
    def copied(signals):
        for prefix in "logprob", "scaled_logit", "logprob_queries", "scaled_logit_queries":
            target = signals[prefix]
            same = np.repeat(target[:, None], signals["reference_in"].shape[1], axis=1)
            signals = changed(signals, **{f"reference_{prefix}": same})
        return signals

    scores = attack.fit(copied(KNOWN), KNOWN_MEMBERS).score(copied(SCORED))
    np.testing.assert_allclose(scores, 0, atol=1e-9 if isinstance(attack, Lira) else 1e-14)


@every
def test_one_reference_is_enough_or_is_refused_clearly(attack):
    known, is_member = fleet(k=1, half=False, seed=1)
    scored, members = fleet(k=1, half=False, seed=2)
    attack = untuned(attack)
    if getattr(attack, "mode", "offline") == "online" or (isinstance(attack, Lira) and attack.variance == "auto"):
        with pytest.raises(UsageError, match=r"no IN reference|two OUT references|fewer than 2 OUT"):
            attack.fit(known, is_member).score(scored)
    else:
        assert auroc(attack.fit(known, is_member).score(scored), members) > 0.6


ONE_DIMENSION = [a for a in ATTACKS.values() if not getattr(a, "queries", False) and getattr(a, "mode", "") != "online"]


@pytest.mark.parametrize("attack", [*ONE_DIMENSION, Rmia("online"), InfoRmia("online")], ids=repr)
def test_a_surer_target_never_scores_lower(attack):
    surer = rows(SCORED, np.zeros(200, int))
    phi = np.linspace(-20, 20, 200)
    surer = changed(surer, logprob=special.log_expit(phi), scaled_logit=phi)
    assert (np.diff(fitted(attack).score(surer)) >= 0).all()


@pytest.mark.parametrize("attack", [a for a in ATTACKS.values() if getattr(a, "queries", False)], ids=repr)
def test_the_order_of_the_queries_does_not_matter(attack):
    attack = untuned(attack)

    def turned(signals):
        over_queries = [name for name in signals.columns if name.endswith("_queries")]
        return changed(signals, **{name: signals[name][..., ::-1] for name in over_queries})

    again = attack.fit(turned(KNOWN), KNOWN_MEMBERS).score(turned(SCORED))
    np.testing.assert_allclose(again, fitted(attack).score(SCORED), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attack", [a for a in ATTACKS.values() if getattr(a, "queries", False)], ids=repr)
def test_one_query_is_the_plain_attack(attack):
    def single(signals):
        over_queries = [name for name in signals.columns if name.endswith("_queries")]
        return changed(signals, **{name: signals[name][..., :1] for name in over_queries})

    plain = fitted(dataclasses.replace(attack, queries=False)).score(SCORED)
    np.testing.assert_array_equal(attack.fit(single(KNOWN), KNOWN_MEMBERS).score(single(SCORED)), plain)
    with pytest.raises(UsageError, match="fit saw 3 queries a sample, score 1"):
        fitted(attack).score(single(SCORED))


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.data())
@settings(deadline=None)
def test_masked_averages_equal_loops(n, k, q, data):
    mask = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=n, max_size=n)))
    mask[~mask.any(axis=1), 0] = True
    values = np.random.default_rng(n * k * q).normal(size=(n, k, q)) * 30
    slow = {
        _masked.mean: np.mean,
        _masked.median: np.median,
        _masked.variance: np.var,
        _masked.log_mean_exp: lambda chosen: special.logsumexp(chosen) - np.log(len(chosen)),
    }
    for fast, obvious in slow.items():
        expected = [[obvious(values[i, mask[i], j]) for j in range(q)] for i in range(n)]
        np.testing.assert_allclose(fast(values, mask), expected, rtol=1e-12, atol=1e-12)


def test_equal_probabilities_average_to_exactly_themselves():
    value = np.random.default_rng(0).normal(size=(1000, 1, 1)) * 100
    for k in 1, 3, 7, 64:
        tiled = np.repeat(value, k, axis=1)
        np.testing.assert_array_equal(_masked.log_mean_exp(tiled, np.ones((1000, k), bool)), value[:, 0])


@calibrated
def test_a_sample_that_every_reference_trained_on_is_refused(attack):
    inside = SCORED["reference_in"].copy()
    inside[[3, 5]] = True
    with pytest.raises(
        UsageError, match=r"2 of 400 samples have no OUT reference.*Drop these samples, or add references"
    ):
        fitted(attack).score(changed(SCORED, reference_in=inside))


@pytest.mark.parametrize("attack", [a for a in ATTACKS.values() if getattr(a, "mode", "") == "online"], ids=repr)
def test_an_online_attack_refuses_a_sample_that_no_reference_trained_on(attack):
    inside = SCORED["reference_in"].copy()
    inside[7] = False
    with pytest.raises(UsageError, match=r'1 of 400 samples have no IN reference.*Use mode="offline"'):
        fitted(attack).score(changed(SCORED, reference_in=inside))


@pytest.mark.parametrize("attack", [a for a in ATTACKS.values() if isinstance(a, Rmia | InfoRmia)], ids=repr)
def test_a_population_that_the_references_trained_on_is_refused(attack):
    inside = KNOWN["reference_in"].copy()
    inside[np.flatnonzero(~KNOWN_MEMBERS)[:4]] = True
    m = int((~KNOWN_MEMBERS).sum())
    with pytest.raises(UsageError, match=rf"4 of {m} population samples \(known non-members\) have no OUT reference"):
        attack.fit(changed(KNOWN, reference_in=inside), KNOWN_MEMBERS)


@calibrated
def test_columns_that_do_not_fit_are_refused(attack):
    attack = fitted(attack)
    [name] = [n for n in attack.needs if not n.startswith("reference_")]
    inside, reference = SCORED["reference_in"], f"reference_{name}"
    bad = {
        "must agree on samples, references and queries": [
            {"reference_in": inside[:, :-1]},
            {reference: SCORED[reference][:, :-1]},
        ],
        "reference_in must be bool": [{"reference_in": inside.astype(int)}],
        "must hold numbers of shape": [
            {reference: SCORED[reference][:, 0]},
            {name: SCORED[name].astype(str)},
            {name: SCORED[name][..., None]},
        ],
        "at least one reference": [{"reference_in": inside[:, :0], reference: SCORED[reference][:, :0]}],
    }
    for message, cases in bad.items():
        for columns in cases:
            with pytest.raises(UsageError, match=message):
                attack.score(changed(SCORED, **columns))


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(attack, value):
    for name in attack.needs - {"reference_in"}:
        column = SCORED[name].copy()
        column[[2, 9]] = value
        with pytest.raises(NonFiniteError, match=f"{name}: 2 of 400 samples have NaN or infinite values"):
            fitted(attack).score(changed(SCORED, **{name: column}))


@pytest.mark.parametrize("attack", [a for a in ATTACKS.values() if not isinstance(a, Lira)], ids=repr)
def test_probabilities_in_place_of_log_probabilities_are_refused(attack):
    for name in attack.needs - {"reference_in"}:
        with pytest.raises(UsageError, match="400 of 400 samples have log-probabilities above 0"):
            fitted(attack).score(changed(SCORED, **{name: np.exp(SCORED[name])}))


LEARNS = [a for a in ATTACKS.values() if not isinstance(a, Watson | AttackR)]


@pytest.mark.parametrize("attack", LEARNS, ids=repr)
def test_scoring_before_fitting_is_refused(attack):
    with pytest.raises(UsageError, match="call fit with known"):
        attack.score(SCORED)


@pytest.mark.parametrize("attack", LEARNS, ids=repr)
def test_fitting_without_what_is_needed_is_refused(attack):
    with pytest.raises(UsageError, match="known and is_member must have one length, found 400 and 399"):
        attack.fit(KNOWN, KNOWN_MEMBERS[1:])
    if not isinstance(attack, Lira):
        with pytest.raises(UsageError, match="none of the 400 known samples is one"):
            attack.fit(KNOWN, np.ones(400, bool))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Rmia("onlin"), "mode must be one of 'online', 'offline'; found 'onlin'"),
        (lambda: Rmia("offline", gamma=0.5), "gamma must be at least 1, found 0.5"),
        (lambda: Rmia("offline", gamma=float("nan")), "gamma must be at least 1, found nan"),
        (lambda: Rmia("offline", a=1.5), "a must lie between 0 and 1, or be None to be tuned; found 1.5"),
        (lambda: Rmia("online", a=0.3), "a=0.3 belongs to the offline guess"),
        (lambda: InfoRmia("offline", weights="p"), "weights must be one of 'uniform', 'density'"),
        (lambda: InfoRmia("offline", a=float("nan")), "a must lie between 0 and 1"),
        (lambda: Lira("both"), "mode must be one of"),
        (lambda: Lira("online", variance="fixed"), "variance must be one of 'auto', 'per_example', 'pooled'"),
        (lambda: Lira("online", location="mode"), "location must be one of 'mean', 'median'"),
        (lambda: Lira("online", nu=-1), "nu must be at least 0 and finite, found -1"),
        (lambda: Lira("offline", variance="official_bug"), 'use "official"'),
        (lambda: AttackR("linear"), "method must be one of 'interpolated', 'share'"),
    ],
)
def test_options_that_cannot_work_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_names_say_which_variant_it_is():
    assert {a.name for a in ATTACKS.values()} == {
        *("watson", "attack-p", "attack-r"),
        *(f"{family}-{mode}" for family in ("lira", "rmia", "informia") for mode in ("online", "offline")),
    }
