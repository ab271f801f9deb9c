"""What a comparison is about: a target, the network and the head behind it where they are known, its untrained twin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from amint.attack_controls import twin_audit
from amint.audit import Audit
from amint.errors import RoleOverlapError, UsageError
from amint.identity import model_digest
from amint.labelled import LabelledRows
from amint.origin import bundle_of
from amint.queries import Queries
from amint.targets import ClassifierTarget, Target
from amint.twins import untrained_twin

__all__ = ["Subject", "check_roles", "described", "device_of", "subject_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A target, opened as far as it can be.

    Attributes:
        target: what signals are read from.
        kind: the type of the network, or of the target where no network is known.
        network: the audited model; None for a target that keeps it to itself.
        audit: the audit of that model, if there is one.
        queries: the views that the target is asked about, which must be those of the references; None for the default.
        twin: makes the same target on an untrained network from a seed; None where no network is known.
    """

    target: Target
    kind: str
    network: nn.Module | None
    audit: Audit | None
    queries: Queries | None
    twin: Callable[[int], Target] | None


def subject_of(
    model: Audit | nn.Module | Target, taps: str | Sequence[str] | None = None, queries: Queries | None = None
) -> Subject:
    """Open what is to be attacked.

    Args:
        model: an audit, a classifier or another target.
        taps: where passive MINT reads an audit or a classifier; None for the audit's taps, or "middle".
        queries: augmented views; None for the target's own, or the default ones.

    Raises:
        UsageError: not a target, or one that has other queries of its own.
    """
    if isinstance(model, Audit):
        target: Target = ClassifierTarget(model.backbone, audit=model, taps=taps, queries=queries)
    elif isinstance(model, nn.Module):
        target = ClassifierTarget(model, taps="middle" if taps is None else taps, queries=queries)
    elif hasattr(model, "measure") and hasattr(model, "provides"):
        target = model
    else:
        raise UsageError(
            f"a target is a bundle's path, an audit, a classifier or something with provides and measure; got "
            f"{type(model).__name__}"
        )
    asked = _queries(target, queries)
    if not isinstance(target, ClassifierTarget):
        return Subject(target, type(target).__name__, None, None, asked, None)
    twin = partial(_untrained, target)
    return Subject(target, type(target.model).__name__, target.model, target.audit, asked, twin)


def device_of(subject: Subject) -> torch.device:
    """Where the network lives; the CPU where none is known."""
    weights = iter(()) if subject.network is None else subject.network.parameters()
    return next((weight.device for weight in weights), torch.device("cpu"))


def check_roles(subject: Subject, rows: LabelledRows) -> None:
    """Hold both sides against what the audit knows: external and calibration rows are no members.

    As non-members, external rows would flatter the MINT head, which has learned to answer "no" for them. Calibration
    rows are non-members, as nothing was trained on them.

    Raises:
        RoleOverlapError: some members are external or calibration rows, or some non-members external ones.
    """
    audit = subject.audit
    if audit is None:
        return
    external = audit.trained().external_marks
    calibration = None if audit.records is None else audit.records.marks
    _check_apart(rows, "members", "external rows, which the task was not trained on", external)
    _check_apart(rows, "members", "calibration rows, which nothing was trained on", calibration)
    _check_apart(rows, "non-members", "external rows that the MINT head was trained on", external)


def _check_apart(rows: LabelledRows, side: str, what: str, marks: NDArray[np.int64] | None) -> None:
    mine = rows.marks[rows.is_member == (side == "members")]
    shown = np.flatnonzero(np.isin(mine, [] if marks is None else marks))
    if len(shown):
        raise RoleOverlapError(
            f"{len(shown)} of {len(mine)} {side} are {what} (first at rows {shown[:5].tolist()}); take them out of the "
            f"{side}"
        )


def described(subject: Subject, rows: LabelledRows) -> dict[str, str]:
    """Name -> hash or description, of the model and of both sides' rows."""
    found = {"model": subject.kind}
    if subject.network is not None:
        found["model_sha256"] = model_digest(subject.network, lenient=True)
    held = None if subject.audit is None else bundle_of(subject.audit)
    if held is not None:
        found["bundle_sha256"] = held.sha256
    for name, side in (("members", rows.is_member), ("nonmembers", ~rows.is_member)):
        found[f"{name}_sha256"] = hashlib.sha256(rows.marks[side].tobytes() + rows.classes[side].tobytes()).hexdigest()
    return found


def _queries(target: Target, queries: Queries | None) -> Queries | None:
    own = getattr(target, "queries", None)
    if own is not None and queries is not None and own != queries:
        raise UsageError(
            f"this target is asked about {own}, and queries= says {queries}; leave out queries=, references are asked "
            "about the target's own"
        )
    return queries if own is None else own


def _untrained(target: ClassifierTarget, seed: int) -> ClassifierTarget:
    """The same target on an untrained network."""
    if target.audit is None:
        return target.on(untrained_twin(target.model, seed))
    audit = twin_audit(target.audit, seed)
    return target.on(audit.backbone, audit)
