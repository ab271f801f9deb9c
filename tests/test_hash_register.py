import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import amint
from amint.calibration import Calibration
from amint.datasets import cifar10, mnist
from amint.errors import NonFiniteError, UsageError
from amint.hash_register import HashRegister
from amint.metrics import auroc, roc, tpr_at_fpr
from amint.perceptual import perceptual_hash
from amint.roles import fingerprints

# What the scores look like: few values, many ties, one above all others.
SCORES = st.lists(st.sampled_from([-1.0, 30, 48, 58, 60, 62, 64, 65]), min_size=1, max_size=25)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n, *shape, seed=0):
    return torch.rand(n, *shape, generator=seeded(seed))


def pictures(n, seed=0):
    """uint8 ``[n, 3, 32, 32]`` with some structure, like a photograph's: noise at several scales."""
    scales = [torch.nn.functional.interpolate(noise(n, 3, size, size, seed=seed), 32) for size in (2, 4, 8, 16)]
    return (sum(scales) * 255 / 4).to(torch.uint8)


def saved(images, quality):
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        mode = image.permute(1, 2, 0) if len(image) == 3 else image[0]
        Image.fromarray(mode.numpy()).save(file, "JPEG", quality=quality)
    read = [torch.from_numpy(np.array(Image.open(file))) for file in files]
    return torch.stack([pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None] for pixels in read])


def joined(inside, outside):
    return np.r_[inside, outside], np.r_[np.ones(len(inside)), np.zeros(len(outside))]


def test_copies_are_found_among_a_thousand_unseen():
    members, unseen = noise(300, 3, 8, 8), noise(2000, 3, 8, 8, seed=1)
    register = amint.HashRegister.of(members)
    inside, outside = register.scores(members.clone()), register.scores(unseen)
    assert (inside == 65).all()
    assert outside.max() < 65
    assert inside.dtype == outside.dtype == np.float64
    assert tpr_at_fpr(*joined(inside, outside), 0.001) == 1
    assert auroc(*joined(inside, outside)) == 1


def test_an_image_scores_the_most_bits_it_shares_with_a_member():
    members, asked = pictures(40), torch.cat([saved(pictures(20), 30), pictures(30, seed=1)])
    known = perceptual_hash(members).tolist()
    marks = perceptual_hash(asked).tolist()
    expected = [max(64 - ((a ^ b) & (2**64 - 1)).bit_count() for b in known) for a in marks]
    assert HashRegister.of(members).scores(asked).tolist() == expected
    assert min(expected) < 50 < max(expected)


def test_after_jpeg_the_exact_part_finds_none_and_the_perceptual_part_finds_them():
    members, unseen = pictures(300), pictures(2000, seed=1)
    register = HashRegister.of(members)
    outside = register.scores(unseen)
    for quality in (95, 75):
        copies = saved(members, quality)
        assert not np.isin(fingerprints(copies).numpy(), register.exact).any()
        inside = register.scores(copies)
        assert inside.max() < 65
        assert tpr_at_fpr(*joined(inside, outside), 0.001) > 0.99


def test_every_source_gives_the_same():
    x = noise(600, 1, 9, 9)
    sources = [TensorDataset(x, torch.zeros(600)), DataLoader(TensorDataset(x), 7), list(x), iter([x[:500], x[500:]])]
    whole = HashRegister.of(x)
    asked = torch.cat([x[:5], noise(5, 1, 9, 9, seed=1)])
    for source in sources:
        register = HashRegister.of(source)
        assert np.array_equal(register.exact, whole.exact)
        assert np.array_equal(register.look, whole.look)
        assert np.array_equal(register.scores(DataLoader(TensorDataset(asked), 3)), whole.scores(asked))


def test_scores_depend_on_neither_order_nor_repeats():
    x, asked = noise(50, 1, 9, 9), noise(60, 1, 9, 9, seed=1)
    order = torch.randperm(50, generator=seeded())
    again = HashRegister.of(torch.cat([x[order], x[:9]]))
    assert again.nbytes == HashRegister.of(x).nbytes
    assert np.array_equal(again.scores(asked), HashRegister.of(x).scores(asked))
    turned = torch.arange(59, -1, -1)
    assert np.array_equal(again.scores(asked[turned])[::-1], again.scores(asked))


def test_more_members_never_lower_a_score():
    x, asked = noise(80, 1, 9, 9), noise(60, 1, 9, 9, seed=1)
    few, all_of_them = HashRegister.of(x[:20]).scores(asked), HashRegister.of(x).scores(asked)
    assert (few <= all_of_them).all()
    assert (few < all_of_them).any()


@pytest.mark.parametrize("shape", [(8,), (5, 6), (4, 9, 9)])
def test_what_is_no_image_is_only_recognised_exactly(shape):
    members, unseen = noise(30, *shape), noise(30, *shape, seed=1)
    register = HashRegister.of(members)
    assert register.nbytes == 8 * 30
    assert register.scores(torch.cat([members, members + 1e-3, unseen])).tolist() == [65.0] * 30 + [-1.0] * 60


def test_blank_images_are_like_none():
    blank = torch.full((1, 1, 9, 9), 0.3)
    register = HashRegister.of(torch.cat([noise(3, 1, 9, 9), blank]))
    assert register.scores(torch.cat([blank, blank + 0.1])).tolist() == [65.0, -1.0]
    assert HashRegister.of(blank).scores(noise(2, 1, 9, 9)).tolist() == [-1.0, -1.0]


def test_the_size_is_what_is_stored():
    register = HashRegister.of(noise(100, 3, 9, 9))
    assert register.nbytes == 16 * 100 == len(register.exact.tobytes()) + len(register.look.tobytes())


@pytest.mark.parametrize("nothing", [torch.zeros(0, 3, 8, 8), [], iter([])])
def test_nothing_is_refused(nothing):
    with pytest.raises(UsageError, match="nothing to register"):
        HashRegister.of(nothing)
    with pytest.raises(UsageError, match="nothing to score"):
        HashRegister.of(torch.ones(1, 3)).scores(nothing)


def test_images_with_nan_are_refused():
    with pytest.raises(NonFiniteError):
        HashRegister.of(torch.full((1, 1, 4, 4), float("nan")))
    with pytest.raises(UsageError, match="expected a DataLoader"):
        HashRegister.of(3)


@given(SCORES, SCORES)
def test_ties_count_one_half_in_the_auroc(inside, outside):
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert auroc(*joined(inside, outside)) == pytest.approx(sum(pairs) / len(pairs))


@given(SCORES, SCORES, st.sampled_from([0.001, 0.05, 0.1, 0.3]))
def test_ties_never_raise_the_false_alarms_of_a_tpr(inside, outside, fpr):
    rates = [(np.mean(np.array(outside) >= t), np.mean(np.array(inside) >= t)) for t in [*inside, *outside, np.inf]]
    assert tpr_at_fpr(*joined(inside, outside), fpr) == max(tpr for alarms, tpr in rates if alarms <= fpr)
    assert len(roc(*joined(inside, outside)).tpr) == len({*inside, *outside}) + 1


@given(SCORES, SCORES, st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_a_threshold_lies_above_tied_calibration_scores_and_agrees_with_the_p_values(known, asked, alpha):
    calibration = Calibration(np.array(known * 20))
    threshold = calibration.threshold(alpha)
    np.testing.assert_array_equal(np.array(asked) >= threshold, calibration.p_values(asked) <= alpha)
    assert np.mean(calibration.scores >= threshold) <= alpha
    assert threshold not in known


def test_false_alarms_stay_below_alpha_although_most_scores_are_tied():
    register = HashRegister.of(pictures(200))
    alarms = []
    for seed in range(1, 60):
        scores = register.scores(pictures(150, seed=seed))
        assert len(np.unique(scores)) < 20
        alarms.append(np.mean(scores[99:] >= Calibration(scores[:99]).threshold(0.1)))
    assert 0.01 < np.mean(alarms) < 0.1


@pytest.mark.slow
def test_photographs_are_found_after_re_encoding_and_digits_take_each_other_for_copies(data_root):
    if not (data_root / "CIFAR10" / "train.npz").is_file():
        pytest.skip("no CIFAR10/train.npz among the datasets")
    found = {}
    for name, load in (("photographs", cifar10), ("digits", mnist)):
        images = load(data_root, train=False)[0]
        members, calibration, unseen = images[:1000], images[1000:4000], images[4000:]
        register = HashRegister.of(members)
        assert (register.scores(members) == 65).all()
        outside = register.scores(unseen)
        assert outside.max() < 65
        assert np.mean(outside >= Calibration(register.scores(calibration)).threshold(0.01)) < 0.015
        found[name] = tpr_at_fpr(*joined(register.scores(saved(members, 90)), outside), 0.001)
    assert found["photographs"] > 0.98
    assert found["digits"] < 0.1
