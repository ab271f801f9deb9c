"""Which of many images look nearly the same: groups of perceptual hashes, without comparing all with all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from amint.perceptual import BITS, MOST_BITS, Hashes, check_hashes

__all__ = ["near_groups"]

# Of pairs that wait to be joined into groups: more would take more memory than the hashes.
_MOST_PAIRS = 2**20


def near_groups(hashes: Hashes, most_bits: int = MOST_BITS) -> Hashes:
    """Groups of images that are linked by near ones: int64 ``[n]``, the row number of each one's first relative.

    A row without a near one is a group by itself, and so is every blank image.

    Raises as :func:`amint.perceptual.nearest`.
    """
    hashes = check_hashes("hashes", hashes, most_bits)
    distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    # Every hash points to one of its group.
    leader = np.arange(len(distinct))
    for pairs in _near_pairs(distinct, most_bits):
        ends = np.concatenate([pairs, [np.arange(len(leader)), leader]], axis=1)
        graph = sparse.coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), shape=(len(leader),) * 2)
        label = csgraph.connected_components(graph, directed=False)[1]
        leader = np.unique(label, return_index=True)[1][label]
    earliest = np.full(len(distinct), len(hashes), np.int64)
    np.minimum.at(earliest, leader, first)
    return np.where(hashes == 0, np.arange(len(hashes)), earliest[leader][which])


def _near_pairs(distinct: Hashes, most_bits: int) -> Iterator[Hashes]:
    """All pairs of different hashes, not blank, that differ in at most so many bits.

    Yields row numbers ``[2, p]``, some pairs twice.

    Two hashes that differ in b bits agree in one of b + 1 pieces, so only those that share a piece are compared: on
    random hashes one pair in some thousand. Source: multi-index hashing (Norouzi, Punjani and Fleet 2012), section 3.
    """
    rows = np.flatnonzero(distinct)
    held, waiting = list[Hashes](), 0
    edges = np.linspace(0, BITS, most_bits + 2).astype(np.uint64)
    for low, high in itertools.pairwise(edges):
        piece = distinct[rows].view(np.uint64) << (np.uint64(BITS) - high) >> (np.uint64(BITS) - high + low)
        rows, piece = (values[np.argsort(piece, kind="stable")] for values in (rows, piece))
        # Each hash against the one that many places further on, as long as that shares its piece.
        at, step = np.arange(len(rows)), 1
        while len(at := at[at + step < len(rows)]) and len(at := at[piece[at] == piece[at + step]]):
            a, b = rows[at], rows[at + step]
            near = np.bitwise_count(distinct[a].view(np.uint64) ^ distinct[b].view(np.uint64)) <= most_bits
            held.append(np.stack([a[near], b[near]]))
            waiting, step = waiting + int(near.sum()), step + 1
            if waiting > _MOST_PAIRS:
                yield np.concatenate(held, axis=1)
                held, waiting = [], 0
    yield np.concatenate([np.empty((2, 0), np.int64), *held], axis=1)
