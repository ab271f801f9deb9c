"""A commitment at the start of a training run: checked, written to the log, the same until the run ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from amint.commitments.commitment import Commitment
from amint.commitments.statement import check_public
from amint.errors import UsageError

__all__ = ["announced", "check_same", "promised"]


def announced(commitment: Commitment | Mapping[str, Any], quietly: bool = False) -> dict[str, Any]:
    """The public part of a commitment, its root written to the log (logger "amint", level INFO).

    Args:
        commitment: with its secret, or its public part.
        quietly: leave the log alone; one of several processes writes to it.

    Raises:
        InputError: the public part is damaged or edited.
    """
    public = check_public(commitment.public() if isinstance(commitment, Commitment) else commitment)
    if not quietly:
        counts = ", ".join(f"{count} {role}" for role, count in public["counts"].items())
        logging.getLogger("amint").info("training is committed to %s: %s", public["root"], counts)
    return public


def promised(
    commitment: Commitment | Mapping[str, Any] | None, quietly: bool = False
) -> tuple[dict[str, Any], Commitment | None]:
    """What an audit takes over from the commitment that its training starts with.

    Args:
        commitment: with its secret, or its public part, or None.
        quietly: as in :func:`announced`.

    Returns:
        Facts, and the commitment if its secret is at hand, by which calibration rows can be looked up.

    Raises:
        InputError: the public part is damaged or edited.
    """
    if commitment is None:
        return {}, None
    return {"commitment": announced(commitment, quietly)}, commitment if isinstance(commitment, Commitment) else None


def check_same(first: Mapping[str, Any] | None, given: Mapping[str, Any] | None) -> None:
    """Check that a run goes on with the commitment it was started with.

    Raises:
        UsageError: it does not.
    """
    if first != given:
        roots = [None if public is None else public["root"] for public in (first, given)]
        raise UsageError(
            f"this run was started with the commitment {roots[0]} and cannot go on with {roots[1]}: samples are "
            "committed to before training. Pass the commitment it was started with"
        )
