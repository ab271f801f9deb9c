import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amint.errors import UsageError
from amint.merkle import MerkleTree, check, leaf_hash

SIZES = range(1, 71)


def leaves_of(size):
    return [leaf_hash(b"leaf %d" % i) for i in range(size)]


def by_definition(leaves):
    """RFC 6962, section 2.1, read literally."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def path_by_definition(m, leaves):
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*path_by_definition(m, leaves[:k]), by_definition(leaves[k:])]
    return [*path_by_definition(m - k, leaves[k:]), by_definition(leaves[:k])]


def flipped(data, place):
    return data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]


@pytest.mark.parametrize("size", SIZES)
def test_head_and_proofs_are_those_of_the_definition(size):
    leaves = leaves_of(size)
    tree = MerkleTree(leaves)
    assert len(tree) == size
    assert tree.head == by_definition(leaves)
    assert [list(tree.proof(i)) for i in range(size)] == [path_by_definition(i, leaves) for i in range(size)]


def test_the_published_vectors_of_certificate_transparency():
    # The leaves and heads that the reference implementation of RFC 6962 tests itself with.
    leaves = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243")]
    leaves += [bytes.fromhex("5051525354555657"), bytes.fromhex("606162636465666768696a6b6c6d6e6f")]
    heads = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, head in heads.items():
        assert MerkleTree(map(leaf_hash, leaves[:size])).head.hex() == head


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_proves_and_under_no_other_place_size_or_leaf(size):
    leaves = leaves_of(size)
    tree = MerkleTree(leaves)
    for i, leaf in enumerate(leaves):
        path = tree.proof(i)
        assert len(path) <= (size - 1).bit_length()
        assert check(leaf, i, size, path, tree.root)
        assert not any(check(leaf, j, size, path, tree.root) for j in range(-1, size + 2) if j != i)
        assert not any(check(leaf, i, other, path, tree.root) for other in range(-1, 2 * size + 2) if other != size)
        assert not any(check(other, i, size, path, tree.root) for other in leaves if other != leaf)
        assert not check(leaf, i, size, [*path, leaf], tree.root)
        assert not path or not check(leaf, i, size, path[:-1], tree.root)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), size=st.integers(1, 70))
def test_any_changed_bit_fails(data, size):
    leaves = leaves_of(size)
    tree = MerkleTree(leaves)
    i = data.draw(st.integers(0, size - 1))
    path, bit = tree.proof(i), data.draw(st.integers(0, 255))
    assert not check(flipped(leaves[i], bit), i, size, path, tree.root)
    assert not check(leaves[i], i, size, path, flipped(tree.root, bit))
    for k in range(len(path)):
        changed = [*path[:k], flipped(path[k], bit), *path[k + 1 :]]
        assert not check(leaves[i], i, size, changed, tree.root)
    if len(path) > 1:
        assert not check(leaves[i], i, size, path[::-1], tree.root)


@settings(deadline=None)
@given(a=st.lists(st.binary(max_size=40), min_size=1, max_size=20), b=st.lists(st.binary(max_size=40), min_size=1))
def test_different_contents_have_different_roots(a, b):
    roots = [MerkleTree(map(leaf_hash, contents)).root for contents in (a, b)]
    assert (roots[0] == roots[1]) == (a == b)


def test_a_node_does_not_pass_for_a_leaf():
    leaves = leaves_of(4)
    tree = MerkleTree(leaves)
    left = tree.proof(2)[1]
    assert left == by_definition(leaves[:2])
    assert tree.head == MerkleTree([left, tree.proof(0)[1]]).head
    assert tree.root != MerkleTree([left, tree.proof(0)[1]]).root
    assert leaf_hash(leaves[0] + leaves[1]) != left
    assert not check(left, 0, 2, tree.proof(0)[1:], tree.root)


@pytest.mark.parametrize("leaves", [[], [b""], [b"x" * 31], [b"x" * 32, b"x" * 33]])
def test_what_is_no_list_of_leaves(leaves):
    with pytest.raises(UsageError, match="at least one leaf, each of 32 bytes"):
        MerkleTree(leaves)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_are_no_other_leaves(index):
    with pytest.raises(UsageError, match=f"no leaf {index}; the tree has 3"):
        MerkleTree(leaves_of(3)).proof(index)


def test_hashes_of_other_lengths_never_check():
    tree = MerkleTree(leaves_of(3))
    leaf, path = leaves_of(3)[0], tree.proof(0)
    assert not check(leaf + b"x", 0, 3, path, tree.root)
    assert not check(leaf, 0, 3, [path[0][:-1], path[1]], tree.root)
    assert not check(leaf, 0, 3, path, tree.root[:-1])
    assert not check(leaf, 0, 2**64, path, tree.root)
