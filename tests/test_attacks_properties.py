"""What every attack has to hold, whatever it computes. A new attack is one more line in ATTACKS."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from amint.attacks.attack_p import AttackP
from amint.attacks.attack_r import AttackR
from amint.attacks.confidence import Confidence
from amint.attacks.correctness import Correctness
from amint.attacks.entropy import Entropy
from amint.attacks.gmint import GMint
from amint.attacks.gradient_norm import GradientNorm
from amint.attacks.informia import InfoRmia
from amint.attacks.lira import Lira
from amint.attacks.loss import Loss
from amint.attacks.margin import Margin
from amint.attacks.mint import Mint
from amint.attacks.modified_entropy import ModifiedEntropy, ModifiedEntropyByClass
from amint.attacks.passive_mint import PassiveMint, PassiveMintCNN
from amint.attacks.quantile import GaussianQuantile, QuantileHeads
from amint.attacks.rmia import Rmia
from amint.attacks.salem import SalemNet, SalemThreshold
from amint.attacks.scaled_logit import ScaledLogit
from amint.attacks.watson import Watson
from amint.errors import UsageError
from amint.metrics import auroc
from amint.posteriors import posterior_columns
from amint.signals import Signals

ATTACKS = [
    AttackP(),
    AttackR(),
    Confidence(),
    Correctness(),
    Entropy(),
    GMint(),
    GaussianQuantile(),
    GradientNorm(),
    InfoRmia(mode="offline"),
    InfoRmia(mode="online"),
    Lira(mode="offline"),
    Lira(mode="online"),
    Loss(),
    Margin(),
    Mint(),
    ModifiedEntropy(),
    ModifiedEntropyByClass(),
    PassiveMint(),
    PassiveMintCNN(),
    QuantileHeads(),
    Rmia(mode="offline"),
    Rmia(mode="online"),
    SalemNet(),
    SalemThreshold(),
    ScaledLogit(),
    Watson(),
]

# Attacks that learn from known membership: which kind they cannot do without.
LEARNS_FROM_MEMBERS = {"gmint", "loss", "modified-entropy-by-class", "passive-mint", "passive-mint-cnn"}
LEARNS_FROM_OTHERS = (LEARNS_FROM_MEMBERS - {"loss"}) | {
    "attack-p",
    "informia-offline",
    "informia-online",
    "quantile",
    "quantile-heads",
    "rmia-offline",
    "rmia-online",
}
NEEDS_FIT = LEARNS_FROM_OTHERS | {"lira-offline", "lira-online", "salem"}

SAMPLES, CLASSES, REFERENCES = 600, 4, 4


class Net(nn.Module):
    """A small network that is wide enough to learn noise by heart."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.last = nn.Linear(32, CLASSES)


def overfitted(x, y, rows, seed):
    """A network that knows these rows by heart: inputs and labels are noise, so that nothing else can be learned."""
    torch.manual_seed(seed)
    net, rows = Net(), torch.from_numpy(rows)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(40):
        for batch in rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))].split(50):
            optimizer.zero_grad()
            cross_entropy(net.last(net.features(x[batch])), y[batch]).backward()
            optimizer.step()
    return net


@torch.no_grad()
def look(net, x, y):
    """All columns of one network, tapped at its output."""
    features = net.features(x)
    logits = net.last(features)
    columns = posterior_columns(logits, y)
    residual = torch.softmax(logits.double(), 1)
    residual[torch.arange(len(y)), y] = -torch.sigmoid(-columns["scaled_logit"])
    gradient = torch.cat([(residual[:, :, None] * features[:, None, :].double()).flatten(1), residual], 1)
    seen = {
        **columns,
        "label": y,
        "features": features,
        "activations": logits,
        "maps": logits[:, :, None, None].half(),
        "gradient": gradient.half(),
        "gradient_norm": gradient.norm(dim=1),
        "gradient_norms": gradient.norm(dim=1, keepdim=True),
        "mint_logit": columns["scaled_logit"],
    }
    return {name: column.numpy() for name, column in seen.items()}


@pytest.fixture(scope="module")
def world():
    """Signals of samples half of which the target learned by heart, with a shadow and references on other halves."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    x, y = torch.randn(SAMPLES, 32), torch.randint(CLASSES, (SAMPLES,))
    halves = np.zeros((SAMPLES, 2 + REFERENCES), bool)
    for column in range(0, 2 + REFERENCES, 2):
        halves[draw.permutation(SAMPLES)[: SAMPLES // 2], column] = True
        halves[:, column + 1] = ~halves[:, column]
    halves[:, 1] = draw.permutation(halves[:, 1])
    views = [look(overfitted(x, y, np.flatnonzero(half), seed), x, y) for seed, half in enumerate(halves.T)]
    columns = {**views[0], "shadow_top3": views[1]["top3"], "shadow_in": halves[:, 1], "reference_in": halves[:, 2:]}
    for name in ("logprob", "scaled_logit"):
        columns[f"reference_{name}"] = np.stack([view[name] for view in views[2:]], axis=1)
    for column in columns.values():
        column.setflags(write=False)
    return Signals(columns), halves[:, 0]


def rows_of(signals, rows, attack):
    return Signals({name: signals[name][rows] for name in attack.needs})


@pytest.fixture(scope="module", params=ATTACKS, ids=lambda attack: attack.name)
def case(request, world):
    """An attack fitted on the first half, the second half, and who is a member there."""
    attack, (signals, inside) = request.param, world
    known, judged = np.arange(SAMPLES) < SAMPLES // 2, np.arange(SAMPLES) >= SAMPLES // 2
    fitted = attack.fit(rows_of(signals, known, attack), inside[known])
    return fitted, rows_of(signals, judged, attack), inside[judged]


@pytest.fixture(params=ATTACKS, ids=lambda attack: attack.name)
def attack(request):
    return request.param


def test_names_and_needs(attack, world):
    assert attack.name == attack.name.lower()
    assert isinstance(attack.needs, frozenset)
    assert attack.needs <= set(world[0].columns)
    assert list(inspect.signature(attack.fit).parameters) == ["known", "is_member"]


def test_no_two_attacks_have_one_name():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


def test_members_of_an_overfitted_model_score_higher(case):
    fitted, judged, inside = case
    assert auroc(fitted.score(judged), inside) > 0.6


def test_scores_are_finite_float64_one_a_sample(case):
    fitted, judged, _ = case
    scores = fitted.score(judged)
    assert scores.dtype == np.float64
    assert scores.shape == (len(judged),)
    assert np.isfinite(scores).all()


def test_scores_move_with_their_rows(case):
    fitted, judged, _ = case
    order = np.random.default_rng(1).permutation(len(judged))
    moved = fitted.score(rows_of(judged, order, fitted))
    np.testing.assert_allclose(moved, fitted.score(judged)[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_scores_do_not_depend_on_other_rows(case, size):
    fitted, judged, _ = case
    together = fitted.score(judged)
    for start in range(0, 5 * size, size):
        rows = slice(start, start + size)
        np.testing.assert_allclose(fitted.score(rows_of(judged, rows, fitted)), together[rows], rtol=1e-6, atol=1e-9)


def test_equal_rows_are_tied(case):
    fitted, judged, _ = case
    scores = fitted.score(rows_of(judged, np.tile(np.arange(5), 60), fitted)).reshape(60, 5)
    np.testing.assert_array_equal(scores, np.tile(scores[0], (60, 1)))


def test_no_rows_have_no_scores(case):
    fitted, judged, _ = case
    assert fitted.score(rows_of(judged, slice(0, 0), fitted)).shape == (0,)


def test_fitting_twice_gives_the_same_scores_and_changes_no_attack(attack, world):
    signals, inside = world
    known = rows_of(signals, slice(0, 200), attack)
    first = attack.fit(known, inside[:200])
    before = first.score(known)
    first.fit(rows_of(signals, slice(200, 400), attack), inside[200:400])
    np.testing.assert_array_equal(first.score(known), before)
    np.testing.assert_array_equal(attack.fit(known, inside[:200]).score(known), before)


def test_inputs_stay_as_they_are(attack, world):
    signals, inside = world
    copies = {name: signals[name].copy() for name in attack.needs}
    known = Signals({name: column.copy() for name, column in copies.items()})
    labels = inside.copy()
    attack.fit(known, labels).score(known)
    np.testing.assert_array_equal(labels, inside)
    for name, column in copies.items():
        np.testing.assert_array_equal(known[name], column)


def test_random_states_stay_as_they_are(attack, world):
    signals, inside = world
    known = rows_of(signals, slice(0, 100), attack)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    attack.fit(known, inside[:100]).score(known)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_constant_signals_give_one_finite_score(attack, world):
    signals, inside = world
    constant = {}
    for name in attack.needs:
        column = signals[name]
        one = column[:1, :1] if name.startswith("reference_") else column[:1]
        constant[name] = column if name in {"shadow_in", "reference_in"} else np.broadcast_to(one, column.shape)
    scores = attack.fit(Signals(constant), inside).score(Signals(constant))
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 1
    assert auroc(scores, inside) == 0.5


def test_shuffled_membership_gives_chance(attack, world):
    """Scores may well differ between samples, but not along with a membership that means nothing."""
    signals, _ = world
    found = []
    for seed in range(3):
        inside = np.random.default_rng(seed).permutation(SAMPLES) < SAMPLES // 2
        known, judged = slice(0, SAMPLES // 2), slice(SAMPLES // 2, SAMPLES)
        fitted = attack.fit(rows_of(signals, known, attack), inside[known])
        found.append(auroc(fitted.score(rows_of(signals, judged, attack)), inside[judged]))
    assert 0.4 < np.mean(found) < 0.6


def test_a_missing_signal_is_named(case):
    fitted, judged, _ = case
    for name in fitted.needs - {"shadow_top3", "shadow_in"}:
        fewer = Signals({other: column for other, column in judged.columns.items() if other != name})
        with pytest.raises(UsageError, match=f"no signal '{name}' here"):
            fitted.score(fewer)


@pytest.mark.parametrize("kind, learners", [(True, LEARNS_FROM_OTHERS), (False, LEARNS_FROM_MEMBERS)])
def test_attacks_that_learn_say_which_known_samples_they_miss(attack, world, kind, learners):
    known = rows_of(world[0], slice(0, 100), attack)
    if attack.name not in learners:
        attack.fit(known, np.full(100, kind)).score(known)
        return
    with pytest.raises(UsageError, match="members"):
        attack.fit(known, np.full(100, kind))


def test_attacks_that_learn_do_not_score_before(attack, world):
    known = rows_of(world[0], slice(0, 100), attack)
    if attack.name not in NEEDS_FIT:
        assert attack.score(known).shape == (100,)
        return
    with pytest.raises(UsageError, match="call fit"):
        attack.score(known)
