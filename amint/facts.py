"""Figures among the facts of an audit, as the plain JSON values that its bundle keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amint.errors import UsageError
from amint.metrics import Measurement

__all__ = ["evaluation_facts", "task_facts"]


def evaluation_facts(alpha: float, measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Values, intervals and numbers of samples, by the names of the figures, with the ``alpha`` they hold for."""
    return {"alpha": alpha} | {
        name: {"value": m.value, "low": m.interval.low, "high": m.interval.high, "n": [m.n_members, m.n_nonmembers]}
        for name, m in measured.items()
    }


def task_facts(**accuracies: float | None) -> dict[str, float]:
    """What of it is known.

    Raises:
        UsageError: an accuracy is no share between 0 and 1, or none is known.
    """
    found = {}
    for name, value in accuracies.items():
        if value is None:
            continue
        try:
            found[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            found[name] = -1.0
        if not 0 <= found[name] <= 1:
            raise UsageError(f"{name} is a share between 0 and 1, got {value!r}; divide percentages by 100")
    if not found:
        raise UsageError(f"nothing was stated: pass {' or '.join(accuracies)}, a share between 0 and 1")
    return found
