import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amint.errors import NonFiniteError, StepError, UsageError
from amint.external import ExternalStream
from amint.mixing import Mixture
from amint.negatives import HardNegatives, one_pixel_shift

ROWS = torch.randn(30, 1, 4, 4)


def mixture(ratio=1.0, negatives=None, rows=ROWS):
    return Mixture.of(ExternalStream(rows), ratio, negatives)


@settings(deadline=None)
@given(n=st.integers(1, 40), ratio=st.floats(0.001, 5))
def test_any_ratio_at_any_batch_size(n, ratio):
    (external,) = mixture(ratio).rows(torch.zeros(n, 1, 4, 4))
    assert len(external) == max(1, round(n * ratio))
    assert {tuple(row.flatten().tolist()) for row in external} <= {tuple(row.flatten().tolist()) for row in ROWS}


@pytest.mark.parametrize("members", [False, True])
def test_negatives_follow_the_external_rows(members):
    x = torch.randn(6, 1, 4, 4)
    external, *further = mixture(0.5, HardNegatives(lambda rows: rows.flip(-1), members)).rows(x)
    assert [len(rows) for rows in further] == ([3, 6] if members else [3])
    assert torch.equal(further[0], external.flip(-1))
    if members:
        assert torch.equal(further[1], x.flip(-1))


def test_a_bare_symmetry_turns_external_rows_only():
    assert mixture(1, one_pixel_shift).negatives == HardNegatives(one_pixel_shift, members=False)


def test_random_symmetries_leave_the_global_random_state_alone_and_repeat_with_the_position():
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        mixed = mixture(1, one_pixel_shift)
        runs.append([mixed.rows(torch.zeros(8, 1, 4, 4)) for _ in range(3)])
        assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(*runs, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("rows, dtype", [(torch.float64, torch.float32), (torch.float32, torch.bfloat16)])
def test_external_rows_take_on_the_members_precision(rows, dtype):
    (external,) = mixture(rows=ROWS.to(rows)).rows(torch.zeros(3, 1, 4, 4, dtype=dtype))
    assert external.dtype == dtype


def test_whole_numbers_mix_with_whole_numbers():
    (external,) = mixture(rows=torch.arange(12, dtype=torch.int32).view(4, 3)).rows(
        torch.zeros(4, 3, dtype=torch.int64)
    )
    assert external.dtype == torch.int64
    assert sorted(external.flatten().tolist()) == list(range(12))


@pytest.mark.parametrize(
    "members, message",
    [
        (torch.zeros(3, 1, 4, 5), r"external rows are torch.float32 \(1, 4, 4\), members torch.float32 \(1, 4, 5\)"),
        (torch.zeros(3, 4, 4), r"members torch.float32 \(4, 4\); give both the same preprocessing"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), r"members torch.uint8 \(1, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4), "empty batch; skip it"),
    ],
)
def test_members_unlike_the_external_rows(members, message):
    with pytest.raises(StepError, match=message):
        mixture().rows(members)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_rows_are_named(bad):
    members = torch.zeros(5, 1, 4, 4)
    members[[1, 3], 0, 2, 2] = bad
    with pytest.raises(NonFiniteError, match=r"2 of 5 member rows of this batch hold NaN or inf.* \(rows \[1, 3\]\)"):
        mixture().rows(members)
    external = ROWS.clone()
    external[7] = bad
    with pytest.raises(NonFiniteError, match=r"1 of 30 external rows of this batch hold NaN or infinity"):
        mixture(rows=external).rows(torch.zeros(30, 1, 4, 4))


@pytest.mark.parametrize("ratio", [0, -1, 1001, float("nan"), float("inf")])
def test_ratios_out_of_range(ratio):
    with pytest.raises(UsageError, match=f"ratio, external rows per member row, must be above 0 .* got {ratio}"):
        mixture(ratio)


def test_facts_are_plain_values():
    assert mixture(2).facts() == {"ratio": 2, "negatives": None, "negatives_of_members": False}
    facts = mixture(0.5, HardNegatives(one_pixel_shift, members=True)).facts()
    assert facts == {"ratio": 0.5, "negatives": "one_pixel_shift", "negatives_of_members": True}
