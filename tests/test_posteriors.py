import json
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amint.errors import NonFiniteError, UsageError
from amint.posteriors import posterior_columns

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())
ONE_PER_SAMPLE = {"logprob", "max_logprob", "correct", "entropy", "modified_entropy", "hinge", "scaled_logit"}


def columns_of(logits, labels, dtype=torch.float64):
    return posterior_columns(torch.tensor(logits, dtype=dtype), torch.tensor(labels))


def obvious(row, y):
    """Every column of one sample by its definition, with 60 digits more than the exponents need."""
    with mpmath.workdps(int(60 + (max(row) - min(row)) / 2)):
        powers = [mpmath.exp(mpmath.mpf(z)) for z in row]
        p = [power / mpmath.fsum(powers) for power in powers]
        others = [j for j in range(len(row)) if j != y]
        rest = [mpmath.fsum(q for j, q in enumerate(p) if j != k) for k in range(len(p))]
        floored = [mpmath.log(max(q, mpmath.mpf("1e-30"))) for q in rest]
        log_p = mpmath.log(max(p[y], mpmath.mpf("1e-30")))
        modified = -rest[y] * log_p - mpmath.fsum(p[j] * floored[j] for j in others)
        return {
            "logprob": float(mpmath.log(p[y])),
            "max_logprob": float(mpmath.log(max(p))),
            "correct": float(row.index(max(row)) == y),
            "entropy": float(-mpmath.fsum(q * mpmath.log(q) for q in p)),
            "modified_entropy": float(modified),
            "hinge": float(mpmath.mpf(row[y]) - max(mpmath.mpf(row[j]) for j in others)),
            "scaled_logit": float(mpmath.log(p[y] / rest[y])),
            "top3": [float(q) for q in sorted(p, reverse=True)[:3]],
        }


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_columns_equal_the_reference_vectors(dtype, tolerance):
    found = columns_of(VECTORS["logits"], VECTORS["labels"], dtype)
    expected = {
        "logprob": -np.array(VECTORS["loss"]),
        "max_logprob": np.log(np.array(VECTORS["salem_top3_sorted"])[:, 0]),
        "correct": VECTORS["correctness"],
        "entropy": VECTORS["entropy"],
        "modified_entropy": VECTORS["modified_entropy"],
        "hinge": VECTORS["hinge_margin"],
        "scaled_logit": VECTORS["phi_logit_confidence"],
        "top3": VECTORS["salem_top3_sorted"],
    }
    assert set(found) == set(expected)
    for name, column in found.items():
        assert column.dtype == torch.float64
        np.testing.assert_allclose(column, expected[name], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(found["logprob"].exp(), VECTORS["confidence"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(found["scaled_logit"], VECTORS["phi_from_probability"], rtol=0, atol=tolerance)


@given(st.data())
def test_columns_equal_their_definitions_in_many_digits(data):
    level = st.one_of(st.integers(-3, 3).map(float), st.floats(-80, 80), st.sampled_from([-700.0, 700.0]))
    row = data.draw(st.lists(level, min_size=2, max_size=6))
    y = data.draw(st.integers(0, len(row) - 1))
    if min(row) >= 0 and max(row) <= 1:
        row[0] += 2
    found = columns_of([row], [y])
    for name, value in obvious(row, y).items():
        # Tiny losses and entropies keep their digits; log-odds near 0 are the difference of two numbers.
        atol = 1e-13 if name == "scaled_logit" else 1e-300
        np.testing.assert_allclose(found[name][0], value, rtol=1e-11, atol=atol, err_msg=name)


@pytest.mark.parametrize("gap", [1e2, 1e3, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_very_sure_and_very_wrong_samples_stay_finite_and_exact(gap, classes):
    logits = torch.zeros(2, classes, dtype=torch.float64)
    logits[:, 0] = gap
    found = posterior_columns(logits, torch.tensor([0, classes - 1]))
    others = math.log(classes - 1)
    assert all(column.isfinite().all() for column in found.values())
    assert found["scaled_logit"][0] == pytest.approx(gap - others, rel=1e-12)
    assert found["logprob"][0] == pytest.approx(-math.exp(max(others - gap, -745)), rel=1e-9, abs=1e-300)
    assert found["logprob"][1] == pytest.approx(-gap, rel=1e-12)
    assert found["hinge"].tolist() == [gap, -gap]
    assert found["correct"].tolist() == [1, 0]
    # Wrong with certainty: both logarithms end at their floor, the first weighed by 1 - p_y = 1, the second by 1.
    assert found["modified_entropy"][1] == pytest.approx(-2 * math.log(1e-30), rel=1e-9)


def test_surer_is_still_surer_where_posteriors_round_to_one():
    found = columns_of([[gap, 0.0, 0.0] for gap in range(1, 400)], [0] * 399)
    for name, direction in {"logprob": 1, "scaled_logit": 1, "hinge": 1, "entropy": -1, "modified_entropy": -1}.items():
        steps = direction * found[name].diff()
        assert (steps >= 0).all(), name
        assert (steps[:300] > 0).all(), name


def test_ties_count_for_the_first_class_as_argmax_does():
    found = columns_of([[2.0, 2.0, 0.0]] * 3, [0, 1, 2])
    assert found["correct"].tolist() == [1, 0, 0]
    assert found["hinge"].tolist() == [0, 0, -2]
    assert found["logprob"][0] == found["logprob"][1]
    assert float(found["modified_entropy"].diff()[0]) == pytest.approx(0, abs=1e-14)


def test_entropy_of_equal_logits_is_that_of_the_uniform():
    found = posterior_columns(torch.zeros(1, 1000), torch.tensor([3]))
    assert found["entropy"][0] == pytest.approx(math.log(1000), rel=1e-12)
    assert found["top3"][0].tolist() == pytest.approx([1e-3] * 3, rel=1e-12)
    assert found["scaled_logit"][0] == pytest.approx(-math.log(999), rel=1e-12)


@pytest.mark.parametrize("shift", [-1e4, 7.25, 1e4])
def test_a_common_shift_of_logits_changes_nothing(shift):
    logits = torch.randn(50, 5, dtype=torch.float64).mul(4).round(decimals=2)
    labels = torch.randint(5, (50,))
    shifted = posterior_columns(logits + shift, labels)
    for name, column in posterior_columns(logits, labels).items():
        np.testing.assert_allclose(shifted[name], column, rtol=1e-7, atol=1e-9, err_msg=name)


def test_rows_do_not_see_each_other():
    logits, labels = torch.randn(64, 10) * 5, torch.randint(10, (64,))
    together = posterior_columns(logits, labels)
    for name, column in together.items():
        alone = torch.cat([posterior_columns(logits[i : i + 1], labels[i : i + 1])[name] for i in range(64)])
        np.testing.assert_allclose(alone, column, rtol=1e-14, err_msg=name)


def test_shapes_and_types():
    for n, classes, k in [(0, 4, 3), (1, 2, 2), (5, 3, 3)]:
        found = posterior_columns(torch.randn(n, classes) * 9, torch.zeros(n, dtype=torch.int32))
        assert found["top3"].shape == (n, k)
        assert all(found[name].shape == (n,) for name in ONE_PER_SAMPLE)


def test_inputs_stay_as_they_are():
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.randint(4, (9,))
    before = logits.clone(), labels.clone()
    posterior_columns(logits, labels)
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_are_refused(dtype, classes):
    p = torch.softmax(torch.randn(20, classes) * 3, 1).to(dtype)
    with pytest.raises(UsageError, match=r"all 20 rows lie in \[0, 1\] and sum to 1.*before the softmax"):
        posterior_columns(p, torch.zeros(20, dtype=torch.long))
    logs = torch.log(p.float().clamp(min=1e-12))
    assert posterior_columns(logs, torch.zeros(20, dtype=torch.long))["logprob"].isfinite().all()


WRITTEN = {
    "three digits": lambda p: p.double().round(decimals=3),
    "three digits in 32 bits": lambda p: p.round(decimals=3),
    "clipped": lambda p: p.clamp(1e-6, 1 - 1e-6),
    "clipped in 64 bits": lambda p: p.double().clamp(1e-6, 1 - 1e-6),
    "two digits": lambda p: p.double().round(decimals=2),
    "three digits, clipped": lambda p: p.round(decimals=3).clamp(1e-6, 1 - 1e-6),
    "clipped, four digits": lambda p: p.clamp(1e-6, 1 - 1e-6).double().round(decimals=4),
    "kept in 16 bits": lambda p: p.half().float(),
    "kept in bfloat16": lambda p: p.bfloat16().double(),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_probabilities_are_refused_however_coarsely_they_are_written(written, scale, classes):
    generator = torch.Generator().manual_seed(0)
    p = written(torch.softmax(torch.randn(50, classes, generator=generator) * scale, 1))
    with pytest.raises(UsageError, match="what looks like probabilities: all 50 rows"):
        posterior_columns(p, torch.zeros(50, dtype=torch.long))


def test_logits_that_are_not_all_probabilities_pass():
    almost = torch.tensor([[0.2, 0.8], [0.3, 0.6]])
    assert posterior_columns(almost, torch.tensor([0, 1]))["correct"].tolist() == [0, 1]


@pytest.mark.parametrize("classes", [2, 10, 1000, 600_000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_of_a_head_that_starts_at_zero_pass(classes, dtype):
    logits = torch.zeros(3, classes, dtype=dtype)
    assert posterior_columns(logits, torch.zeros(3, dtype=torch.long))["correct"].tolist() == [1, 1, 1]


def refusals(draws):
    """How many of these batches of logits are taken for probabilities."""
    found = 0
    for logits in draws:
        try:
            posterior_columns(logits, torch.zeros(len(logits), dtype=torch.long))
        except UsageError:
            found += 1
    return found


def test_logits_of_a_constant_network_with_two_classes_are_hardly_ever_refused():
    """One pair in 500 sums to 1 within three digits, and of these one in 80 within full precision."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(200_000, 2, generator=generator)
    near = pairs[(pairs.sum(1) - 1).abs() < 1e-3]
    assert len(near) > 300
    assert refusals(pair.expand(20, 2) for pair in near) < len(near) / 30


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.1])
def test_logits_of_an_untrained_network_that_lie_close_to_0_and_1_are_not_refused(spread):
    generator = torch.Generator().manual_seed(0)
    moved = torch.rand(400, 30, 2, generator=generator) * spread
    batches = (torch.tensor([0.0051234, 0.9991234 - spread]) * torch.ones(30, 2) + rows for rows in moved)
    assert refusals(batches) == 0


@pytest.mark.parametrize("classes", [2, 5, 50])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_probabilities_of_independent_classes_are_refused_where_they_saturate(classes, dtype):
    labels = torch.arange(40) % classes
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(0)) - 6
    logits[torch.arange(40), labels] += 13
    with pytest.raises(UsageError, match=r"independent classes: all 40 rows lie in \[0, 1\].*before the sigmoid"):
        posterior_columns(logits.sigmoid().to(dtype), labels)
    # Real logits beside them, or too few rows to tell, pass.
    assert posterior_columns(logits, labels)["correct"].mean() > 0.9
    assert posterior_columns(logits.sigmoid()[:19], labels[:19])["correct"].mean() > 0.9
    assert posterior_columns(logits.sigmoid() * 1.01, labels)["correct"].mean() > 0.9


@pytest.mark.parametrize(
    "logits, labels, match",
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), r"shape \(3,\)"),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), "torch.int64"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "at least 2 classes, found 1 for 3 samples"),
        (torch.zeros(3, 0), torch.zeros(3, dtype=torch.long), "found 0 for 3"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), r"integers \[3\]"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.long), r"integers \[3\]"),
        (torch.zeros(3, 2), torch.zeros(3), "torch.float32"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), "torch.bool"),
        (torch.zeros(3, 2), torch.tensor([0, 2, -1]), r"2 of 3 labels lie outside 0..1 .* found -1 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, match):
    with pytest.raises(UsageError, match=match):
        posterior_columns(logits, labels)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_are_refused_with_their_count(bad):
    logits = torch.randn(5, 3)
    logits[3, 1] = logits[4, 0] = logits[4, 2] = bad
    with pytest.raises(NonFiniteError, match=r"2 of 5 rows of logits .* the first is row 3"):
        posterior_columns(logits, torch.zeros(5, dtype=torch.long))
