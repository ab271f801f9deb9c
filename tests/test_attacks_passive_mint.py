import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amint.attacks._networks import Classifier
from amint.attacks.passive_mint import PassiveMint, PassiveMintCNN
from amint.errors import NonFiniteError, UsageError
from amint.metrics import auroc
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())
BOTH = [PassiveMint, PassiveMintCNN]
COLUMN = {PassiveMint: "activations", PassiveMintCNN: "maps"}


def sample(n, seed, gap=1.0, side=4, share=0.5, dtype=np.float32):
    """Maps of six channels on scales far apart; members differ in the spread of one and the corner of another."""
    draw = np.random.default_rng(seed)
    member = np.arange(n) < share * n
    maps = draw.normal(size=(n, 6, side, side))
    maps[:, 0] += gap * draw.normal(size=(n, 1, 1)) * (1 + 2 * member[:, None, None])
    maps[:, 1, 0, 0] += 3 * gap * member
    maps = (maps * 10.0 ** np.arange(-2, 4)[:, None, None] + 5).astype(dtype)
    order = draw.permutation(n)
    return Signals({"maps": maps[order], "activations": maps.mean((2, 3), np.float64)[order].astype(dtype)}), member[
        order
    ]


@pytest.fixture(scope="module", params=BOTH)
def fitted(request):
    return request.param().fit(*sample(1200, seed=1))


def column_of(attack, values):
    return Signals({COLUMN[type(attack)]: values})


def test_members_of_another_sample_score_higher(fitted):
    judged, member = sample(3000, seed=2)
    assert auroc(fitted.score(judged), member) > (0.7 if isinstance(fitted, PassiveMint) else 0.9)


def test_the_network_on_maps_sees_what_means_hide():
    known, judged = sample(1000, seed=3, gap=2.0), sample(2000, seed=4, gap=2.0)
    found = {attack: auroc(attack().fit(*known).score(judged[0]), judged[1]) for attack in BOTH}
    assert found[PassiveMintCNN] > found[PassiveMint] + 0.05


@pytest.mark.parametrize("attack", BOTH)
def test_without_a_difference_there_is_nothing_to_learn(attack):
    known, member = sample(600, seed=1, gap=0.0)
    values = [
        auroc(attack(seed).fit(known, member).score(sample(2000, 9 + seed, 0.0)[0]), sample(2000, 9 + seed, 0.0)[1])
        for seed in range(4)
    ]
    assert 0.47 < np.mean(values) < 0.53


def test_channels_are_standardised_over_samples_and_positions():
    case = VECTORS["mint_channel_pool"]
    maps = np.array(case["activation"])
    network = Classifier(maps, torch.nn.Flatten())
    np.testing.assert_allclose(network.mean.flatten(), np.mean(case["per_channel_mean"], axis=0), rtol=0, atol=1e-9)
    for channel, spread in enumerate(network.spread.flatten().tolist()):
        assert spread == pytest.approx(np.std([cell for sample in maps for cell in sample[channel].flat]), rel=1e-12)


@pytest.mark.parametrize("attack", BOTH)
def test_members_and_others_weigh_the_same(attack):
    """With 95 % members an unweighted network would put log-odds of 3 where nothing is known."""
    known, member = sample(2000, seed=1, gap=0.0, share=0.95)
    scores = attack().fit(known, member).score(sample(500, seed=2, gap=0.0)[0])
    assert abs(np.median(scores)) < 0.7


@pytest.mark.parametrize("attack", BOTH)
def test_the_seed_decides_and_the_global_state_does_not(attack):
    known, member = sample(80, seed=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = attack(3).fit(known, member).score(known)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    np.testing.assert_array_equal(attack(3).fit(known, member).score(known), first)
    assert not np.array_equal(attack(4).fit(known, member).score(known), first)


@pytest.mark.parametrize("attack", BOTH)
def test_gradients_may_be_switched_off_around_it(attack):
    known, member = sample(60, seed=1)
    expected = attack().fit(known, member).score(known)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            np.testing.assert_array_equal(attack().fit(known, member).score(known), expected)


def test_scores_are_exact_float32_so_that_equal_samples_tie(fitted):
    judged, _ = sample(9, seed=2)
    name = COLUMN[type(fitted)]
    for copies in (1, 2, 500):
        scores = fitted.score(Signals({name: np.tile(judged[name], (copies, *[1] * (judged[name].ndim - 1)))}))
        assert scores.dtype == np.float64
        assert len(set(scores)) == 9


@pytest.mark.parametrize("side", [1, 2, 8])
def test_maps_of_any_size(side):
    known, member = sample(60, seed=1, side=side, dtype=np.float16)
    scores = PassiveMintCNN().fit(known, member).score(known)
    assert scores.shape == (60,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("attack", BOTH)
def test_constant_channels_and_huge_offsets_do_no_harm(attack):
    known, member = sample(400, seed=1, dtype=np.float64)
    name = COLUMN[attack]
    x = known[name] + 1e6
    x[:, 2] = 0.1
    x[:, 3] = 0.0
    fitted = attack().fit(Signals({name: x}), member)
    assert auroc(fitted.score(Signals({name: x})), member) > 0.65


def test_a_channel_that_was_silent_does_not_drown_the_others(fitted):
    x = sample(50, seed=2)[0][COLUMN[type(fitted)]].astype(np.float64)
    for factor in (1e30, 1e300):
        assert np.abs(fitted.score(column_of(fitted, x * factor))).max() < 1e3


@pytest.mark.parametrize("attack", BOTH)
def test_two_of_each_are_enough_to_run(attack):
    known, member = sample(4, seed=1)
    assert np.isfinite(attack().fit(known, member).score(known)).all()
    with pytest.raises(UsageError, match="found 4 samples and labels of 1 members and 3 non-members"):
        attack().fit(known, np.array([True, False, False, False]))
    with pytest.raises(UsageError, match="found 4 samples and labels of 2 members and 1"):
        attack().fit(known, np.array([True, True, False]))
    with pytest.raises(UsageError, match="call fit"):
        attack().score(known)


def test_other_shapes_and_types_are_refused(fitted):
    x = sample(5, seed=2)[0][COLUMN[type(fitted)]]
    for values, match in [
        (x[:, :5], r"fitted on samples of shape \(6,.*found \(5,"),
        (x[0], "must be a floating array of"),
        (x.astype(np.int64), "dtype int64"),
    ]:
        with pytest.raises(UsageError, match=match):
            fitted.score(column_of(fitted, values))


def test_values_that_are_not_numbers_are_refused(fitted):
    x = sample(5, seed=2)[0][COLUMN[type(fitted)]].copy()
    x[3, 1] = np.nan
    x[4, 0] = np.inf
    with pytest.raises(NonFiniteError, match="2 of 5 samples hold NaN or infinity, the first at index 3"):
        fitted.score(column_of(fitted, x))
    with pytest.raises(NonFiniteError, match="2 of 5"):
        type(fitted)().fit(column_of(fitted, x), np.array([True, False] * 2 + [True]))


def test_no_samples_have_no_scores(fitted):
    x = sample(5, seed=2)[0][COLUMN[type(fitted)]]
    assert fitted.score(column_of(fitted, x[:0])).shape == (0,)
