"""A release gate: does an attack reach further than what was agreed on? It fails closed."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from amint.attack_results import METRICS, TRAINED_IN, AttackResult, Comparison
from amint.errors import UsageError

__all__ = ["GateResult", "Limit", "check_gate", "parse_limit"]

# A lower bound has no upper end: the gate breaks where even the lower bound is above the limit.
EPSILON = "epsilon"
_SHOWN = 3


@dataclass(frozen=True)
class Limit:
    """The most that the upper end of a metric's interval may be, for every attack from outside.

    Attributes:
        metric: one of :data:`amint.attack_results.METRICS`, or ``epsilon``.
        most: the largest value that passes.

    Raises:
        UsageError: an unknown metric, or a limit that is no number.
    """

    metric: str
    most: float

    def __post_init__(self) -> None:
        known = (*METRICS, EPSILON)
        if self.metric not in known:
            near = difflib.get_close_matches(self.metric, known, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"the gate knows no metric {self.metric!r}{hint}; it knows {', '.join(known)}")
        if not math.isfinite(self.most):
            raise UsageError(f"the limit of {self.metric} must be a finite number, found {self.most}")


@dataclass(frozen=True)
class GateResult:
    """What the gate says.

    Attributes:
        limits: what was agreed on.
        broken: one sentence for each attack and limit that breaks it; empty if it is passed.
        not_judged: names of attacks that the gate says nothing of: they could not run, or were trained in.
    """

    limits: tuple[Limit, ...]
    broken: tuple[str, ...]
    not_judged: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every judged attack stays at or below every limit."""
        return not self.broken

    def sentence(self) -> str:
        """The result in plain words, with the first of what broke it: the strongest attack comes first."""
        limits = ", ".join(f"{limit.metric} at most {limit.most:g}" for limit in self.limits)
        rest = f" Not judged: {', '.join(self.not_judged)}." if self.not_judged else ""
        if self.passed:
            return f"Gate passed ({limits}).{rest}"
        more = f"; and {len(self.broken) - _SHOWN} more" if len(self.broken) > _SHOWN else ""
        return f"Gate broken ({limits}): {'; '.join(self.broken[:_SHOWN])}{more}.{rest}"


def parse_limit(text: str) -> Limit:
    """``"auroc=0.60"`` as a :class:`Limit`.

    Raises:
        UsageError: anything else than a known metric, ``=`` and a finite number.
    """
    found = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([^=\s]+)\s*", text)
    try:
        if not found:
            raise ValueError
        most = float(found[2])
    except ValueError:
        raise UsageError(f"a limit is metric=number, such as auroc=0.60; found {text!r}") from None
    return Limit(found[1], most)


def check_gate(comparison: Comparison, limits: Sequence[Limit]) -> GateResult:
    """Hold every attack from outside against every limit.

    A limit is broken where the upper end of an attack's interval lies above it, and also where nothing can be said: the
    controls failed, no attack ran, an attack that was asked for by name did not run, or there are too few non-members
    for the metric. The head that was trained in is not judged: finding members is its purpose, and no outsider has it.

    Raises:
        UsageError: no limit.
    """
    if not limits:
        raise UsageError("a gate needs at least one limit, such as auroc=0.60")
    outsiders = [result for result in comparison.ranked if result.family != TRAINED_IN]
    broken = [f"{limit.metric} of {said}" for limit in limits for r in outsiders if (said := _breaks(r, limit))]
    if comparison.warning():
        broken.append("the controls do not support the table")
    if not outsiders:
        broken.append("no attack from outside could run")
    if comparison.settings.get("attacks") != "all":
        broken += [f"{result.name} was asked for and could not run" for result in comparison.not_run]
    skipped = [result.name for result in comparison.attacks if result not in outsiders]
    return GateResult(tuple(limits), tuple(broken), tuple(skipped))


def _breaks(result: AttackResult, limit: Limit) -> str:
    if limit.metric == EPSILON:
        bound = result.epsilon
        if bound is None or bound.value <= limit.most:
            return "" if bound is not None else f"{result.name} was not bounded"
        return f"{result.name} is at least {bound.value:.3g}, above {limit.most:g}"
    measured = result[limit.metric]
    if measured.note:
        return f"{result.name} cannot be judged: it {measured.note}"
    high = measured.interval.high
    return "" if high <= limit.most else f"{result.name} may be {high:.3f}, above {limit.most:g}"
