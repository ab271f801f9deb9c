"""The parts of a verdict: outcomes of controls and of set-level tests, where the model came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = [
    "NOT_SIGNED",
    "UNKNOWN_SIGNER",
    "Control",
    "Outcome",
    "Provenance",
    "SetTest",
    "bound_level",
    "lacks_files",
    "without_files",
]

Outcome = Literal["passed", "failed", "not checked"]
# What a provenance says of a bundle without a signature.
NOT_SIGNED = "The bundle is not signed."
# How it ends for one that is signed, if nobody said by whom it must be.
UNKNOWN_SIGNER = "whose that is was not checked."


@dataclass(frozen=True)
class Control:
    """The outcome of one control.

    Attributes:
        name: which control.
        outcome: ``failed`` if it shows another cause for high scores; ``not checked`` if it could not show one.
        sentence: what was found, in plain words.
        p_value: of what was found, if that is a matter of chance.
        value: its size: an AUROC or a share.
        details: more figures, as plain JSON values.
    """

    name: str
    outcome: Outcome
    sentence: str
    p_value: float | None = None
    value: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def without_files(control: Control) -> Control:
    """The same of samples that came as files where the others did not, so that the files could not be compared."""
    said = "Format, size and compression of the files were not compared: the calibration data did not come as files."
    return replace(control, sentence=f"{control.sentence} {said}", details=control.details | {"files_compared": False})


def lacks_files(control: Control) -> bool:
    """Whether this is what :func:`without_files` gave."""
    return control.details.get("files_compared") is False


@dataclass(frozen=True)
class SetTest:
    """One kind of evidence about the submission as a whole.

    Attributes:
        name: which score was tested: "MINT head" or "confidence".
        p_value: of the one-sided test of the submission's scores against the calibration's.
        adjusted: the same after Holm over all tests of the verdict.
        superiority: chance that a submitted sample outscores a calibration sample (of its class, if samples are
            compared by class), 0.5 = no difference.
        low, high: its 95 % interval.
        members_at_least: lower confidence bound on how many submitted samples were used, at :func:`bound_level`.
        samples: how many samples that is out of: those of other roles left out, exact and near copies counted once.
    """

    name: str
    p_value: float
    adjusted: float
    superiority: float
    low: float
    high: float
    members_at_least: int
    samples: int


def bound_level(alpha: float, tests: int) -> float:
    """The confidence of each bound on members, of so many tests: none of them is wrong but with a chance of alpha."""
    return 1 - alpha / max(tests, 1)


@dataclass(frozen=True)
class Provenance:
    """Where model and head came from, as far as the bundle says.

    Attributes:
        bundle_sha256: identity of the bundle, or None for a model in memory.
        weights_sha256: of the audited model's weights, or None for a model in memory.
        method: how the MINT head came about.
        steps: training steps that the head took part in, or None.
        unaccounted_updates: updates of the model during training that the head saw nothing of, or None if not counted.
        commitment: root of what was committed to before training, or None.
        signature: what is known of the bundle's signature.
        evaluation: figures measured by the owner, plain JSON values, or None.
        committed: what the commitment says of the data that was used, in plain words.
        head_epochs: passes of the head alone over the members, after the model's training, or None.
        members_alone: rows that the head was told of as members without the hooked training, or None if not counted.
    """

    bundle_sha256: str | None = None
    weights_sha256: str | None = None
    method: str = "unknown"
    steps: int | None = None
    unaccounted_updates: int | None = None
    commitment: str | None = None
    signature: str = "not signed"
    evaluation: dict[str, Any] | None = None
    committed: str = ""
    head_epochs: int | None = None
    members_alone: int | None = None
