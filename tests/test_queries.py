import numpy as np
import pytest
import torch

from amint.errors import UsageError
from amint.queries import Queries


def images(n, seed=1, shape=(3, 12, 9), dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stacked(queries, x):
    return torch.stack(list(queries.views(x)))


def slow_view(image, down, across, mirrored):
    """One image ``[c, h, w]``, padded by reflection, cut out, mirrored last."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), ((0, 0), (height - 1,) * 2, (width - 1,) * 2), mode="reflect")
    top, left = height - 1 + down, width - 1 + across
    view = padded[:, top : top + height, left : left + width]
    return view[:, :, ::-1] if mirrored else view


def slow_views(image, shift):
    """Every view that there can be, by what made it."""
    moves = range(-shift, shift + 1)
    return {(d, a, m): slow_view(image, d, a, m) for d in moves for a in moves for m in (False, True)}


def test_the_first_views_are_the_image_and_its_mirror_image():
    x = images(5)
    views = stacked(Queries(count=3), x)
    assert views.shape == (3, 5, 3, 12, 9)
    assert torch.equal(views[0], x)
    assert torch.equal(views[1], x.flip(3))


def test_every_view_is_a_reflected_shift_and_all_of_them_occur():
    shift, x = 1, images(200, shape=(1, 5, 4))
    views = stacked(Queries(count=6, shift=shift), x)
    seen = dict.fromkeys(slow_views(x[0], shift), 0)
    for view in views[2:]:
        for image, found in zip(x, view, strict=True):
            [key] = [key for key, v in slow_views(image, shift).items() if np.array_equal(v, found)]
            seen[key] += 1
    counts = np.array(list(seen.values()))
    # 800 draws from 18 kinds; a fair draw is outside these bounds with probability below 1e-4.
    assert counts.sum() == 800
    assert 15 < counts.min() <= counts.max() < 80


def test_views_depend_on_content_alone():
    x, queries = images(20), Queries(count=7)
    whole = stacked(queries, x)
    order = torch.randperm(20)
    assert torch.equal(stacked(queries, x[order]), whole[:, order])
    assert torch.equal(torch.cat([stacked(queries, part) for part in x.split(3)], dim=1), whole)
    assert torch.equal(stacked(queries, x), whole)
    twice = stacked(queries, torch.cat([x[:1], x[:1]]))
    assert torch.equal(twice[:, 0], twice[:, 1])


def test_samples_and_views_draw_shifts_of_their_own():
    ramp = torch.arange(12 * 12.0).reshape(1, 1, 12, 12)
    x = ramp + 1000 * torch.arange(50.0)[:, None, None, None]
    views = stacked(Queries(count=10, flip=False), x) - x
    assert len(views[1].unique(dim=0)) > 20
    assert len(views[:, 0].unique(dim=0)) > 5


def test_without_flip_nothing_is_mirrored():
    x = torch.arange(8.0).expand(40, 1, 8, 8) + torch.arange(40.0)[:, None, None, None]
    views = stacked(Queries(count=8, shift=2, flip=False), x)
    rising = (views[..., 3:6].diff(dim=-1) > 0).all()
    assert rising
    assert not (stacked(Queries(count=8, shift=2), x)[..., 3:6].diff(dim=-1) > 0).all()


def test_another_seed_shifts_otherwise():
    x = images(30)
    one, other = (stacked(Queries(count=4, seed=seed), x) for seed in (0, 1))
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2:], other[2:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_numbers_are_moved_not_computed(dtype):
    x = (images(6) * 50).abs().to(dtype)
    for view in Queries(count=5).views(x):
        assert view.dtype == dtype
        for image, moved in zip(x, view, strict=True):
            assert set(moved.flatten().tolist()) <= set(image.flatten().tolist())


def test_rounding_to_a_models_precision_comes_after_the_draw():
    x = images(10).double()
    views, rounded = stacked(Queries(), x), stacked(Queries(), x.float())
    assert torch.equal(views.float(), rounded)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (3, 2, 2), (2, 3, 1)])
def test_images_smaller_than_the_shift(shape):
    x = images(9, shape=shape)
    views = stacked(Queries(count=12, shift=4), x)
    assert views.shape == (12, 9, *shape)
    for i in range(9):
        assert set(views[:, i].unique().tolist()) <= set(x[i].unique().tolist())


def test_no_shift_leaves_flips_only():
    x = images(10)
    for view in Queries(count=6, shift=0).views(x):
        same, mirrored = (view == x).flatten(1).all(1), (view == x.flip(3)).flatten(1).all(1)
        assert (same | mirrored).all()


def test_no_random_generator_is_touched():
    before = torch.get_rng_state()
    stacked(Queries(), images(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_view_is_the_image():
    x = images(2)
    assert torch.equal(stacked(Queries(count=1), x), x[None])


@pytest.mark.parametrize("options", [{"count": 0}, {"count": -1}, {"shift": -1}])
def test_what_makes_no_sense(options):
    with pytest.raises(UsageError, match="count >= 1 and shift >= 0"):
        Queries(**options)


@pytest.mark.parametrize("shape", [(5,), (5, 6), (2, 3, 4, 5)])
def test_only_images_can_be_shifted(shape):
    with pytest.raises(UsageError, match=r"need images \[n, c, h, w\]"):
        list(Queries().views(torch.zeros(2, *shape)))
