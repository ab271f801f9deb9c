import numpy as np
import pytest
from scipy import stats

from amint.dependence import groups_of_copies, p_value_of_groups, share_of_draws
from amint.ranksum import rank_sum_p


def hashes(n, seed):
    """Of pictures that have nothing in common: about 32 of 64 bits differ."""
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, n, dtype=np.int64) | 1


def look_alikes(n, bits, seed):
    """Of pictures of one kind: each is one of a few, but for some bits."""
    rng = np.random.default_rng(seed)
    kinds = hashes(3, 9)[rng.integers(0, 3, n)]
    return kinds ^ np.bitwise_or.reduce(1 << rng.integers(1, 60, (n, bits)), axis=1)


def test_pictures_that_differ_in_few_bits_are_one_group():
    one = hashes(1, 0)[0]
    looks = np.array([*hashes(2, 1), one, one ^ 6, one ^ 96, one ^ 6], np.int64)
    assert groups_of_copies(looks, hashes(500, 2), 6).tolist() == [0, 1, 2, 2, 2, 2]
    assert groups_of_copies(None, hashes(500, 2), 6).tolist() == list(range(6))
    assert groups_of_copies(looks, None, 6).tolist() == list(range(6))
    assert groups_of_copies(looks[:1], hashes(500, 2), 1).tolist() == [0]


def test_what_always_looks_alike_is_taken_for_copies_only_where_it_is_nearer_than_usual():
    known, own = look_alikes(2_000, 1, 0), look_alikes(40, 1, 1)
    assert len(np.unique(groups_of_copies(own, hashes(2_000, 3), 40))) <= 3
    assert len(np.unique(groups_of_copies(own, known, 40))) == 40
    assert groups_of_copies(own[:2], known, 2).tolist() == [0, 1]


@pytest.mark.parametrize("groups, share", [([0, 1, 2], 1.0), ([0, 0, 0, 0], 0.25), ([0, 0, 2, 3], 4 / 6), ([5], 1.0)])
def test_the_share_of_independent_draws(groups, share):
    assert share_of_draws(np.array(groups)) == pytest.approx(share)


def test_without_groups_the_p_value_stays():
    assert p_value_of_groups(1e-40, 0.5, 1.0) == 1e-40
    assert p_value_of_groups(1e-40, 0.2, 0.5) == 0.2
    assert p_value_of_groups(0.02, 1e-9, 0.25) == pytest.approx(stats.norm.sf(stats.norm.isf(0.02) / 2))
    assert p_value_of_groups(0.9, 0.1, 0.5) <= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("distinct, copies", [(1, 4), (1, 20), (3, 4), (6, 2)])
def test_copies_of_unused_pictures_raise_no_false_alarms(copies, distinct):
    rng, repeats, alphas = np.random.default_rng(copies), 2_000, np.array([0.01, 0.05])
    alarms, careless = np.zeros(2), np.zeros(2)
    groups = np.repeat(np.arange(distinct) * copies, copies)
    share, first = share_of_draws(groups), np.unique(groups)
    for _ in range(repeats):
        known = rng.normal(size=300)
        scores = np.repeat(rng.normal(size=distinct), copies) + rng.normal(0, 0.01, distinct * copies)
        of_all = rank_sum_p(scores, known)
        careless += of_all <= alphas
        alarms += p_value_of_groups(of_all, rank_sum_p(scores[first], known), share) <= alphas
    assert (alarms <= stats.binom.isf(1e-4, repeats, alphas)).all()
    assert (careless > stats.binom.isf(1e-4, repeats, alphas)).all(), "this test must be able to fail"


@pytest.mark.slow
def test_a_kind_of_picture_that_is_grouped_by_chance_raises_no_false_alarms():
    """Half of all pictures are of a kind that scores low and is taken for one group: left out, the rest score high."""
    rng, repeats, alarms, careless = np.random.default_rng(0), 2_000, 0, 0
    for _ in range(repeats):
        low = rng.random(340) < 0.5
        scores = rng.normal(size=340) - 2 * low
        own, known, alike = scores[:40], scores[40:], low[:40]
        groups = np.where(alike, np.argmax(alike), np.arange(40))
        of_all, of_firsts = rank_sum_p(own, known), rank_sum_p(own[np.unique(groups)], known)
        alarms += p_value_of_groups(of_all, of_firsts, share_of_draws(groups)) <= 0.01
        careless += of_firsts <= 0.01
    limit = stats.binom.isf(1e-4, repeats, 0.01)
    assert alarms <= limit < careless
