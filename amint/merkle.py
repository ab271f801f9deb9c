"""Merkle trees over SHA-256: one root for many leaves, and short proofs that a leaf is under it.

Source: RFC 6962, section 2.1, and RFC 9162, section 2.1.3, for the shape of the tree and its proofs. Leaves and nodes
are hashed under different first bytes, so that no node passes for a leaf (a second preimage). Unlike there, the root
also covers the number of leaves: a proof holds for one size only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from amint.errors import UsageError

__all__ = ["MerkleTree", "check", "leaf_hash"]

_LEAF, _NODE, _ROOT = b"\x00", b"\x01", b"\x02"
_SIZE = 32


def leaf_hash(content: bytes) -> bytes:
    """The 32 bytes that stand for a leaf's content."""
    return hashlib.sha256(_LEAF + content).digest()


class MerkleTree:
    """A tree over leaf hashes, kept in memory: 64 bytes a leaf.

    Args:
        leaves: from :func:`leaf_hash`, in order; at least one.

    Raises:
        UsageError: there is no leaf, or one is not 32 bytes long.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        hashes = list(leaves)
        if not hashes or any(len(leaf) != _SIZE for leaf in hashes):
            raise UsageError(f"a Merkle tree needs at least one leaf, each of {_SIZE} bytes, got {len(hashes)} leaves")
        self._levels = [b"".join(hashes)]
        while len(self._levels[-1]) > _SIZE:
            self._levels.append(_parents(self._levels[-1]))

    def __len__(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // _SIZE

    @property
    def head(self) -> bytes:
        """The Merkle tree hash of RFC 6962."""
        return self._levels[-1]

    @property
    def root(self) -> bytes:
        """The head and the number of leaves in one hash."""
        return _root(self.head, len(self))

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings on the way from a leaf to the root, 32 bytes each, at most the binary logarithm of the size.

        Raises:
            UsageError: there is no such leaf.
        """
        if not 0 <= index < len(self):
            raise UsageError(f"there is no leaf {index}; the tree has {len(self)}")
        path = []
        for level in self._levels[:-1]:
            sibling = _node(level, index ^ 1)
            # The last node of an odd level has none and is its own parent.
            if sibling:
                path.append(sibling)
            index //= 2
        return tuple(path)


def check(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf hash stands at a place under a root.

    Args:
        leaf: from :func:`leaf_hash`.
        index, size: the leaf's place and the number of leaves.
        path: from :meth:`MerkleTree.proof`.
        root: from :attr:`MerkleTree.root`.
    """
    if not 0 <= index < size < 2**64 or len(leaf) != _SIZE or any(len(sibling) != _SIZE for sibling in path):
        return False
    siblings, node, last = iter(path), leaf, size - 1
    while last:
        if index % 2 or index < last:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            node = _parent(sibling, node) if index % 2 else _parent(node, sibling)
        index, last = index // 2, last // 2
    return next(siblings, None) is None and _root(node, size) == root


def _parents(level: bytes) -> bytes:
    pairs = range(len(level) // (2 * _SIZE))
    above = [_parent(_node(level, 2 * i), _node(level, 2 * i + 1)) for i in pairs]
    return b"".join(above) + level[2 * _SIZE * len(pairs) :]


def _node(level: bytes, index: int) -> bytes:
    return level[_SIZE * index : _SIZE * (index + 1)]


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _root(head: bytes, size: int) -> bytes:
    return hashlib.sha256(_ROOT + size.to_bytes(8, "big") + head).digest()
