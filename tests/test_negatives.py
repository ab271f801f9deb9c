import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amint.errors import UsageError
from amint.negatives import HardNegatives, horizontal_flip, one_pixel_shift

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


def test_symmetries_leave_their_input_alone():
    x = torch.randn(5, 2, 4, 4)
    copy = x.clone()
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
