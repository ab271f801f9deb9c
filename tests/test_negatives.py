import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amint.errors import UsageError
from amint.negatives import HardNegatives, Moved, horizontal_flip, one_pixel_shift

shapes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
pictures = shapes.flatmap(lambda shape: arrays("float32", shape, elements=st.integers(0, 9).map(float)))


@settings(deadline=None)
@given(x=pictures.map(torch.from_numpy))
def test_horizontal_flip(x):
    turned = horizontal_flip(x)
    width = x.shape[-1]
    assert all(torch.equal(turned[..., i], x[..., width - 1 - i]) for i in range(width))
    assert torch.equal(horizontal_flip(turned), x)


def shifted(picture, down, right):
    """The slow and obvious version: every pixel from its neighbour, the border repeated."""
    height, width = picture.shape[-2:]
    rows = [min(max(i - down, 0), height - 1) for i in range(height)]
    columns = [min(max(j - right, 0), width - 1) for j in range(width)]
    return picture[:, rows][:, :, columns]


@settings(deadline=None)
@given(x=pictures.map(torch.from_numpy))
def test_one_pixel_shift_moves_each_image_one_way(x):
    moved = one_pixel_shift(x)
    assert moved.shape == x.shape
    for before, after in zip(x, moved, strict=True):
        ways = [shifted(before, down, right) for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        assert any(torch.equal(after, way) for way in ways)


def test_one_pixel_shift_takes_all_four_ways_evenly():
    x = torch.zeros(4000, 1, 3, 3)
    x[:, 0, 1, 1] = 1
    where = one_pixel_shift(x).flatten(1).argmax(1).bincount(minlength=9)
    assert where[[0, 2, 4, 6, 8]].tolist() == [0] * 5
    # 1,000 expected; a standard deviation is 27.
    assert all(abs(int(n) - 1000) < 5 * 27 for n in where[[1, 3, 5, 7]])


ways = st.tuples(st.integers(1, 3), st.booleans(), st.integers(0, 2**31))


@settings(deadline=None)
@given(way=ways, n=st.integers(0, 6), height=st.integers(4, 7), width=st.integers(4, 7))
def test_moved_images_are_moved_by_whole_pixels_and_none_stays_as_it_is(way, n, height, width):
    pixels, mirror, seed = way
    torch.manual_seed(seed)
    x = torch.rand(n, 2, height, width)
    moved = Moved(pixels, mirror)(x)
    assert moved.shape == x.shape
    steps = range(-pixels, pixels + 1)
    for before, after in zip(x, moved, strict=True):
        places = [shifted(before, i, j) for i in steps for j in steps if i or j]
        if mirror:
            places += [shifted(before.flip(-1), i, j) for i in steps for j in steps]
        assert any(torch.equal(after, place) for place in places)


def test_moved_takes_all_places_evenly():
    x = torch.zeros(4800, 1, 5, 5)
    x[:, 0, 1, 2] = 1
    where = Moved(1)(x).flatten(1).argmax(1).bincount(minlength=25).view(5, 5)[:3, 1:4].flatten().tolist()
    assert where.pop(4) == 0
    assert sum(where) == 4800
    # 600 expected; a standard deviation is 23.
    assert all(abs(count - 600) < 5 * 23 for count in where)


def test_moved_mirrors_half_of_the_images_and_leaves_half_of_those_in_place():
    x = torch.rand(1, 1, 6, 6).repeat(4000, 1, 1, 1)
    moved = Moved(2, mirror=True)(x)
    in_place = (moved == x.flip(-1)).flatten(1).all(1).float().mean()
    mirrored = sum(
        (moved == shifted(x[0].flip(-1), i, j)).flatten(1).all(1).float().mean()
        for i in range(-2, 3)
        for j in range(-2, 3)
    )
    assert abs(float(mirrored) - 0.5) < 0.04
    # A quarter is left in place, and one in 24 of the other mirrored ones is not among them.
    assert abs(float(in_place) - 0.25) < 0.04


@pytest.mark.parametrize("pixels", [0, -1, 1.5, True, None])
def test_moving_by_no_pixel_is_refused(pixels):
    with pytest.raises(UsageError, match="whole number from 1 on"):
        Moved(pixels)


@pytest.mark.parametrize("shape", [(3, 2, 4, 9), (3, 2, 9, 4), (3, 9, 9), (3,), (2, 1, 3, 9, 9)])
def test_what_is_too_small_or_no_image_cannot_be_moved(shape):
    with pytest.raises(UsageError, match=r"images \[n, c, h, w\] larger than 4 pixels"):
        Moved()(torch.zeros(shape))


def test_symmetries_leave_their_input_alone():
    x = torch.randn(5, 2, 6, 6)
    copy = x.clone()
    Moved(mirror=True)(x)
    horizontal_flip(x)
    one_pixel_shift(x)
    assert torch.equal(x, copy)


def test_rows_are_external_ones_then_members():
    members, external = torch.randn(3, 4), torch.randn(5, 4)
    (only,) = HardNegatives(torch.neg).rows(members, external)
    assert torch.equal(only, -external)
    first, second = HardNegatives(torch.neg, members=True).rows(members, external)
    assert torch.equal(first, -external)
    assert torch.equal(second, -members)


@pytest.mark.parametrize("symmetry", [lambda x: x[:-1], lambda x: F.pad(x, (1, 0)), lambda x: x.sum(1)])
def test_a_symmetry_that_changes_the_shape(symmetry):
    message = r"the symmetry given as negatives turned \(5, 4\) into \(\d.*\); it must keep the batch's shape"
    with pytest.raises(UsageError, match=message):
        HardNegatives(symmetry).rows(torch.randn(3, 4), torch.randn(5, 4))
