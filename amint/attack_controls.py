"""Attacks where they must fail: on a target that was never trained, and with the membership shuffled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from amint.attack_results import SHUFFLED, TWIN, AttackControl
from amint.attack_runs import Parts, control_of, shuffled
from amint.attacks import Attack
from amint.audit import Audit
from amint.gathering import Gathered, Progress, gather, is_of_references
from amint.labelled import LabelledRows
from amint.signals import Signals
from amint.targets import Target
from amint.twins import untrained_twin

__all__ = ["controls_of", "twin_audit"]


def controls_of(
    attacks: Sequence[tuple[str, Attack]],
    twin: Callable[[], Target] | None,
    gathered: Gathered,
    rows: LabelledRows,
    parts: Parts,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> list[AttackControl]:
    """Each attack on an untrained twin, and with shuffled membership.

    The references stay as they are: an attack that tells members from non-members by the references alone, because
    these were trained on one of the two only, is found by the twin.

    Args:
        attacks: (name, attack not fitted).
        twin: makes the target's untrained twin; None if it has none.
        gathered: the target's signals and the references'.
        rows: what was measured.
        parts: of the rows.
        seed: of the shuffling.
        device: of the twin.
        progress: see :func:`amint.compare`.
    """
    by_class = rows.classes_differ
    flags = shuffled(rows.is_member, rows.classes, parts, seed, by_class=by_class)
    apart = rows.is_member if by_class else None
    found = []
    for name, attack in attacks:
        found.append(replace(control_of(SHUFFLED, attack, gathered.signals, flags, parts, apart), attack=name))
    needs = frozenset().union(*(attack.needs for _, attack in attacks))
    try:
        if twin is None:
            raise ValueError("this target has no untrained twin; pass the model itself")
        own = frozenset(name for name in needs if not is_of_references(name))
        untaught = gather(twin(), None, rows, own, device=device, stage=TWIN, progress=progress)
        signals = untaught.signals.joined(Signals({name: gathered.signals[name] for name in needs - own}))
    except Exception as error:  # a user's model may raise anything, and a control must not end a comparison
        return found + [AttackControl(TWIN, name, None, None, str(error)) for name, _ in attacks]
    for name, attack in attacks:
        found.append(replace(control_of(TWIN, attack, signals, rows.is_member, parts), attack=name))
    return found


def twin_audit(audit: Audit, seed: int) -> Audit:
    """The audit's head on an untrained twin of its backbone."""
    return Audit(untrained_twin(audit.backbone, seed), audit.points, copy.deepcopy(audit.head), audit.input_shape)
