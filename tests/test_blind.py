import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from amint import blind
from amint.blind import FEATURES, blind_features, separation
from amint.errors import NonFiniteError, UsageError
from amint.roles import fingerprints


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def column(x, name):
    return blind_features(x)[:, FEATURES.index(name)].numpy()


def test_names_are_few_and_distinct():
    assert len(FEATURES) == len(set(FEATURES)) <= 64
    assert blind_features(noise(2, 3, 8, 8)).shape == (2, len(FEATURES))


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (1,),
        (7,),
        (300,),
        (5, 6),
        (1, 1, 1),
        (1, 28, 28),
        (2, 9, 5),
        (3, 32, 32),
        (3, 33, 70),
        (5, 3, 17),
        (3, 2, 8, 9),
    ],
)
def test_a_row_gets_the_same_bits_in_every_batch(shape):
    x = noise(23, *shape)
    together = blind_features(x)
    assert together.isfinite().all()
    assert together.dtype == torch.float32
    for size in (1, 2, 7):
        assert torch.equal(torch.cat([blind_features(part) for part in x.split(size)]), together)
    order = torch.randperm(23)
    assert torch.equal(blind_features(x[order]), together[order])


def test_chunks_leave_no_trace(monkeypatch):
    x = noise(40, 3, 12, 12)
    together = blind_features(x)
    monkeypatch.setattr(blind, "_ELEMENTS", 1000)
    assert torch.equal(blind_features(x), together)


def test_memory_layout_and_gradients_do_not_matter():
    x = noise(6, 3, 16, 16)
    assert torch.equal(blind_features(x.to(memory_format=torch.channels_last).requires_grad_()), blind_features(x))


def test_values_by_channel_equal_numpys():
    x = noise(5, 3, 7, 9)
    flat = x.double().numpy().reshape(5, 3, -1)
    for channel in range(3):
        for name, expected in {
            "mean": flat[:, channel].mean(1),
            "std": flat[:, channel].std(1),
            "min": flat[:, channel].min(1),
            "max": flat[:, channel].max(1),
            "median": np.median(flat[:, channel], axis=1),
        }.items():
            np.testing.assert_allclose(column(x, f"channel{channel}_{name}"), expected, rtol=1e-6, atol=1e-6)
    low, high = (column(x, f"channel0_{name}") for name in ("q05", "q95"))
    assert (((flat[:, 0] < low[:, None]).mean(1) <= 0.05) & ((flat[:, 0] > high[:, None]).mean(1) <= 0.05)).all()


@pytest.mark.parametrize("height, width", [(4, 4), (28, 28), (32, 8), (5, 4), (7, 9)])
def test_the_thumbnail_is_the_mean_of_each_piece(height, width):
    x = noise(3, 2, height, width)
    # Every pixel cut into 4 x 4, so that each piece is a whole number of pixels.
    fine = x.double().mean(1, keepdim=True).repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = torch.nn.functional.adaptive_avg_pool2d(fine, 4).reshape(3, 16)
    start = FEATURES.index("thumbnail_00")
    torch.testing.assert_close(blind_features(x)[:, start : start + 16], expected.float())


def test_one_line_is_cut_into_sixteen_pieces():
    x = torch.arange(32.0).reshape(1, 32)
    start = FEATURES.index("thumbnail_00")
    assert blind_features(x)[0, start : start + 16].tolist() == [2 * i + 0.5 for i in range(16)]


def test_more_channels_than_three_are_taken_together():
    x = noise(4, 5, 6, 6)
    np.testing.assert_allclose(column(x, "channel0_mean"), x[:, :2].mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(column(x, "channel2_mean"), x[:, 4].mean((1, 2)), rtol=1e-5)
    grey = noise(4, 1, 6, 6)
    assert (column(grey, "channel1_std") == 0).all()
    assert (column(grey, "colour") == 0).all()


def test_what_each_texture_is_about():
    checkers = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().expand(1, 1, 16, 16)
    stripes = torch.arange(16).remainder(2).float().expand(1, 1, 16, 16)
    blocks = (torch.arange(16) >= 8).float().expand(1, 1, 16, 16)
    flat = torch.full((1, 1, 16, 16), 3.0)
    assert column(checkers, "checkerboard") == 2
    assert column(stripes, "checkerboard") == 0
    assert (column(stripes, "gradient_x"), column(stripes, "gradient_y")) == (1, 0)
    assert (column(blocks, "block_edge_x"), column(blocks, "block_edge_y")) == (1, 0)
    assert column(flat, "equal_neighbours") == column(flat, "share_lowest") == 1
    assert column(flat, "share_distinct") == 0
    assert column(torch.arange(256.0).reshape(1, 1, 16, 16), "share_distinct") == 1
    assert column(torch.cat([checkers, 1 - checkers, checkers], 1), "colour") > 0.4


def test_block_detail_is_the_dct_of_whole_blocks():
    from scipy import fft

    x = noise(2, 1, 19, 26)
    blocks = x[:, 0, :16, :24].double().numpy().reshape(2, 2, 8, 3, 8)
    coefficients = np.abs(fft.dctn(blocks, axes=(2, 4), norm="ortho")).transpose(0, 1, 3, 2, 4)
    fine = np.add.outer(np.arange(8), np.arange(8)) >= 8
    np.testing.assert_allclose(column(x, "block_detail"), coefficients[..., fine].mean((1, 2, 3)), rtol=1e-5)


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def test_jpeg_leaves_less_detail_in_its_own_blocks_than_in_others():
    pixels = (noise(8, 32, 32) * 20 + 128).clamp(0, 255).byte().numpy()
    saved = torch.from_numpy(np.stack([jpeg(image, 30) for image in pixels])).float().unsqueeze(1)
    assert (column(saved, "block_detail") < 0.8 * column(saved, "block_detail_shifted")).all()


def test_whole_numbers_booleans_and_nothing():
    assert blind_features(torch.randint(0, 9, (3, 20))).isfinite().all()
    assert blind_features(torch.rand(3, 1, 4, 4) > 0.5).isfinite().all()
    assert blind_features(torch.zeros(0, 3, 8, 8)).shape == (0, len(FEATURES))


@pytest.mark.parametrize("size", [1e38, 1e-45, 3.4e38])
def test_huge_and_tiny_numbers_stay_finite(size):
    assert blind_features(noise(4, 3, 9, 9).sign() * size).isfinite().all()
    assert blind_features((noise(4, 3, 9, 9) * 1e300).double().clamp(-1e307, 1e307) / 10).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_refused(bad):
    x = noise(3, 1, 4, 4)
    x[1, 0, 2, 2] = bad
    with pytest.raises(NonFiniteError, match="leave these rows out"):
        blind_features(x)


@pytest.mark.parametrize(
    "x", [torch.tensor(1.0), torch.zeros(3, 0), torch.zeros(2, 1, 0, 4), torch.zeros(2, 4, dtype=torch.cfloat)]
)
def test_what_holds_no_numbers_is_refused(x):
    with pytest.raises(UsageError, match="real numbers"):
        blind_features(x)


def test_different_images_have_different_features():
    x = noise(500, 1, 8, 8)
    assert len(np.unique(fingerprints(blind_features(x)).numpy())) == 500


def two_sets(m, n, shift=0.0, f=4, seed=0, groups=1):
    rng = np.random.default_rng(seed)
    is_own = np.arange(m + n) < m
    features = rng.normal(size=(m + n, f))
    features[:m, 0] += shift
    return features, is_own, np.arange(m + n) % groups


def test_a_shift_is_found_and_named():
    found = separation(*two_sets(60, 200, shift=1.5), seed=0)
    assert 0.75 < found.low < found.auroc < found.high < 0.95
    assert found.p_value == 0.001
    assert next(iter(found.features)) == 0
    assert found.null_995 < found.auroc


def test_a_change_of_spread_is_found():
    features, is_own, group = two_sets(100, 300)
    features[is_own] *= 3
    found = separation(features, is_own, group, seed=0)
    assert found.auroc > 0.8
    assert found.p_value == 0.001


def test_only_ranks_count():
    features, is_own, group = two_sets(30, 50, shift=1.0)
    assert separation(np.sinh(5 * features), is_own, group, seed=1) == separation(features, is_own, group, seed=1)


def test_constant_features_say_nothing():
    _, is_own, group = two_sets(10, 30)
    found = separation(np.full((40, 3), 1e300), is_own, group, seed=0)
    assert (found.auroc, found.p_value, found.null_995) == (0.5, 1.0, 0.5)


def test_another_mix_of_groups_is_no_difference():
    rng = np.random.default_rng(0)
    group = np.concatenate([rng.choice(3, 150, p=[0.8, 0.1, 0.1]), rng.choice(3, 300)])
    is_own = np.arange(450) < 150
    features = rng.normal(size=(450, 5)) + 4 * group[:, None]
    assert separation(features, is_own, np.zeros(450, int), seed=0).auroc > 0.7
    within = separation(features, is_own, group, seed=0)
    assert within.p_value > 0.05
    assert abs(within.auroc - 0.5) < 0.08


def test_features_are_centred_within_groups():
    features, _, group = two_sets(30, 60, groups=3)
    z = blind._normal_scores(features + 5 * group[:, None], group)
    np.testing.assert_allclose([z[group == g].mean(axis=0) for g in range(3)], 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), 1)


def test_scores_are_those_of_ridge_regressions_fitted_to_the_other_folds():
    features, is_own, group = two_sets(21, 34, shift=1.0)
    z = blind._normal_scores(features, group)
    fold = blind._folds(is_own, group, np.random.default_rng(0))
    scores = blind._held_out(z, is_own[:, None].astype(float), fold, group)[:, 0]
    target = is_own - is_own.mean()
    for k in range(5):
        others = fold != k
        model = Ridge(alpha=0.03 * others.sum(), fit_intercept=False).fit(z[others], target[others])
        np.testing.assert_allclose(scores[~others], model.predict(z[~others]), atol=1e-9)


def test_the_auroc_is_the_mean_over_folds_and_groups_weighted_by_pairs():
    features, is_own, group = two_sets(40, 90, shift=0.5, groups=2)
    rng = np.random.default_rng(7)
    z = blind._normal_scores(features, group)
    fold = blind._folds(is_own, group, rng)
    scores = blind._held_out(z, is_own[:, None].astype(float), fold, group)[:, 0]
    wins = pairs = 0
    for k in range(5):
        for g in range(2):
            rows = (fold == k) & (group == g)
            count = is_own[rows].sum() * (~is_own[rows]).sum()
            wins += roc_auc_score(is_own[rows], scores[rows]) * count
            pairs += count
    assert separation(features, is_own, group, seed=7).auroc == pytest.approx(wins / pairs)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_folds_are_even_and_both_sides_meet(m, n, groups, seed):
    rng = np.random.default_rng(seed)
    is_own = np.arange(m + n) < m
    group = rng.integers(0, groups, m + n)
    fold = blind._folds(is_own, group, rng)
    for g in np.unique(group):
        own, other = (np.bincount(fold[(group == g) & side], minlength=5) for side in (is_own, ~is_own))
        assert np.ptp(own) <= 1
        assert np.ptp(other) <= 1
        assert own @ other > 0 or not (own.any() and other.any())


def test_the_interval_of_a_clear_auroc_covers_it():
    # The AUROC of one feature shifted by 1 is Phi(1 / sqrt 2) = 0.760; the classifier comes close to it.
    found = [separation(*two_sets(150, 150, shift=1.0, f=1, seed=seed), seed=seed) for seed in range(40)]
    assert sum(f.low <= 0.760 <= f.high for f in found) >= 34


def test_p_values_are_uniform_under_the_null():
    p = np.array([separation(*two_sets(8, 24, f=3, seed=seed), seed=seed).p_value for seed in range(200)])
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.1)
