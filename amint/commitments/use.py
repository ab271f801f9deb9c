"""Was what was committed to also what was used? As far as the owner's own amint can see it, and in plain words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from amint.commitments.announcement import check_same
from amint.commitments.commitment import Commitment
from amint.commitments.statement import ROLES
from amint.errors import RoleOverlapError, UsageError

__all__ = ["check_use", "commitment_sentence", "use_of"]

_CHECKED = ("rows", "counts")


def use_of(
    public: Mapping[str, Any] | None, commitment: Commitment | None, seen: Mapping[str, int], digests: Collection[bytes]
) -> dict[str, Any]:
    """Compare a commitment with what was used.

    Members and external rows are counted and not looked up: random augmentation makes many rows of one sample. A role
    that nothing was committed to for is left alone.

    Args:
        public: the commitment's public part, or None.
        commitment: the same with its secret, or None if only the public part is at hand.
        seen: role -> number of different rows that were used.
        digests: of the calibration rows, :func:`amint.commitments.sample_digest`; of use with the secret only.

    Returns:
        The fact "commitment_use", plain values: "seen", and what of the calibration was "checked", "rows" or "counts".
        Nothing where nothing was committed to.

    Raises:
        RoleOverlapError: calibration rows that were committed to as members or external rows.
        UsageError: calibration rows that were not committed to, more of them than were, or another commitment.
    """
    if public is None:
        return {}
    if commitment is not None:
        check_same(public, commitment.public())
        _look_up(commitment, frozenset(digests))
    used, committed = seen["calibration"], public["counts"]["calibration"]
    if 0 < committed < used:
        raise UsageError(
            f"{used} different samples are to calibrate, but {committed} were committed to for this "
            f"({public['root']}); calibrate with those"
        )
    return {"commitment_use": {"seen": dict(seen), "checked": _CHECKED[commitment is None]}}


def _look_up(commitment: Commitment, digests: frozenset[bytes]) -> None:
    found = {role: len(digests.intersection(commitment.digests[role])) for role in ROLES}
    for role in ("members", "external"):
        if found[role]:
            raise RoleOverlapError(
                f"{found[role]} of {len(digests)} different calibration samples were committed to as {role} "
                f"({commitment.root}). A sample can play one role only; calibrate with those committed to for this"
            )
    strange = len(digests) - found["calibration"]
    if strange and commitment.digests["calibration"]:
        raise UsageError(
            f"{strange} of {len(digests)} different calibration samples were not committed to ({commitment.root}). "
            "Calibrate with the samples given to amint.commit, bit for bit: same dtype, same preprocessing, no "
            "augmentation"
        )


def check_use(data: Any) -> None:
    """Check what a bundle holds as "commitment_use".

    Raises:
        ValueError, TypeError, LookupError: it is not what :func:`use_of` gives.
    """
    seen = data["seen"]
    if set(data) != {"seen", "checked"} or data["checked"] not in _CHECKED or set(seen) != set(ROLES):
        raise ValueError("it has other fields")
    if not all(type(count) is int and count >= 0 for count in seen.values()):
        raise ValueError("what was seen is not counted")


def commitment_sentence(facts: Mapping[str, Any]) -> str:
    """What an audit's commitment is worth, and what is not known of it.

    Args:
        facts: of the audit, checked by :func:`amint.facts.check_facts` if they come from a bundle.
    """
    public, use = facts.get("commitment"), facts.get("commitment_use")
    if public is None:
        return "Nothing was committed to before training, so that the roles of the samples cannot be checked."
    counts = public["counts"]
    late = facts.get("method") == "registered"
    when = "when the MINT head was trained, after the model’s own training" if late else "when training began"
    named = (
        f"{counts['members']:,} members, {counts['external']:,} external and {counts['calibration']:,} calibration "
        f"samples were committed to {when}. That counts from the day on which the root was published; a proof for any "
        "one of them can be asked for."
    )
    if use is None:
        return f"{named} Whether these are the samples that were used was not checked."
    return f"{named} {_calibration(counts['calibration'], use)} {_others(counts, use['seen'])}"


def _calibration(committed: int, use: Mapping[str, Any]) -> str:
    used, by_rows = use["seen"]["calibration"], use["checked"] == "rows"
    if not committed:
        other = f"; none of the {used:,} that were used was committed to in another role" if by_rows else ""
        return f"No calibration samples were committed to{other}."
    said = f"Of the calibration only the number was compared: {used:,} different samples were used."
    if by_rows:
        said = f"On the owner’s side, each of the {used:,} calibration samples used was found among those committed to."
    if used < committed:
        said += (
            f" Only {used:,} of {committed:,} were used: unless the others are copies of them, which to leave out was "
            "the owner’s choice, and such a choice can move every p-value."
        )
    return said


def _others(counts: Mapping[str, int], seen: Mapping[str, int]) -> str:
    more = [role for role in ("members", "external") if seen[role] > counts[role]]
    of = {"members": "members", "external": "external rows"}
    why = (
        f" More {' and '.join(of[role] for role in more)} than committed to can come from random augmentation, or from "
        "data that was not committed to."
        if more
        else ""
    )
    return (
        "Whether the members and external samples committed to are those that were used was not checked; the head saw "
        f"{seen['members']:,} different rows of members and {seen['external']:,} external ones.{why}"
    )
