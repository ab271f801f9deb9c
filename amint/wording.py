"""Verdicts in plain words. Never "not used", which no test can show."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amint.evidence import Verdict

__all__ = ["chance", "fine_print", "sentence", "shown_alone"]

_TINY = 0.0001


def chance(p_value: float) -> str:
    """A p-value as it is shown: two digits, or a bound where it is tiny."""
    return f"< {_TINY:.4f}" if p_value < _TINY else f"{p_value:.2g}"


def sentence(verdict: Verdict) -> str:
    """The verdict in plain words, with its uncertainty."""
    submitted, n = len(verdict.items), len(verdict.judged)
    if verdict.p_value is None:
        nothing = {0: "nothing was submitted", 1: "the submitted file could not be judged"}
        found = verdict.reason or nothing.get(submitted, f"none of the {submitted} files could be judged") + "."
        return f"Cannot tell: {found}"
    rejected = f"{submitted - n} of {submitted} files could not be judged."
    parts = _untold(verdict) if verdict.decision == "cannot tell" else _told(verdict, n)
    return " ".join([*parts, *([rejected] if submitted > n else [])])


def fine_print(verdict: Verdict) -> list[str]:
    """What a reader has to know beside the verdict: with what it was compared, what the head did not see, and what was
    not checked.
    """
    origin = verdict.provenance
    updates = " were not counted" if origin.unaccounted_updates is None else f": {origin.unaccounted_updates}"
    unchecked = [control.sentence for control in verdict.controls if control.outcome == "not checked"]
    return [
        *filter(None, [verdict.comparison]),
        f"Updates of the model that the head saw nothing of{updates}.",
        *([shown_alone(origin.members_alone)] if origin.members_alone else []),
        *([origin.committed] if origin.commitment else []),
        *unchecked,
    ]


def shown_alone(members: int) -> str:
    """What to know of so many members that the head alone was the first to be shown."""
    rows = "1 row was" if members == 1 else f"{members:,} rows were"
    return (
        f"{rows} told to the MINT head as members that never passed the hooked training as they are: plain views of "
        "augmented members, or members by the owner’s word alone."
    )


def _untold(verdict: Verdict) -> list[str]:
    shown = _shown(verdict.p_value or 0)
    without = f"Without this it would have been {shown}, which shows nothing by itself."
    # Of a sample by itself the reason may give this very p-value.
    return [f"Cannot tell: {verdict.reason}", *([] if f"would have {shown}." in (verdict.reason or "") else [without])]


def _shown(p_value: float) -> str:
    return f"p {'' if p_value < _TINY else '= '}{chance(p_value)}"


def _told(verdict: Verdict, n: int) -> list[str]:
    return [_together(verdict, n), *_unchecked(verdict), *_contradiction(verdict), *_singly(verdict, n)]


def _unchecked(verdict: Verdict) -> list[str]:
    outcomes = {control.name: control.outcome for control in verdict.controls}
    if verdict.decision != "used" or outcomes.get("blind baseline") != "not checked":
        return []
    one = len(verdict.judged) == 1
    differ = "it differs" if one else "they differ"
    unknown = f"Whether {differ} from the calibration data in something else than use could not be checked"
    if outcomes.get("odd samples") == "passed":
        strange = "the sample is not" if one else "none of them is"
        return [f"{unknown} further: {strange} strange by itself."]
    return [f"{unknown}: too few, or too few that can be compared."]


def _together(verdict: Verdict, n: int) -> str:
    found = f"({_shown(verdict.p_value or 0)}; accepted false-alarm rate {_rate(verdict)})"
    samples = "the judged sample" if n == 1 else f"taken together, the {n} judged samples"
    kinds = [(verdict.copies, "exact"), (verdict.near_copies, "near")]
    again = [f"{count} {kind} {'copy' if count == 1 else 'copies'}" for count, kind in kinds if count]
    if again:
        samples += f" ({' and '.join(again)} not counted again)"
    higher = f"higher than data that was not used would {found}."
    if verdict.decision == "used":
        return f"Used: {samples} {'scores' if n == 1 else 'score'} {higher}"
    whole = " for the submission as a whole" if verdict.used else ""
    return f"No evidence of use{whole}: {samples} {'does' if n == 1 else 'do'} not score clearly {higher}"


def _contradiction(verdict: Verdict) -> list[str]:
    if not verdict.contradiction:
        return []
    return [
        "This is a contradiction: the MINT head, which knows what it was told, shows no evidence, yet the model is "
        "surer of these samples than of data that was not used. Training data that was kept from the head looks like "
        "this; so do samples that are easier than the calibration data."
    ]


def _singly(verdict: Verdict, n: int) -> list[str]:
    said = []
    if n > 1 and verdict.used:
        they = (
            "1 sample stands out on its own" if verdict.used == 1 else f"{verdict.used} samples stand out on their own"
        ) + ", after correction for their number"
        but = "" if verdict.decision == "used" else "But "
        said.append(f"{but}{they}; on average, at most {_rate(verdict)} of samples like these are false alarms.")
    elif n > 1:
        together = "; what shows the use is all of them together" if verdict.decision == "used" else ""
        corrected = f"after correction for their number{_reach(verdict, n)}"
        said.append(f"No sample stands out on its own, {corrected}{together}.")
    if verdict.decision != "used":
        rest = "it was" if n == 1 else "the others were" if verdict.used else "they were"
        said.append(f"This does not show that {rest} not used.")
    return said


def _reach(verdict: Verdict, n: int) -> str:
    """How many samples have to stand out for any of them to be found, where that is more than one."""
    # The k that Benjamini and Hochberg find have p-values of at most alpha k / n.
    least = ceil(verdict.smallest_p * n / verdict.alpha - 1e-9)
    if least <= 1:
        return ""
    return f" (with {verdict.calibration_n:,} calibration samples, either {least:,} or more can, or none)"


def _rate(verdict: Verdict) -> str:
    return f"{100 * verdict.alpha:g}%"
