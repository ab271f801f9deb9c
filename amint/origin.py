"""Where an audit comes from, as far as it can be said of what it is now."""

from __future__ import annotations

from collections.abc import Mapping

from amint.audit import Audit
from amint.bundle import Bundle
from amint.commitments import commitment_sentence
from amint.findings import Provenance

__all__ = ["bundle_of", "provenance"]


def bundle_of(audit: Audit) -> Bundle | None:
    """The bundle that an audit was loaded from, if it still says what the bundle says; else None.

    Calibrated or evaluated anew, or with other facts, it is no longer what the bundle's hash and signature stand for.
    The weights are left to :meth:`amint.Audit.check_unchanged`.
    """
    held = audit.bundle
    if held is None or audit.records is not held.records or audit.training is not held.training:
        return None
    return held if audit.facts == held.manifest["facts"] else None


def provenance(audit: Audit, weights: Mapping[str, str]) -> Provenance:
    """Where model and head came from.

    Args:
        audit: the audit.
        weights: what :meth:`amint.Audit.check_unchanged` gave for it.
    """
    held, facts = bundle_of(audit), audit.facts
    commitment = facts.get("commitment")
    changed = audit.bundle is not None and held is None
    signature = "not signed: changed after it was loaded from a bundle" if changed else "not signed"
    return Provenance(
        bundle_sha256=None if held is None else held.sha256,
        weights_sha256=None if audit.bundle is None else weights["model.safetensors"],
        method=str(facts.get("method", "unknown")),
        steps=facts.get("steps"),
        unaccounted_updates=facts.get("unaccounted_updates"),
        commitment=None if commitment is None else str(commitment["root"]),
        signature=signature if held is None else held.signature.sentence(),
        evaluation=facts.get("evaluation"),
        committed=commitment_sentence(facts),
        head_epochs=facts.get("head_epochs"),
        members_alone=facts.get("members_of_head_alone"),
    )
