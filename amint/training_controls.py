"""Controls of training: what gives members and external data away before any model is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from amint.blind import FEATURES
from amint.controls import blind_baseline
from amint.records import Sketch

__all__ = ["training_controls"]


def training_controls(sketch: Sketch, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Can members and external data be told apart without any model? As plain values.

    Args:
        sketch: of the rows by role.
        facts: those of a bundle, whose controls stand where the rows are not known any more.
    """
    members, external = (sketch.column(f"{role}.blind") for role in ("members", "external"))
    if members is None or external is None:
        return list(facts.get("controls", ()))
    found = blind_baseline(members, external, seed=0, names=FEATURES, roles=("the members", "the external data"))
    return [asdict(replace(found, name="members against external"))]
