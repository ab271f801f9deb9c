"""Committing to samples by role; the private side of a commitment."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from amint.batches import Source
from amint.commitments.samples import sample_digests
from amint.commitments.statement import (
    ROLES,
    check_drawn,
    check_public,
    draw_of,
    parsed,
    read_json,
    statement_of,
    write_json,
)
from amint.errors import RoleOverlapError, UsageError
from amint.merkle import MerkleTree, leaf_hash
from amint.roles import Roles

__all__ = ["Commitment", "commit", "leaf"]

_DIGEST = 32


@dataclass(frozen=True)
class Commitment:
    """A commitment with its secret; made by :func:`commit`, kept by the owner.

    Attributes:
        secret: what the salts derive from.
        digests: role -> the SHA-256 of each sample, 32 bytes each, in order.
        draw: how the roles were drawn, as plain values, or None.
    """

    secret: bytes = field(repr=False)
    digests: Mapping[str, tuple[bytes, ...]] = field(repr=False)
    draw: Mapping[str, Any] | None = None

    @property
    def root(self) -> str:
        """64 hexadecimal digits that pin every sample, its role and place, the counts and the draw."""
        return str(self.public()["root"])

    def public(self) -> dict[str, Any]:
        """What may be published, as plain JSON values."""
        return statement_of(self.tree.root, {role: len(self.digests[role]) for role in ROLES}, self.draw)

    @cached_property
    def tree(self) -> MerkleTree:
        """The tree over all leaves: the members first, then external, then calibration."""
        return MerkleTree(
            leaf(self.salt(role, place), role, place, digest)
            for role in ROLES
            for place, digest in enumerate(self.digests[role])
        )

    def salt(self, role: str, place: int) -> bytes:
        """The salt of one leaf, 32 bytes, which tells nothing about any other."""
        return hmac.digest(self.secret, f"amint-salt\n{role}\n{place}".encode(), "sha256")

    def publish(self, path: str | Path) -> Path:
        """Write :meth:`public` as a JSON file."""
        return write_json(path, self.public())

    def save(self, path: str | Path) -> Path:
        """Write everything as a new JSON file that only its owner may read (mode 0600).

        Raises:
            UsageError: there is a file already; it may hold the only secret of a published root.
        """
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(self._private(), file)
        except FileExistsError as error:
            raise UsageError(f"{path} exists already and will not be replaced; choose another name") from error
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Commitment:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: not such a file, damaged, or edited.
        """

        def parse(data: Any) -> Commitment:
            digests = {role: _cut(bytes.fromhex(data["digests"][role])) for role in ROLES}
            found = Commitment(bytes.fromhex(data["secret"]), digests, data["public"]["draw"])
            if found._private() != {**data, "public": check_public(data["public"])}:
                raise ValueError("its samples and its root do not belong together; it was edited or damaged")
            return found

        return parsed(
            read_json(path), parse, f"{path} is not the private file of a commitment, from amint.commit(...).save(path)"
        )

    def _private(self) -> dict[str, Any]:
        digests = {role: b"".join(found).hex() for role, found in self.digests.items()}
        return {"secret": self.secret.hex(), "digests": digests, "public": self.public()}


def commit(
    *,
    members: Source,
    external: Source = (),
    calibration: Source = (),
    roles: Roles | None = None,
    groups: Tensor | ArrayLike | None = None,
    secret: bytes | None = None,
) -> Commitment:
    """Commit to every sample of a training run, before it starts.

    Args:
        members, external, calibration: loaders, datasets or tensors of rows, as the model is fed them but without
            random augmentation. A loader that shuffles a dataset is read in the dataset's order.
        roles: the draw from :func:`amint.assign_roles`, where the three are its rows in its order.
        groups: as they were given to :func:`amint.assign_roles`, if they were. The public part holds their hash.
        secret: at least 32 random bytes that nobody else knows and that serve for one commitment only; None to draw
            them. The same secret and samples give the same root.

    Raises:
        RoleOverlapError: a sample in two roles.
        UsageError: no samples, samples that differ each time they are read, a short secret, or roles that are not of
            this size or not what their seed and groups give.
    """
    secret = secrets.token_bytes(32) if secret is None else secret
    if len(secret) < 32:
        raise UsageError(f"the secret must be at least 32 random bytes, got {len(secret)}; pass None to draw one")
    sources = dict(zip(ROLES, (members, external, calibration), strict=True))
    digests = {role: sample_digests(role, source) for role, source in sources.items()}
    counts = {role: len(found) for role, found in digests.items()}
    if not any(counts.values()):
        raise UsageError("there is nothing to commit to: the loaders, datasets or tensors yielded no row")
    _refuse_overlaps(digests)
    if roles is not None:
        sizes = {role: len(getattr(roles, role)) for role in ROLES}
        if sizes != counts:
            raise UsageError(f"the roles were drawn for {sizes}, but the data holds {counts}")
        check_drawn(roles, groups)
    return Commitment(secret, digests, None if roles is None else draw_of(roles))


def leaf(salt: bytes, role: str, place: int, digest: bytes) -> bytes:
    """The leaf hash of one sample: its salt, its own hash, its role and its row number there."""
    return leaf_hash(salt + digest + f"{role}\n{place}".encode())


def _refuse_overlaps(digests: Mapping[str, tuple[bytes, ...]]) -> None:
    for i, role in enumerate(ROLES):
        for other in ROLES[i + 1 :]:
            twice = set(digests[role]) & set(digests[other])
            if twice:
                place = next(place for place, digest in enumerate(digests[other]) if digest in twice)
                raise RoleOverlapError(
                    f"{len(twice)} different samples are {role} and {other} at once (first at row {place} of {other}). "
                    "A sample can play one role only; see amint.without and amint.assign_roles"
                )


def _cut(joined: bytes) -> tuple[bytes, ...]:
    if len(joined) % _DIGEST:
        raise ValueError("the hashes of its samples are cut short")
    return tuple(joined[i : i + _DIGEST] for i in range(0, len(joined), _DIGEST))
