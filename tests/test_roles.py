import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from amint.errors import RoleOverlapError, UsageError
from amint.ranksum import rank_sum_p
from amint.roles import Ledger, assign_roles, check_disjoint, fingerprints, without

pixels = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6)


def marks(rows, dtype=torch.float32):
    return fingerprints(torch.tensor(rows, dtype=dtype)).tolist()


@settings(deadline=None)
@given(a=pixels, b=pixels)
def test_equal_exactly_if_the_rows_are(a, b):
    one, other = marks([a, b])
    assert (one == other) == (a == b)
    assert marks([a])[0] == one


@settings(deadline=None)
@given(a=pixels, order=st.permutations(range(6)), signs=st.lists(st.sampled_from([1, -1]), min_size=6, max_size=6))
def test_order_and_signs_count(a, order, signs):
    moved, flipped = [a[i] for i in order], [x * s for x, s in zip(a, signs, strict=True)]
    original, one, other = marks([a, moved, flipped])
    assert (one == original) == (moved == a)
    assert (other == original) == (flipped == a)


@settings(deadline=None)
@given(a=pixels, i=st.integers(0, 5))
def test_the_smallest_change_counts(a, i):
    changed = np.float32(a)
    with np.errstate(over="ignore"):
        changed[i] = np.nextafter(changed[i], np.float32(np.inf))
    assume(np.isfinite(changed[i]))
    assert len(set(marks([a, changed.tolist()]))) == 2


@settings(deadline=None)
@given(values=st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_numbers_count_and_not_their_type_or_shape(values):
    rows = torch.tensor([values], dtype=torch.uint8)
    found = {int(fingerprints(rows.to(t))) for t in (torch.uint8, torch.int64, torch.float32, torch.float64)}
    found |= {int(fingerprints(rows.view(1, 2, 2))), int(fingerprints(rows.view(1, 1, 4).expand(3, 1, 4)[1:2]))}
    assert len(found) == 1


def test_zero_has_no_sign_and_memory_layout_does_not_count():
    assert len(set(marks([[0.0, 1.0], [-0.0, 1.0]]))) == 1
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(fingerprints(x), fingerprints(x.to(memory_format=torch.channels_last)))
    assert torch.equal(fingerprints(x[1:3]), fingerprints(x)[1:3])


def lit(positions, values, size=576):
    """Black images with a few lit pixels each."""
    rows = torch.zeros(len(positions), size)
    return rows.scatter_(1, positions, torch.tensor(values).expand(len(positions), -1))


def structured():
    """Batches of different images, each of a family that a weak hash confuses."""
    yield torch.zeros(1, 576)
    for value in (1.0, 2.0, 255.0, 0.5, -1.0, 1 / 255):
        yield lit(torch.arange(576)[:, None], [value])
    pairs = torch.triu_indices(576, 576, 1).T
    yield from (lit(part, [3.0, 7.0]) for part in pairs[:40_000].split(4096))
    # Nothing but signs differs here: a sum of weighted bits would see only half a fingerprint.
    yield from (1 - lit(part, [2.0, 2.0]) for part in pairs.split(4096))
    constant = torch.cat([torch.arange(-20_000, 0), torch.arange(1, 20_001)])
    yield from (part[:, None].expand(-1, 576) for part in (constant / 8192).split(4096))
    triples = torch.cartesian_prod(*[torch.arange(300.0, 330.0)] * 3)
    yield from (part.repeat(1, 192) for part in triples[triples.std(dim=1) > 0].split(4096))


def test_structured_images_do_not_collide():
    seen, total = set(), 0
    for rows in structured():
        seen.update(fingerprints(rows).tolist())
        total += len(rows)
    assert total > 200_000
    assert len(seen) == total


def test_the_ledger_counts_different_rows_of_a_role():
    ledger = Ledger()
    x = torch.randn(8, 3)
    ledger.add("members", x)
    ledger.add("members", x[:5])
    assert (ledger.count("members"), ledger.count("external")) == (8, 0)


def test_the_ledger_refuses_a_second_role_and_names_the_rows():
    ledger = Ledger()
    x = torch.randn(10, 3)
    ledger.add("members", x[:6])
    ledger.add("external", x[6:])
    rows = torch.cat([torch.randn(2, 3), x[4:5], torch.randn(1, 3), x[5:6]])
    message = "2 of 5 rows given as calibration were already seen as members (rows [2, 4] of this batch)"
    with pytest.raises(RoleOverlapError, match=re.escape(message) + r".*amint.without\(calibration, members\)"):
        ledger.add("calibration", rows)
    restored = Ledger()
    restored.load_state_dict(ledger.state_dict())
    assert (restored.count("members"), restored.count("external"), restored.count("calibration")) == (6, 4, 0)
    message = r"1 of 1 rows given as members were already seen as external.*amint.without\(external, members\)"
    with pytest.raises(RoleOverlapError, match=message):
        restored.add("members", x[7:8])


def test_overlaps_are_counted_and_named():
    x = torch.randn(30, 2, 3)
    data = {
        "members": TensorDataset(x[:10], torch.arange(10)),
        "external": DataLoader(TensorDataset(x[8:20]), batch_size=5),
        "calibration": torch.cat([x[25:], x[19:20], x[:1]]),
    }
    with pytest.raises(RoleOverlapError) as caught:
        check_disjoint(**data)
    for part in (
        "2 of 12 external rows are also members (first at rows [0, 1] of external)",
        "1 of 7 calibration rows are also members (first at rows [6] of calibration)",
        "1 of 7 calibration rows are also external (first at rows [5] of calibration)",
    ):
        assert part in str(caught.value)
    assert check_disjoint(members=x[:10], external=x[10:25], calibration=x[25:]) == {
        "members": 10,
        "external": 15,
        "calibration": 5,
    }


@settings(deadline=None)
@given(
    own=st.lists(st.integers(0, 9), max_size=12),
    taken=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_without_leaves_out_exactly_the_others_rows(own, taken):
    x = torch.randn(10, 4)
    left = without(TensorDataset(x[own]), *(x[rows] for rows in taken))
    gone = {row for rows in taken for row in rows}
    assert left.indices == [i for i, row in enumerate(own) if row not in gone]
    if left.indices:
        check_disjoint(left=left, **{f"taken {k}": x[rows] for k, rows in enumerate(taken[:1])})


@settings(deadline=None)
@given(n=st.integers(0, 200), data=st.data(), seed=st.integers(0, 2**32))
def test_roles_are_disjoint_covering_and_reproducible(n, data, seed):
    sizes = {}
    for role in ("members", "external", "calibration"):
        sizes[role] = data.draw(st.integers(0, n - sum(sizes.values())))
    roles = assign_roles(n, **sizes, seed=seed)
    parts = (roles.members, roles.external, roles.calibration, roles.unseen)
    assert [len(part) for part in parts] == [*sizes.values(), n - sum(sizes.values())]
    assert sorted(i for part in parts for i in part) == list(range(n))
    assert all(list(part) == sorted(part) and all(type(i) is int for i in part) for part in parts)
    assert roles == assign_roles(n, **sizes, seed=seed)
    assert roles.seed == seed


def test_the_seed_draws_the_roles_evenly():
    draws = [assign_roles(10, members=4, external=3, calibration=2, seed=seed).members for seed in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=10)
    # 800 expected for each; a standard deviation is 22.
    assert np.all(np.abs(counts - 800) < 5 * 22)


@pytest.mark.parametrize(
    "sizes",
    [(-1, 2, 2), (2, -1, 2), (2, 2, -1), (0.5, 2, 2), (3.0, 2, 2), (2, None, 2), ("2", 2, 2), (2, 2, float("nan"))],
)
def test_numbers_that_count_no_rows_are_refused(sizes):
    members, external, calibration = sizes
    with pytest.raises(UsageError, match="are whole numbers of rows, 0 or more; got"):
        assign_roles(10, members=members, external=external, calibration=calibration, seed=0)


@pytest.mark.parametrize("sizes", [(5, 5, 1), (11, 0, 0)])
def test_roles_that_cannot_be_drawn(sizes):
    members, external, calibration = sizes
    message = f"cannot draw {members} members + {external} external + {calibration} calibration = {sum(sizes)} rows"
    with pytest.raises(UsageError, match=re.escape(message) + " out of 10; ask for fewer"):
        assign_roles(10, members=members, external=external, calibration=calibration, seed=0)


def drawn(sizes, groups, seed=0):
    members, external, calibration = sizes
    return assign_roles(
        len(groups), members=members, external=external, calibration=calibration, seed=seed, groups=groups
    )


def parts(roles):
    return roles.members, roles.external, roles.calibration, roles.unseen


@settings(deadline=None)
@given(groups=st.lists(st.integers(-3, 12), max_size=120), data=st.data(), seed=st.integers(0, 2**32))
def test_no_group_stands_in_two_roles(groups, data, seed):
    n, count = len(groups), len(set(groups))
    sizes = [data.draw(st.integers(0, n // 3)) for _ in range(3)]
    shares = [size * count // max(n, 1) for size in sizes]
    assume(all(share or not size for size, share in zip(sizes, shares, strict=True)))
    roles = drawn(sizes, groups, seed)
    assert sorted(i for part in parts(roles) for i in part) == list(range(n))
    held = [{groups[i] for i in part} for part in parts(roles)]
    # Disjoint exactly if nothing is counted twice; the shares depend on nothing that was drawn.
    assert [len(part) for part in held] == [*shares, count - sum(shares)]
    assert set().union(*held) == set(groups)
    assert all(list(part) == sorted(part) and all(type(i) is int for i in part) for part in parts(roles))
    assert roles == drawn(sizes, torch.tensor(groups, dtype=torch.int64), seed)
    assert roles == drawn(sizes, np.array([f"{group + 3:02}" for group in groups]), seed)


@settings(deadline=None)
@given(size=st.integers(1, 9), count=st.integers(1, 30), data=st.data(), seed=st.integers(0, 2**32))
def test_groups_of_one_size_fill_a_role_up_to_less_than_one_of_them(size, count, data, seed):
    groups = data.draw(st.permutations([i for i in range(count) for _ in range(size)]))
    sizes = [data.draw(st.sampled_from([0, *range(size, max(size, len(groups) // 3))])) for _ in range(3)]
    assume(sum(sizes) <= len(groups))
    roles = drawn(sizes, groups, seed)
    for part, asked in zip(parts(roles), sizes, strict=False):
        assert asked - size < len(part) <= asked


@settings(deadline=None)
@given(n=st.integers(0, 60), data=st.data(), seed=st.integers(0, 2**32))
def test_a_group_for_each_row_is_the_draw_without_groups(n, data, seed):
    sizes = [data.draw(st.integers(0, n // 3)) for _ in range(3)]
    members, external, calibration = sizes
    plain = assign_roles(n, members=members, external=external, calibration=calibration, seed=seed)
    assert drawn(sizes, np.arange(n) * 7 - 3, seed) == plain


def test_large_groups_come_into_every_role_as_often_as_small_ones():
    groups = np.repeat(np.arange(10), [30, 1, 2, 1, 5, 1, 1, 4, 1, 4])
    held = np.zeros((4, 10))
    for seed in range(2000):
        for role, part in enumerate(parts(drawn((10, 15, 10), groups, seed))):
            held[role, np.unique(groups[list(part)])] += 1
    # Shares of 2, 3, 2 and what is left; a standard deviation is at most 22.
    for times, share in zip(held, (2, 3, 2, 3), strict=True):
        assert np.all(np.abs(times - 200 * share) < 5 * 22)


def test_p_values_of_one_row_a_group_hold():
    generator = np.random.default_rng(0)
    repeats, k, m, alpha = 4000, 19, 6, 0.1
    alone, together, dependent = [], [], []
    groups = np.repeat(np.arange(2 * k), m)
    for seed in range(repeats):
        # Nearly all of the spread lies between groups, as with frames of one sign.
        scores = generator.normal(size=2 * k)[groups] + 0.1 * generator.normal(size=len(groups))
        roles = drawn((0, 0, k * m), groups, seed)
        calibration, unseen = np.reshape(roles.calibration, (k, m)), np.reshape(roles.unseen, (k, m))
        one = scores[calibration[np.arange(k), generator.integers(m, size=k)]]
        submitted = scores[unseen[0, generator.integers(m)]]
        alone.append((1 + np.sum(one >= submitted)) / (k + 1))
        together.append((1 + np.sum(scores[calibration] >= submitted)) / (k * m + 1))
        # All frames of one sign as a submission of their own, against all calibration rows.
        dependent.append(rank_sum_p(scores[unseen[0]], scores[calibration].ravel()))
    error = 4 * np.sqrt(alpha * (1 - alpha) / repeats)
    assert abs(np.mean(np.array(alone) <= alpha) - alpha) < error
    assert np.mean(np.array(together) <= alpha) < alpha + 1 / (k + 1) + error
    assert np.mean(np.array(dependent) <= alpha) > 2 * alpha


@pytest.mark.parametrize("groups", [[0] * 9, [[0] * 10], 3])
def test_groups_of_another_length_are_refused(groups):
    with pytest.raises(UsageError, match="expected a group for each of 10 rows, found groups of shape"):
        assign_roles(10, members=4, external=3, calibration=2, seed=0, groups=groups)


def test_a_role_smaller_than_a_group_is_refused():
    groups = np.repeat(np.arange(10), 3)
    with pytest.raises(UsageError, match=r"cannot draw 2 calibration: the 30 rows come in 10 groups, .* 3 or more"):
        drawn((12, 3, 2), groups)
    assert len(drawn((12, 3, 3), groups).calibration) == 3
    assert drawn((12, 3, 0), groups).calibration == ()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 2, 4, 4)])
def test_no_rows_have_no_fingerprints(shape):
    found = fingerprints(torch.zeros(shape))
    assert (found.shape, found.dtype) == ((0,), torch.int64)


def test_batches_without_rows_change_nothing_in_the_roles():
    x = torch.arange(12.0).reshape(4, 3)
    ledger = Ledger()
    for batch in (x[:0], x[:2], x[:0]):
        ledger.add("members", batch)
    ledger.add("external", x[:0])
    assert (ledger.count("members"), ledger.count("external")) == (2, 0)
    again = Ledger()
    again.load_state_dict(ledger.state_dict())
    assert again.count("members") == 2
    assert check_disjoint(members=iter([x[:0], x[:2]]), external=iter([x[:0]]), calibration=[]) == {
        "members": 2, "external": 0, "calibration": 0,
    }  # fmt: skip
    assert list(without(x, iter([x[:0], x[1:2]])).indices) == [0, 2, 3]


def test_roles_are_shown_by_their_counts():
    assert repr(assign_roles(20, members=5, external=6, calibration=4, seed=3)) == (
        "<Roles: members=5, external=6, calibration=4, unseen=5, seed=3>"
    )
