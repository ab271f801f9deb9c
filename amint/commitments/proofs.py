"""Proofs that one sample is under the root of a commitment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from amint.commitments.commitment import Commitment, leaf
from amint.commitments.samples import sample_digest
from amint.commitments.statement import ROLES, check_public, parsed, read_json, write_json
from amint.errors import InputError, UsageError
from amint.merkle import check

__all__ = ["Proof", "check_proof", "prove"]


@dataclass(frozen=True)
class Proof:
    """That one sample is under a root; made by :func:`prove`, shown to an auditor together with the sample.

    Attributes:
        public: the commitment's public part.
        role, place: what the sample was committed as, and its row number there, from 0.
        salt: of this one leaf.
        path: the siblings up to the tree's root.
    """

    public: Mapping[str, Any]
    role: str
    place: int
    salt: bytes
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        path = [sibling.hex() for sibling in self.path]
        return {"format": "amint-proof", **vars(self), "salt": self.salt.hex(), "path": path}

    @staticmethod
    def from_json(data: Any) -> Proof:
        """The inverse of :meth:`to_json`.

        Raises:
            InputError: not a proof.
        """

        def parse(data: Any) -> Proof:
            salt, path = bytes.fromhex(data["salt"]), tuple(bytes.fromhex(sibling) for sibling in data["path"])
            proof = Proof(check_public(data["public"]), data["role"], data["place"], salt, path)
            # The same values must not come in two spellings.
            if proof.to_json() != data or type(proof.place) is not int or proof.role not in ROLES:
                raise ValueError("a field is missing, added or of another kind")
            return proof

        return parsed(data, parse, "this is not a proof of inclusion")

    def save(self, path: str | Path) -> Path:
        """Write it as a JSON file."""
        return write_json(path, self.to_json())

    @staticmethod
    def load(path: str | Path) -> Proof:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: not such a file, or edited so that it is no proof at all.
        """
        return Proof.from_json(read_json(path))


def prove(commitment: Commitment, x: Tensor, *, place: int | None = None) -> Proof:
    """Prove that one sample is under a commitment's root, giving away nothing about the others but their number.

    Args:
        commitment: the owner's.
        x: one row without batch dimension, with the dtype and the numbers that were committed.
        place: which of several exact copies is meant: its row number in its role.

    Raises:
        InputError: this sample was not committed.
        UsageError: it was committed several times, and ``place`` does not say which is meant.
    """
    digest = sample_digest(x)
    found = [(role, i) for role in ROLES for i, other in enumerate(commitment.digests[role]) if other == digest]
    if not found:
        raise InputError(
            f"this sample ({x.dtype}, shape {tuple(x.shape)}) was not committed. Expected one row without batch "
            "dimension, bit for bit as it was given to commit: same dtype, same preprocessing, no augmentation"
        )
    chosen = [(role, i) for role, i in found if place in (None, i)]
    if len(chosen) != 1:
        places = ", ".join(str(i) for _, i in found[:20])
        raise UsageError(
            f"this sample stands at {len(found)} rows of {found[0][0]}: {places}. Say which with place=, got {place}"
        )
    role, i = chosen[0]
    public = commitment.public()
    path = commitment.tree.proof(_index(public["counts"], role, i))
    return Proof(public, role, i, commitment.salt(role, i), path)


def check_proof(published: str | Mapping[str, Any], proof: Proof, x: Tensor) -> bool:
    """Whether a proof shows that a sample is under the root that was published.

    Args:
        published: the root, or what :func:`read_public` gives. Take it from where it was published, not from whoever
            shows the proof.
        proof: from :meth:`Proof.load`.
        x: the auditor's own copy of the sample, one row without batch dimension.

    Raises:
        InputError: what was published, or the proof, is damaged.
    """
    root = published if isinstance(published, str) else check_public(published)["root"]
    public = check_public(proof.public)
    counts = public["counts"]
    # Salts of other lengths would let one content be read in two ways.
    if public["root"] != root or len(proof.salt) != 32 or not 0 <= proof.place < counts.get(proof.role, 0):
        return False
    hashed = leaf(proof.salt, proof.role, proof.place, sample_digest(x))
    index, tree = _index(counts, proof.role, proof.place), bytes.fromhex(public["tree"])
    return check(hashed, index, sum(counts.values()), proof.path, tree)


def _index(counts: Mapping[str, int], role: str, place: int) -> int:
    """The number of a sample's leaf: members first, then external, then calibration."""
    return sum(counts[other] for other in ROLES[: ROLES.index(role)]) + place
