import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import fft

from amint import near_groups as near_groups_module
from amint import perceptual
from amint.datasets import mnist
from amint.errors import NonFiniteError, UsageError
from amint.near_groups import near_groups
from amint.perceptual import Duplicate, Marks, find_duplicates, likeness, nearest, perceptual_hash

WORDS = st.integers(-(2**63), 2**63 - 1)
# Few and small numbers are often near each other, and 0 is the hash of a blank image.
HASHES = st.lists(st.one_of(st.integers(0, 40), WORDS), max_size=30).map(lambda values: np.array(values, np.int64))


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(n, channels=3, side=32, seed=0):
    """Pictures with some structure, like a photograph's: noise at several scales."""
    x = sum(
        torch.nn.functional.interpolate(noise(n, channels, size, size, seed=seed + size), side, mode="bilinear")
        for size in (2, 4, 8, 16)
    )
    return x / 4


def different(a, b):
    return ((int(a) ^ int(b)) & (2**64 - 1)).bit_count()


def bits_between(a, b):
    return np.array([different(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)])


def test_bits_are_the_lowest_cosine_coefficients_above_their_median():
    x = noise(5, 3, 256, 256)
    # At this size the sampled transform is close to the integral; close to the median a bit may go either way.
    for image, mark in zip(x.mean(1).double().numpy(), perceptual_hash(x).tolist(), strict=True):
        weights = np.pi * np.arange(8) / 2 / 256
        shrink = np.sinc(weights / np.pi)
        lowest = (fft.dctn(image, norm="ortho")[:8, :8] * np.outer(shrink, shrink)).ravel()[1:]
        margin = lowest - np.median(lowest)
        bits = np.array([(mark >> i) & 1 for i in range(64)])
        clear = np.abs(margin) > 1e-9 * np.abs(lowest).max()
        assert bits[0] == 1
        np.testing.assert_array_equal(bits[1:][clear], margin[clear] > 0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 40), (1, 5, 3)])
def test_a_hash_does_not_depend_on_the_batch(shape, monkeypatch):
    x = noise(19, *shape)
    together = perceptual_hash(x)
    assert together.dtype == torch.int64
    for size in (1, 2, 7):
        assert torch.equal(torch.cat([perceptual_hash(part) for part in x.split(size)]), together)
    monkeypatch.setattr(perceptual, "_ELEMENTS", 1)
    assert torch.equal(perceptual_hash(x.to(memory_format=torch.channels_last).requires_grad_()), together)


def test_size_brightness_and_contrast_do_not_matter():
    x = smooth(50)
    marks = perceptual_hash(x)
    assert torch.equal(perceptual_hash(x.repeat_interleave(3, 2).repeat_interleave(2, 3)), marks)
    assert bits_between(perceptual_hash(0.3 * x - 7), marks).max() <= 2
    assert bits_between(perceptual_hash(-x), marks).min() >= 60


def test_blank_images_have_hash_zero_and_no_others():
    blank = torch.full((3, 3, 9, 9), 0.1)
    assert perceptual_hash(blank).tolist() == [0, 0, 0]
    assert perceptual_hash(noise(4, 1, 1, 1)).tolist() == [0] * 4
    assert (perceptual_hash(noise(50, 1, 8, 8)) % 2 == 1).all()
    dot = torch.zeros(1, 1, 32, 32)
    dot[0, 0, 5, 9] = 1e-3
    assert perceptual_hash(dot).item() != 0


@pytest.mark.parametrize("height, width", [(1, 2), (2, 1), (1, 9), (3, 3), (7, 2), (4, 300)])
def test_images_below_eight_pixels_are_told_apart(height, width):
    x = noise(20, 1, height, width)
    assert (perceptual_hash(x) != 0).all()
    assert different(*perceptual_hash(torch.cat([x[:1], -x[:1]])).tolist()) > 0


def test_rounding_decides_no_bit():
    # Every row is the same: all vertical coefficients are 0 but for rounding.
    stripes = noise(30, 1, 1, 32).expand(30, 1, 32, 32)
    wide = noise(30, 1, 1, 32).expand(30, 1, 45, 32)
    assert torch.equal(perceptual_hash(stripes), perceptual_hash(wide))


@pytest.mark.parametrize("x", [torch.zeros(3, 4), torch.zeros(2, 1, 0, 4), torch.zeros(2, 1, 4, 4, dtype=torch.cfloat)])
def test_what_is_no_batch_of_images_is_refused(x):
    with pytest.raises(UsageError, match="images must be"):
        perceptual_hash(x)


def test_nothing_and_not_finite():
    assert perceptual_hash(torch.zeros(0, 3, 8, 8)).shape == (0,)
    with pytest.raises(NonFiniteError):
        perceptual_hash(torch.full((1, 1, 4, 4), float("nan")))


@given(HASHES, HASHES, st.integers(0, 64))
def test_nearest_equals_counting_bits(submitted, known, most_bits):
    index, distance = nearest(submitted, known, most_bits)
    for mark, i, bits in zip(submitted.tolist(), index.tolist(), distance.tolist(), strict=True):
        counts = [different(mark, other) if mark and other else 65 for other in known.tolist()]
        least = min(counts, default=65)
        expected = (counts.index(least), least) if least <= most_bits else (-1, 65)
        assert (i, bits) == expected


@given(HASHES, st.integers(0, 10))
def test_groups_equal_following_every_link(hashes, most_bits):
    values = hashes.tolist()
    group = list(range(len(values)))
    for i, a in enumerate(values):
        for j, b in enumerate(values[:i]):
            if a and b and different(a, b) <= most_bits:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    assert near_groups(hashes, most_bits).tolist() == group


@pytest.mark.parametrize("most_bits", [0, 1, 4, 7])
def test_no_near_pair_is_overlooked(most_bits):
    """Bits differ anywhere: in one piece of a hash, at its edges, spread over all pieces."""
    rng = np.random.default_rng(most_bits)
    first = rng.integers(-(2**63), 2**63 - 1, 400)
    turned = [rng.choice(64, most_bits + i % 2, replace=False).astype(np.uint64) for i in range(400)]
    masks = np.array([np.bitwise_or.reduce(np.uint64(1) << bits) if len(bits) else 0 for bits in turned], np.uint64)
    second = (first.view(np.uint64) ^ masks).view(np.int64)
    groups = near_groups(np.concatenate([first, second]), most_bits)
    near = np.arange(400) % 2 == 0
    np.testing.assert_array_equal(groups[400:][near], np.arange(400)[near])
    np.testing.assert_array_equal(groups[400:][~near], 400 + np.arange(400)[~near])


def test_blocks_leave_no_trace(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 200, 90)
    whole = nearest(hashes, hashes[::-1].copy(), 2), near_groups(hashes, 1)
    monkeypatch.setattr(perceptual, "_ROWS", 7)
    monkeypatch.setattr(perceptual, "_COLUMNS", 5)
    monkeypatch.setattr(near_groups_module, "_MOST_PAIRS", 3)
    pieces = nearest(hashes, hashes[::-1].copy(), 2), near_groups(hashes, 1)
    np.testing.assert_array_equal(pieces[0], whole[0])
    np.testing.assert_array_equal(pieces[1], whole[1])


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2), np.int64), [1, 2], np.zeros(3, np.int32)])
def test_other_arrays_are_refused(bad):
    good = np.zeros(2, np.int64)
    for call in (lambda: nearest(bad, good), lambda: nearest(good, bad), lambda: near_groups(bad), lambda: Marks(bad)):
        with pytest.raises(UsageError, match="int64"):
            call()


@pytest.mark.parametrize("most_bits", [-1, 65])
def test_impossible_distances_are_refused(most_bits):
    with pytest.raises(UsageError, match="between 0 and 64"):
        nearest(np.zeros(1, np.int64), np.zeros(1, np.int64), most_bits)


def marks(exact, look=None):
    return Marks(np.array(exact, np.int64), None if look is None else np.array(look, np.int64))


def test_an_exact_match_comes_first_and_hides_the_near_one_of_its_role():
    known = {"calibration": marks([10, 20, 20], [1, 255, 255]), "external": marks([30, 40], [3, 2**40 + 1])}
    found = find_duplicates(marks([20, 99, 50], [255, 3, 2**50 - 1]), known, ["a", "b", "c"])
    assert found == (
        Duplicate(0, "a", "calibration", 1, None),
        Duplicate(1, "b", "calibration", 0, 1),
        Duplicate(1, "b", "external", 0, 0),
    )
    assert found[0].reason == "the same input as calibration sample 1; a sample cannot be judged in two roles"
    assert found[1].reason == "looks nearly like calibration sample 0 (1 of 64 bits differ)"


def test_an_exact_match_is_listed_before_a_near_one_of_another_role():
    known = {"calibration": marks([10], [1]), "external": marks([20], [5])}
    found = find_duplicates(marks([20], [1]), known, ["a"])
    assert [(d.role, d.bits) for d in found] == [("external", None), ("calibration", 0)]


def test_without_looks_only_content_is_compared():
    assert find_duplicates(marks([1, 2]), {"calibration": marks([2], [7])}, ["a", "b"]) == (
        Duplicate(1, "b", "calibration", 0, None),
    )
    assert find_duplicates(marks([1]), {"calibration": marks([])}, ["a"]) == ()
    assert likeness(marks([1, 2])) == 0


def test_lengths_must_fit():
    with pytest.raises(UsageError, match="one look a sample"):
        marks([1, 2], [3])
    with pytest.raises(UsageError, match="paths must name"):
        find_duplicates(marks([1, 2]), {}, ["a"])


def test_likeness_is_the_share_that_resembles_another():
    rng = np.random.default_rng(0)
    alone = rng.integers(-(2**63), 2**63 - 1, 3000) | 1
    assert likeness(Marks(np.arange(3000), alone)) == 0
    assert likeness(Marks(np.arange(3000), np.repeat(alone[:1000], 3))) > 0.5
    # The same sample twice is not likeness.
    assert likeness(Marks(np.repeat(np.arange(1000), 3), np.repeat(alone[:1000], 3))) == 0


def test_comparing_needs_no_torch():
    script = "import sys, amint.perceptual; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"


def test_a_hundred_million_pairs_fit_in_little_memory():
    rng = np.random.default_rng(0)
    known = rng.integers(-(2**63), 2**63 - 1, 50_000) | 1
    index, bits = nearest(known[:2000] ^ 0b110, known)
    assert (index == np.arange(2000)).all()
    assert (bits == 2).all()


def saved(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(pixels, sides):
    image = Image.fromarray(pixels)
    for side in sides:
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image)


def photographs(root, n):
    path = root / "CIFAR10" / "test.npz"
    if not path.is_file():
        pytest.skip("no CIFAR10/test.npz among the datasets")
    content = np.load(path)
    head, scans, ends = content["header"].tobytes(), content["scans"].tobytes(), content["offsets"]
    files = (head + scans[a:b] for a, b in pairwise(ends[: n + 1]))
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def hashes(pixels):
    images = pixels[..., None] if pixels.ndim == 3 else pixels
    return perceptual_hash(torch.tensor(images).permute(0, 3, 1, 2).float() / 255).numpy()


def found(pixels, change):
    return (bits_between(hashes(np.stack([change(image) for image in pixels])), hashes(pixels)) <= 4).mean()


@pytest.mark.slow
def test_copies_of_photographs_are_found_and_other_photographs_are_not(data_root):
    pixels = photographs(data_root, 2000)
    some = pixels[:400]
    assert found(some, lambda image: saved(image, 95)) > 0.99
    assert found(some, lambda image: saved(image, 75)) > 0.99
    assert found(some, lambda image: resized(image, (24, 32))) > 0.99
    assert found(some, lambda image: resized(image, (64,))) > 0.99
    # What the hash does not promise: a shift by one pixel of 32.
    assert found(some, lambda image: np.roll(image, 1, axis=1)) < 0.5
    looks = hashes(pixels)
    assert likeness(Marks(np.arange(2000), looks)) < 0.005


@pytest.mark.slow
def test_digits_resemble_each_other_and_likeness_says_so(data_root):
    pixels = mnist(data_root, train=False)[0][:3000, 0].numpy()
    assert found(pixels[:400], lambda image: saved(image, 75)) > 0.97
    assert 0.1 < likeness(Marks(np.arange(3000), hashes(pixels))) < 0.5
