"""Who plays which role: members, external, calibration; no sample may play two.

Rows are recognised by their content: a 64-bit fingerprint of the very numbers the model is fed. Random
augmentation changes those numbers, and then only what is really equal is found.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Subset

from amint.batches import Source, input_batches
from amint.errors import RoleOverlapError, UsageError
from amint.records import Sketch

__all__ = ["Ledger", "Roles", "assign_roles", "check_disjoint", "fingerprints", "groups_digest", "without"]


def fingerprints(rows: Tensor) -> Tensor:
    """A 64-bit number for the content of each row.

    Args:
        rows: ``[n, ...]``; compared as float32.

    Returns:
        int64 ``[n]``, equal for equal rows; two different rows agree with probability about 2**-64. It guards
        against mistakes, not against somebody who searches for collisions. Of no rows, none.
    """
    flat = rows.detach().reshape(len(rows), math.prod(rows.shape[1:])).float().contiguous()
    # -0.0 and 0.0 are equal numbers with different bits.
    bits = (flat + 0.0).view(torch.int32).to(torch.int64)
    mixed = bits * 0x2545F4914F6CDD1D
    mixed = mixed ^ (mixed >> 29)
    total: Tensor = (mixed * _weights(flat.shape[1]).to(flat.device)).sum(dim=1)
    return total ^ (total >> 32)


@lru_cache(maxsize=8)
def _weights(size: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(0x616D696E74))
    return torch.from_numpy(generator.integers(-(2**63), 2**63 - 1, size, dtype=np.int64) | 1)


class Ledger:
    """Remembers the fingerprints seen in each role and refuses a row in a second role.

    Attributes:
        MOST: how many different rows of a role are remembered, the first ones.
        sketch: what else is kept of members and external rows, for the controls of an audit.
    """

    # A fingerprint in a Python set takes about 60 bytes; this bounds the ledger to a few hundred megabytes.
    MOST: Final = 2_000_000

    def __init__(self) -> None:
        self._seen: dict[str, set[int]] = {}
        self.sketch = Sketch()

    def add(self, role: str, rows: Tensor) -> None:
        """Note rows ``[n, ...]`` in a role.

        Raises:
            RoleOverlapError: some of them were seen in another role.
        """
        numbers = fingerprints(rows)
        marks = numbers.tolist()
        for other, seen in self._seen.items():
            twice = [i for i, mark in enumerate(marks) if mark in seen] if other != role else []
            if twice:
                less, more = (other, role) if role == "members" else (role, other)
                raise RoleOverlapError(
                    f"{len(twice)} of {len(marks)} rows given as {role} were already seen as {other} (rows "
                    f"{twice[:5]} of this batch). A sample can play one role only; take them out of one of the two, "
                    f"for instance with amint.without({less}, {more})"
                )
        mine = self._seen.setdefault(role, set())
        if len(mine) < self.MOST:
            first = {mark: i for i, mark in reversed(list(enumerate(marks))) if mark not in mine}
            mine.update(first)
            if role in ("members", "external"):
                fresh = sorted(first.values())
                self.sketch.add(role, rows[fresh].detach(), numbers[fresh])

    def count(self, role: str) -> int:
        """How many different rows were seen in a role."""
        return len(self._seen.get(role, ()))

    def marks(self, role: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Their fingerprints, in no order."""
        return np.fromiter(self._seen.get(role, ()), np.int64)

    def state_dict(self) -> dict[str, Tensor]:
        """Role -> int64 fingerprints, and the columns of the sketch."""
        seen = {role: torch.tensor(sorted(marks), dtype=torch.int64) for role, marks in self._seen.items()}
        return seen | self.sketch.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what was seen; states of several processes may be given one after the other."""
        self._seen = {role: set(marks.tolist()) for role, marks in state.items() if "." not in role}
        self.sketch.load_state_dict({name: column for name, column in state.items() if "." in name})


def check_disjoint(**roles: Source) -> dict[str, int]:
    """Check that no row stands in two roles, for data at hand.

    Args:
        roles: role -> loader, dataset or tensor of rows, for example ``members=a, external=b, calibration=c``.

    Returns:
        role -> number of rows.

    Raises:
        RoleOverlapError: names each overlapping pair with the number of common rows and the first of them.
    """
    marks = {role: _marks(source) for role, source in roles.items()}
    names = list(marks)
    overlaps = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            common = np.flatnonzero(np.isin(marks[second], marks[first]))
            if len(common):
                overlaps.append(
                    f"{len(common)} of {len(marks[second])} {second} rows are also {first} (first at rows "
                    f"{common[:5].tolist()} of {second})"
                )
    if overlaps:
        raise RoleOverlapError(
            "; ".join(overlaps) + ". A sample can play one role only; see amint.without and amint.assign_roles"
        )
    return {role: len(values) for role, values in marks.items()}


def without(dataset: Any, *others: Source) -> Subset[Any]:
    """The rows of a dataset that are in none of the others, by content, as a Subset.

    Args:
        dataset: a dataset with an index.
        others: loaders, datasets or tensors whose rows are to be left out.
    """
    taken = np.concatenate([_marks(other) for other in others])
    keep = np.flatnonzero(~np.isin(_marks(dataset), taken))
    return Subset(dataset, keep.tolist())


def _marks(source: Source) -> np.ndarray[Any, np.dtype[np.int64]]:
    batches = [fingerprints(rows).cpu().numpy() for rows in input_batches(source)]
    return np.concatenate(batches) if batches else np.empty(0, np.int64)


@dataclass(frozen=True)
class Roles:
    """Disjoint row numbers, each sorted, and the question that they answer.

    Attributes:
        members, external, calibration, unseen: row numbers.
        seed: that gave them.
        asked: how many members, external and calibration rows were asked for; groups can give others.
        groups_sha256: hash of the groups they were drawn in, see :func:`groups_digest`, or None.
    """

    members: tuple[int, ...]
    external: tuple[int, ...]
    calibration: tuple[int, ...]
    unseen: tuple[int, ...]
    seed: int
    asked: tuple[int, int, int]
    groups_sha256: str | None = None

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{role}={len(getattr(self, role))}" for role in ("members", "external", "calibration", "unseen")
        )
        return f"<Roles: {counts}, seed={self.seed}>"


def assign_roles(
    n: int, *, members: int, external: int, calibration: int, seed: int, groups: Tensor | ArrayLike | None = None
) -> Roles:
    """Draw disjoint roles at random; what is left over is unseen.

    A random draw is what makes calibration samples exchangeable with samples nothing was trained on, and that
    is what the false-alarm guarantee rests on.

    Samples that depend on each other (frames of one film, recordings of one speaker) are drawn as a group: no group
    stands in two roles. Each role gets its share of the groups, ``size * number of groups // n`` of them, so groups
    of one size never give more rows than asked for, and groups of different sizes about as many. That share must
    not depend on which groups come up: filling a role up to a number of rows would keep large groups out of it, and
    calibration would no longer be exchangeable with unseen data.

    It is then the groups that are exchangeable, not their rows. The p-value of a submitted row holds if calibration
    has one row of each of its groups, drawn at random, and the submission's row was drawn from its group in the same
    way; with all the rows of K calibration groups of one size, false alarms can be more frequent than alpha, by at
    most 1 / (K + 1). A test of a whole submission takes its rows as independent: submit one row a group.
    (Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 2023;
    Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023.)

    Args:
        n: number of samples.
        members, external, calibration: how many of each.
        seed: recorded, so that the draw can be repeated and checked.
        groups: ``[n]``, equal for samples of one group; None if samples are independent, which is the same as
            a group for each.

    Raises:
        UsageError: numbers that count nothing, more samples than there are, groups of another length, or a role that
            would get none.
    """
    sizes = {"members": members, "external": external, "calibration": calibration}
    wrong = {role: size for role, size in sizes.items() if not _counts(size)}
    if wrong:
        raise UsageError(f"members, external and calibration are whole numbers of rows, 0 or more; got {wrong}")
    if sum(sizes.values()) > n:
        raise UsageError(
            f"cannot draw {members} members + {external} external + {calibration} calibration = "
            f"{sum(sizes.values())} rows out of {n}; ask for fewer"
        )
    group_of_row = _numbered(groups, n)
    count = int(group_of_row.max(initial=-1)) + 1
    shares = {role: size * count // max(n, 1) for role, size in sizes.items()}
    for role, size in sizes.items():
        if size and not shares[role]:
            raise UsageError(
                f"cannot draw {size} {role}: the {n} rows come in {count} groups, which are not to be split; ask for "
                f"{-(-n // count)} or more"
            )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    role_of_group = np.full(count, len(sizes))
    for number, drawn in enumerate(np.split(order, np.cumsum(list(shares.values())))):
        role_of_group[drawn] = number
    role_of_row = role_of_group[group_of_row]
    chosen = [tuple(np.flatnonzero(role_of_row == number).tolist()) for number in range(len(sizes) + 1)]
    asked = int(members), int(external), int(calibration)
    return Roles(chosen[0], chosen[1], chosen[2], chosen[3], seed, asked, groups_digest(groups, n))


def groups_digest(groups: Tensor | ArrayLike | None, n: int) -> str | None:
    """The SHA-256 of a column of groups, 64 hexadecimal digits; None if each row is a group of its own, in order.

    Groups count by their place among the sorted groups, as a draw sees them, hashed as little-endian int64: neither
    dtype nor names matter, only the order of the names.

    Args:
        groups: ``[n]``, or None.
        n: number of rows.

    Raises:
        UsageError: groups of another length.
    """
    numbers = _numbered(groups, n)
    if np.array_equal(numbers, np.arange(n)):
        return None
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def _counts(size: object) -> bool:
    """Whether this is a number of rows."""
    return isinstance(size, Integral) and int(size) >= 0


def _numbered(groups: Tensor | ArrayLike | None, n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Groups numbered from 0."""
    if groups is None:
        return np.arange(n)
    given = np.asarray(groups.cpu() if isinstance(groups, Tensor) else groups)
    if given.shape != (n,):
        raise UsageError(f"expected a group for each of {n} rows, found groups of shape {given.shape}")
    return np.unique(given, return_inverse=True)[1].astype(np.int64)
