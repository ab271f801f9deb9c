"""Facts of an audit: figures as the plain JSON values that its bundle keeps, and the check of all when it is read.

Whoever may edit a bundle can state any fact, so that everything amint later reads by name is checked here, once. Facts
with other names may hold anything; they are shown as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args

from amint.commitments import check_public, check_use
from amint.errors import AmintError, UsageError
from amint.findings import Control, Outcome
from amint.history import Curves
from amint.metrics import Measurement

__all__ = ["check_facts", "evaluation_facts", "task_facts"]

# Numbers beyond this count nothing, and would be printed digit by digit.
_MOST = 2**53
# Losses beyond this overflow where they are drawn.
_LARGEST = 1e300


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


def check_facts(facts: Mapping[str, Any]) -> None:
    """Check the facts that amint reads by name, where they are there at all.

    Raises:
        UsageError: one of them is not what amint writes; the message names it.
    """
    for name, check in _CHECKS.items():
        if name not in facts:
            continue
        try:
            check(facts[name])
        # An edited fact can hold any value in any place.
        except (AmintError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise UsageError(f"the fact {name!r} is not what amint writes: {reason}") from error
    if "commitment_use" in facts and "commitment" not in facts:
        raise UsageError("the fact 'commitment_use' is not what amint writes: there is no commitment")


def _expect(sound: bool, what: str, found: Any) -> None:
    if not sound:
        raise ValueError(f"expected {what}, found {repr(found)[:80]}")


def _text(value: Any) -> None:
    _expect(type(value) is str, "a text", value)


def _flag(value: Any) -> None:
    _expect(type(value) is bool, "true or false", value)


def _count(value: Any) -> None:
    _expect(type(value) is int and 0 <= value <= _MOST, "a number of them", value)


def _share(value: Any) -> None:
    _expect(type(value) in (int, float) and 0 <= value <= 1, "a number between 0 and 1", value)


def _named(value: Any, needed: set[str], allowed: set[str]) -> None:
    _expect(type(value) is dict and needed <= set(value) <= allowed, f"the fields {sorted(needed)}", value)


def _controls(value: Any) -> None:
    _expect(type(value) is list, "a list of controls", value)
    for control in value:
        _named(control, {"name", "outcome", "sentence"}, {field.name for field in fields(Control)})
        _text(control["name"])
        _text(control["sentence"])
        _expect(control["outcome"] in get_args(Outcome), f"one of {get_args(Outcome)}", control["outcome"])
        for figure in ("p_value", "value"):
            if control.get(figure) is not None:
                _share(control[figure])
        _expect(type(control.get("details", {})) is dict, "named details", control.get("details"))


def _evaluation(value: Any) -> None:
    _expect(type(value) is dict and {"alpha", "auroc"} <= set(value), "alpha and an AUROC, at least", value)
    _share(value["alpha"])
    keys = {"value", "low", "high", "n"}
    for name, figure in value.items():
        if name == "alpha":
            continue
        _named(figure, keys, keys)
        for key in ("value", "low", "high"):
            _share(figure[key])
        _expect(type(figure["n"]) is list and len(figure["n"]) == 2, "two numbers of samples", figure["n"])
        for count in figure["n"]:
            _count(count)


def _task(value: Any) -> None:
    _named(value, set(), {"plain_accuracy", "audited_accuracy"})
    _expect(bool(value), "an accuracy", value)
    for accuracy in value.values():
        _share(accuracy)


def _history(value: Any) -> None:
    curves = Curves.from_json(value)
    for loss in (*curves.mint_loss, *(curves.task_loss or ())):
        _expect(abs(loss) <= _LARGEST, f"losses of at most {_LARGEST:g}", loss)
    for accuracy in curves.mint_accuracy:
        _share(accuracy)


_CHECKS: dict[str, Callable[[Any], object]] = {
    "method": _text,
    "by_class": _flag,
    "steps": _count,
    "members_seen": _count,
    "members_of_head_alone": _count,
    "head_epochs": _count,
    "calibration_copies": _count,
    "evaluated_members_unknown": _count,
    "accounted_updates": _count,
    "unaccounted_updates": _count,
    "replaced_weights": _count,
    "controls": _controls,
    "evaluation": _evaluation,
    "task": _task,
    "history": _history,
    "commitment": check_public,
    "commitment_use": check_use,
}
