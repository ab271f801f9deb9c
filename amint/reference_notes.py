"""Do reference models fit the compared rows: which of them were trained on what, what follows, and what to refuse.

Rows are known by the fingerprints of their content, and count as OUT for each model that was not trained on them. That
rows are in no model's training has two causes that cannot be told apart from here: references of other samples only,
which is all that offline attacks need (LiRA, RMIA, Attack-R, Watson); or rows that come with other preprocessing or in
another dtype than in the references' training, where models that know a sample pass for models that do not. The first
is legitimate, so neither is refused; both are said, with counts.

Known non-members that some of the references were trained on are legitimate as well: it is known which. One that all
of them were trained on has no OUT reference; attacks refuse it, with counts, where they need one.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from amint.attack_runs import Parts
from amint.audit import Audit
from amint.gathering import Gathered, References, is_of_references
from amint.labelled import LabelledRows

__all__ = ["calibration_refusal", "reference_notes", "row_note"]

Flags = NDArray[np.bool_]

# Shares of members and of non-members in the references' pool that differ by more than this are worth a word.
_POOLS_DIFFER = 0.02
# References are trained on a pool of the compared rows; where less than this share of a side is in it, it may be wrong.
_FEW = 0.5
_OTHERWISE_READ = "other preprocessing or in another dtype than in the references' training"


def calibration_refusal(references: References | None, audit: Audit | None, rows: LabelledRows) -> str:
    """Why these references must not stand beside this audit, or an empty text.

    An audit's calibration samples are those that nothing was trained on. Where they are compared as non-members, it is
    known for each reference whether it was trained on them, and attacks take that into account; the others of them
    must be in no reference's training.

    Args:
        references: the reference models, if there are any.
        audit: of the target, if there is one.
        rows: what is compared.
    """
    if references is None or audit is None or audit.records is None:
        return ""
    apart = np.setdiff1d(audit.records.marks, rows.marks[~rows.is_member])
    shown = int(references.saw(apart).sum()) if len(apart) else 0
    if not shown:
        return ""
    return (
        f"the reference models were trained on {shown} of {len(apart)} calibration samples of this audit that are not "
        "compared here as non-members, and nothing may be trained on those; train references on a pool without them, "
        "or calibrate the audit on other samples"
    )


def reference_notes(seen: Flags, rows: LabelledRows, parts: Parts) -> list[str]:
    """What to know about references before reading the figures of attacks that use them.

    Args:
        seen: ``[n]``, whether any reference was trained on a row.
        rows: what was measured.
        parts: of the rows.
    """
    counts = _audited(seen, rows, parts)
    members, others = (f"{count} of {n}" for count, n in counts)
    notes = []
    if not any(count for count, _ in counts):
        notes.append(
            f"The reference models were trained on none of the audited rows ({members} members, {others} non-members). "
            "That is right for references of other samples only, which offline attacks can use. If they were trained "
            f"on such rows, these come with {_OTHERWISE_READ}, models pass for OUT that are IN, and the figures of all "
            "attacks with references are wrong."
        )
    elif any(count < _FEW * n for count, n in counts):
        notes.append(
            f"The reference models were trained on {members} audited members and {others} audited non-members; all "
            f"other rows count as OUT for each of them. If more should be in their pool, they come with "
            f"{_OTHERWISE_READ}, and the figures of attacks with references are wrong."
        )
    inside, outside = (float(seen[side].mean()) for side in (rows.is_member, ~rows.is_member))
    if abs(inside - outside) > _POOLS_DIFFER:
        notes.append(
            f"The reference models' pool holds {100 * inside:.1f} % of the members and {100 * outside:.1f} % of "
            "the non-members: attacks with references may see that difference. Train them on a pool of both."
        )
    return notes


def row_note(needs: Set[str], gathered: Gathered, seen: Flags, rows: LabelledRows, parts: Parts) -> str:
    """What to mind about the references in the figures of one attack that ran, or an empty text.

    Args:
        needs: the attack's.
        gathered: all signals.
        seen: ``[n]``, whether any reference was trained on a row.
        rows: what was measured.
        parts: of the rows.
    """
    if not any(is_of_references(name) for name in needs):
        return ""
    notes = []
    if not any(count for count, _ in _audited(seen, rows, parts)):
        notes.append("the reference models were trained on none of the audited rows, see the notes")
    if "shadow_in" in needs:
        (count, n), _ = _audited(gathered.signals["shadow_in"], rows, parts)
        if count:
            notes.append(f"the shadow model was trained on {count} of the {n} audited members")
    return "; ".join(notes)


def _audited(seen: Flags, rows: LabelledRows, parts: Parts) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many of how many audited rows were seen: of the members, and of the non-members."""
    inside, shown = rows.is_member[parts.audited], seen[parts.audited]
    members, others = ((int(shown[side].sum()), int(side.sum())) for side in (inside, ~inside))
    return members, others
