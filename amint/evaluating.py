"""The rows that a head is evaluated on: what it makes of them, and whether those called unseen are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amint.batches import Source, input_batches
from amint.errors import RoleOverlapError, UsageError
from amint.roles import Ledger, fingerprints

__all__ = ["UNKNOWN", "check_unseen", "scored", "unknown_members"]

UNKNOWN = "evaluated_members_unknown"
"""The fact that counts members evaluated that the head was not told of, as they are."""

Marks = NDArray[np.int64]


def scored(score: Callable[[Tensor], Tensor], source: Source) -> tuple[NDArray[np.float64], Marks]:
    """MINT scores ``[n]`` and fingerprints ``[n]`` of a loader, dataset or tensor of rows, in order, read once.

    Raises:
        UsageError: the source yields nothing.
    """
    parts = [(score(x).double().cpu().numpy(), fingerprints(x).cpu().numpy()) for x in input_batches(source)]
    if not parts:
        raise UsageError("there is nothing to score: the loader yielded no batch")
    scores, marks = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(marks)


def check_unseen(marks: Marks, known: Mapping[str, Marks | None]) -> None:
    """Rows that the head learned to reject, or that set its threshold, would flatter it as unseen ones.

    Args:
        marks: fingerprints ``[n]`` of the rows given as unseen.
        known: what rows with a role are called -> their fingerprints, as far as they are known.

    Raises:
        RoleOverlapError: some have a role.
    """
    found = []
    for role, others in known.items():
        rows = np.flatnonzero(np.isin(marks, () if others is None else others))
        if len(rows):
            found.append(f"{len(rows)} of {len(marks)} are {role} (first at rows {rows[:5].tolist()})")
    if found:
        raise RoleOverlapError(
            f"expected rows never shown to anything as non-members, but {', '.join(found)}; take them out, for "
            "instance with amint.without(nonmembers, external, calibration, members)"
        )


def unknown_members(marks: Marks, ledger: Ledger) -> dict[str, int]:
    """The fact :data:`UNKNOWN`; nothing where it is not known who all members were.

    They are not refused: a head that was told of augmented members does not know the plain ones.
    """
    if not 0 < ledger.count("members") < ledger.MOST:
        return {}
    return {UNKNOWN: int((~np.isin(marks, ledger.marks("members"))).sum())}
