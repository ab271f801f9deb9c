import copy
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from amint import whitening
from amint.branches import TapSpec
from amint.heads import HeadConfig, HeadSize, MintHead, head_config
from amint.losses import membership_loss
from amint.split import TapPoint
from amint.whitening import Whitening, whiten_by

LAYOUTS = {
    "channels_first": ((5, 6, 4), 1),
    "channels_last": ((6, 4, 5), -1),
    "tokens": ((12, 5), -1),
    "vector": ((5,), -1),
}


def drawn(n, seed=0, shape=(5, 6, 4), axis=1):
    """Maps whose five channels are correlated, one direction ten times as large as the next, all of mean 3."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(9)))[0]
    rows = torch.randn(n, *[size for size in shape if size != 5], 5, generator=generator)
    rows = rows * torch.tensor([10.0, 1.0, 1.0, 1.0, 0.5]) @ mix + 3
    return rows.movedim(-1, axis)


def covariance(x, axis):
    rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    return rows.mean(0), torch.cov(rows.T)


def fitted(shape, axis, batches=64):
    layer = Whitening(5, axis)
    for seed in range(batches):
        layer(drawn(200, seed, shape, axis))
    return layer.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_come_out_uncorrelated_and_as_large_as_one_another(layout):
    shape, axis = LAYOUTS[layout]
    layer = fitted(shape, axis)
    x = drawn(2_000, 99, shape, axis)
    out = layer(x)
    assert out.shape == x.shape
    mean, found = covariance(out, axis)
    assert mean.abs().max() < 0.1
    # What counts as noise, a hundredth of the average variance, is added to each variance: 20.65 / 100 against 0.25.
    spread = torch.linalg.eigvalsh(found)
    torch.testing.assert_close(spread.max(), torch.tensor(1.0), rtol=0.15, atol=0)
    assert spread.min() > 0.4
    assert covariance(x, axis)[1].abs().max() > 10


def test_the_basis_is_the_nearest_one_to_the_channels_own():
    layer = fitted(*LAYOUTS["vector"], batches=200)
    torch.testing.assert_close(layer.matrix, layer.matrix.T)
    assert torch.linalg.eigvalsh(layer.matrix).min() > 0
    alone = Whitening(3, 1)
    alone(torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 4.0, 9.0]))
    off = alone.matrix - torch.diag(alone.matrix.diagonal())
    assert off.abs().max() < 0.02


def test_in_evaluation_nothing_is_learned_and_no_row_minds_the_others():
    layer = fitted(*LAYOUTS["channels_first"])
    before = copy.deepcopy(layer.state_dict())
    x = drawn(50, 7)
    whole = layer(x)
    torch.testing.assert_close(torch.cat([layer(row[None]) for row in x]), whole, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def renewals(layer, batches):
    """After which of the batches there was a new basis."""
    found = []
    for n, x in enumerate(batches, 1):
        before = layer.matrix.clone()
        layer(x)
        if not torch.equal(before, layer.matrix):
            found.append(n)
    return found


def test_few_channels_get_a_new_basis_with_every_batch():
    assert renewals(Whitening(5, 1), [drawn(8, n) for n in range(12)]) == list(range(1, 13))


@pytest.mark.parametrize(
    ("rows", "expected"), [(32, [1, 2, 4, 8, 16, 24, 32, 40]), (40, [1, 2, 4, 7, 8, 13, 16, 24, 26, 32, 40])]
)
def test_where_a_basis_takes_long_it_comes_with_twice_as_many_rows_and_every_so_many_batches(
    monkeypatch, rows, expected
):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(whitening, "_QUICK", 16)
    batches = [torch.randn(rows, 32, generator=generator) for _ in range(41)]
    assert renewals(Whitening(32, 1), batches) == expected


@pytest.mark.parametrize(("channels", "apart"), [(16, 1), (24, 3), (31, 7), (32, 8)])
def test_how_often_it_comes_goes_by_the_third_power_of_the_channels(monkeypatch, channels, apart):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(whitening, "_QUICK", 16)
    batches = [torch.randn(channels, channels, generator=generator) for _ in range(200)]
    found = renewals(Whitening(channels, 1), batches)
    assert set(range(apart, 201, apart)) <= set(found)
    assert len(found) <= 200 // apart + 8


def test_short_batches_at_the_end_of_every_epoch_take_no_basis_away(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(whitening, "_QUICK", 16)
    epoch = [32] * 7 + [2]
    found = renewals(Whitening(32, 1), [torch.randn(n, 32, generator=generator) for n in epoch * 20])
    assert found[:3] == [1, 2, 4]
    assert len(found) >= 20
    assert max(after - before for before, after in pairwise(found)) <= 16


def test_no_basis_is_taken_of_fewer_rows_than_channels():
    assert renewals(Whitening(5, -1), [torch.randn(2, 5) for _ in range(4)]) == [3, 4]


@pytest.mark.parametrize(("rows", "share"), [(2, 0.01), (20, 0.05), (2_000, 0.4)])
def test_ten_rows_a_channel_stay_in_the_averages_within_limits(rows, share):
    layer = Whitening(40, -1)
    for _ in range(100):
        layer(torch.zeros(rows, 40))
    layer(torch.ones(rows, 40))
    torch.testing.assert_close(layer.mean, torch.full((40,), max(share, 1 / 101)))


def test_the_averages_follow_what_changes():
    layer = Whitening(5, 1)
    for seed in range(50):
        layer(drawn(16, seed))
    for seed in range(80):
        layer(drawn(800, seed) * 2 - 1)
    expected_mean, expected = covariance(drawn(5_000) * 2 - 1, 1)
    torch.testing.assert_close(layer.mean, expected_mean, rtol=0.1, atol=0.5)
    torch.testing.assert_close(layer.covariance, expected, rtol=0.1, atol=3)


def test_it_goes_on_from_a_saved_state_as_if_it_had_not_stopped():
    through, first = Whitening(5, 1), Whitening(5, 1)
    for seed in range(20):
        through(drawn(8, seed))
        first(drawn(8, seed))
        if seed == 10:
            second = Whitening(5, 1)
            second.load_state_dict(first.state_dict())
            first = second
    assert all(
        torch.equal(a, b) for a, b in zip(through.state_dict().values(), first.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_rows_leave_the_averages_alone(broken):
    layer = fitted(*LAYOUTS["channels_first"]).train()
    before = copy.deepcopy(layer.state_dict())
    x = drawn(4, 3)
    x[2, 1, 0, 0] = broken
    out = layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.isfinite(out[[0, 1, 3]]).all()
    assert not torch.isfinite(out[2]).all()


@pytest.mark.parametrize("x", [torch.ones(6, 5, 3, 3), torch.zeros(1, 5)], ids=["constant", "one row"])
def test_where_nothing_varies_the_basis_stays(x):
    layer = Whitening(5, 1)
    assert torch.isfinite(layer(x)).all()
    assert torch.equal(layer.matrix, torch.eye(5))


def test_more_channels_than_rows_are_no_trouble():
    layer = Whitening(300, -1)
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(0)).relu()
    assert torch.isfinite(layer(x)).all()
    assert torch.isfinite(layer.eval()(x[:1] * 3)).all()


def test_half_precision_does_not_lose_what_is_small():
    layer = fitted(*LAYOUTS["channels_first"])
    x = drawn(20, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(x)
    assert torch.equal(inside, layer(x))
    for dtype in (torch.bfloat16, torch.float16):
        less = copy.deepcopy(layer).to(dtype)
        half = less(x.to(dtype))
        assert half.dtype == dtype
        assert all(torch.equal(value, layer.state_dict()[name]) for name, value in less.state_dict().items())
        assert torch.equal(half, layer(x.to(dtype).float()).to(dtype))
    double = copy.deepcopy(layer).double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), layer(x), rtol=1e-3, atol=1e-3)


def test_layers_are_fitted_anew_and_then_stay():
    layers = nn.ModuleList([Whitening(5, 1), nn.Identity(), Whitening(5, 1)])
    for layer in layers:
        layer(drawn(64, 1) * 50)
    steps = [[drawn(16, seed), None, drawn(16, seed) * 2] for seed in range(30)]
    whiten_by(layers, iter(steps))
    first, second = layers[0], layers[2]
    assert not first.training
    assert not second.training
    assert int(first.rows) == 30 * 16 * 6 * 4
    torch.testing.assert_close(second.covariance, first.covariance * 4)
    # With so little noise by comparison, twice as large comes out as large.
    torch.testing.assert_close(second(drawn(9) * 2), first(drawn(9)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("failing", [True, False])
def test_what_could_not_be_fitted_is_as_it_was(failing):
    def steps():
        if failing:
            yield [drawn(16, 1)]
            raise RuntimeError("a broken loader")

    layer = Whitening(5, 1)
    for seed in range(7):
        layer(drawn(16, seed))
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError) if failing else nullcontext():
        whiten_by([layer], steps())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.training


def test_a_broken_step_counts_for_nothing_where_all_rows_count_alike():
    layer, rows = Whitening(5, 1), drawn(64, 4, (5,), 1)
    whiten_by([layer], [[rows * float("nan")], [rows]])
    torch.testing.assert_close(layer.mean, rows.mean(0))
    nothing = Whitening(5, 1)
    whiten_by([nothing], [[rows * float("nan")]])
    assert nothing.training


def test_the_averages_are_as_exact_within_autocast():
    rows, one, other = drawn(200), Whitening(5, 1), Whitening(5, 1)
    whiten_by([one], [[rows]])
    with torch.autocast("cpu", torch.bfloat16):
        whiten_by([other], [[rows]])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_no_step_is_taken_for_layers_that_do_not_whiten():
    steps = iter([[drawn(4)]])
    whiten_by([nn.Identity()], steps)
    assert len(list(steps)) == 1


def test_every_row_that_is_fitted_to_counts_alike():
    rows = drawn(130, 4, (5,), 1)
    one, parts = Whitening(5, 1), Whitening(5, 1)
    whiten_by([one], [[rows]])
    whiten_by([parts], [[part] for part in rows.split([64, 1, 63, 2])])
    torch.testing.assert_close(parts.mean, rows.mean(0))
    torch.testing.assert_close(parts.covariance, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts.matrix, one.matrix, rtol=1e-3, atol=1e-3)


def test_passes_can_be_added_up_before_they_are_gone_back_through():
    layer, total = Whitening(5, 1), torch.zeros(())
    maps = [drawn(8, seed).requires_grad_() for seed in range(9)]
    for x in maps:
        total = total + layer(x).square().sum()
    total.backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in maps)


def test_a_tap_with_very_many_channels_is_not_whitened():
    points = [TapPoint("few", (2_048,), "vector", 0.1), TapPoint("many", (2_049,), "vector", 0.2)]
    few, many = MintHead(head_config(points, HeadSize(width=2, hidden=2))).whitening
    assert isinstance(few, Whitening)
    assert isinstance(many, nn.Identity)


def head(whitened):
    config = HeadConfig((TapSpec("channels_first", 24, (4, 4)),), (32,), 4, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MintHead(replace(config, whitened=whitened))


def found(whitened, seed):
    """Share of right answers about rows learned by heart, where the direction of four classes outshines the others."""
    generator = torch.Generator().manual_seed(seed)
    strong = torch.randn(24, generator=generator)
    x = torch.randint(4, (400, 1, 1, 1), generator=generator) * strong[:, None, None]
    x = x + 0.03 * torch.randn(400, 24, 4, 4, generator=generator)
    labels, one = torch.arange(400) % 2 == 0, head(whitened)
    optimizer = torch.optim.AdamW(one.parameters(), lr=3e-3)
    for step in range(60):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:128]
        rows = torch.cat([rows[labels[rows]], rows[~labels[rows]]])
        optimizer.zero_grad()
        membership_loss(one.each([x[rows]]), int(labels[rows].sum())).backward()
        optimizer.step()
    with torch.no_grad():
        return float(((one.eval().each([x]).squeeze(1) > 0) == labels).float().mean())


def learned_across_places(whole):
    """Share of right answers about rows learned by heart, where places nearly say the same of every row."""
    tap = head_config([TapPoint("t", (16, 2, 2), "channels_first", 0.5)]).taps[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = MintHead(HeadConfig((replace(tap, whole=whole),), (64,), 4, 64))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 16, 1, 1, generator=generator) + 0.1 * torch.randn(400, 16, 2, 2, generator=generator)
    x[:, :, 0, 0] = x[:, :, 1, 1]
    # Members and others are the same but for what differs from place to place.
    x = torch.cat([x, x.flip(2)])
    labels = torch.arange(800) < 400
    one.whiten([[x]])
    optimizer = torch.optim.AdamW(one.parameters(), lr=3e-3)
    for step in range(150):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:64]
        rows = torch.cat([rows, rows + 400])
        optimizer.zero_grad()
        membership_loss(one.each([x[rows]]), 64).backward()
        optimizer.step()
    with torch.no_grad():
        return float(((one.eval().each([x]).squeeze(1) > 0) == labels).float().mean())


def test_a_small_map_tells_most_across_its_places():
    assert learned_across_places(True) > 0.97
    assert learned_across_places(False) < 0.93


def test_a_head_that_whitens_learns_what_hides_behind_a_strong_direction():
    with_, without = ([found(whitened, seed) for seed in range(5)] for whitened in (True, False))
    assert min(with_) > 0.95
    assert max(without) < 0.85
