"""What a reader of a verdict can do next, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amint.findings import NOT_SIGNED, UNKNOWN_SIGNER, lacks_files

if TYPE_CHECKING:
    from amint.evidence import Verdict

__all__ = ["next_steps"]

_AFTER = {
    "blind baseline": "Submit the files as they were before anything converted, resized or cropped them; or ask the "
    "owner whether the bundle's preprocessing does to files what the training did, or for a calibration with data of "
    "the submission's kind that went the same way.",
    "odd samples": "Leave out what is not like the rest, if it is only some of it (verdict.json names it). Or submit "
    "the files as they were before anything converted, resized or cropped them, or ask the owner for a calibration "
    "with data of this kind.",
    "members against external": "Ask the owner for another audit: its external data must come from where the training "
    "data comes from, or the head learns where data comes from instead of what was used.",
    "control against control": "Ask the owner for another calibration, drawn at random from one source, one sample of "
    "each kind of thing.",
    "duplicates": "Submit samples that the owner has not used as calibration or external data.",
}


def next_steps(verdict: Verdict) -> list[str]:
    """Sentences, the most pressing first; none of them changes what the verdict says."""
    failed = [control.name for control in verdict.controls if control.outcome == "failed"]
    steps = [_AFTER[name] for name in failed if name in _AFTER]
    if verdict.p_value is None and not failed:
        return ["Submit files that can be read: each has its reason in the list."]
    if verdict.decision == "cannot tell" and not failed:
        steps.append(
            "Submit more samples of the same origin, which are judged together; or ask the owner for a larger "
            "calibration."
        )
    if verdict.decision == "no evidence":
        steps += _more_samples(verdict)
    if verdict.contradiction:
        steps.append("Ask the owner what else the model was trained on: the head cannot know what it was not told.")
    if any(map(lacks_files, verdict.controls)):
        steps.append(
            "Ask the owner for a calibration from files, audit.calibrate(amint.ImageFiles(...)): whether format, size "
            "and compression of the files give them away could not be checked."
        )
    return [*steps, *_origin(verdict)]


def _more_samples(verdict: Verdict) -> list[str]:
    if not verdict.power and verdict.by_class:
        return ["Submit more samples of the same origin; how many a verdict by class takes is not known."]
    if not verdict.power:
        return ["Ask the owner for audit.evaluate, which says how many samples a verdict on this model takes."]
    needed, counted = verdict.power.get("needed") or 0, verdict.counted
    if needed > counted:
        judged = f"{counted:,} {'was' if counted == 1 else 'were'} judged"
        return [f"Submit more samples of the same origin: {judged}, and it takes about {needed:,}."]
    return []


def _origin(verdict: Verdict) -> list[str]:
    origin, steps = verdict.provenance, list[str]()
    if origin.weights_sha256 is not None:
        steps.append(
            "Compare the weights' SHA-256 in this verdict with that of the model in use: a bundle vouches for its own."
        )
    if origin.bundle_sha256 is not None and origin.signature == NOT_SIGNED:
        steps.append("The bundle is not signed: make sure of its SHA-256 by another way than the one it came.")
    if origin.signature.endswith(UNKNOWN_SIGNER):
        steps.append(
            "Anybody can sign a bundle, a changed one too: get the signer's public key by another way than the bundle "
            "came, and pass it (--public-key, public_key=)."
        )
    if origin.commitment is None:
        steps.append("Nothing was committed to before training: who was calibration data is the owner's word alone.")
    return steps
