"""A release gate: does an attack reach further than what was agreed on? It fails closed."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from amint.attack_results import METRICS, SHUFFLED, TRAINED_IN, TWIN, AttackResult, Comparison
from amint.errors import UsageError
from amint.lower_bound import epsilon_lower_bound

__all__ = ["GateResult", "Limit", "check_gate", "parse_limit"]

# A lower bound has no upper end: the gate breaks where even the lower bound is above the limit.
EPSILON = "epsilon"
_SHOWN = 3
# Members surely score lower where the chance of their scoring this high by luck is above this. That is stricter than an
# interval, as the gate then breaks whatever the figure is.
_SURELY_LOWER = 0.999
# Families of attacks that read reference models.
_WITH_REFERENCES = ("references", "shadow model")


@dataclass(frozen=True)
class Limit:
    """The most that the upper end of a metric's interval may be, for every attack from outside.

    Attributes:
        metric: one of :data:`amint.attack_results.METRICS`, or ``epsilon``.
        most: the largest value that passes; from 0 to 1, of ``epsilon`` 0 or more.

    Raises:
        UsageError: an unknown metric, or a limit that is no number or none that the metric could have.
    """

    metric: str
    most: float

    def __post_init__(self) -> None:
        known = (*METRICS, EPSILON)
        if self.metric not in known:
            near = difflib.get_close_matches(self.metric.lower(), known, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"the gate knows no metric {self.metric!r}{hint}; it knows {', '.join(known)}")
        if not math.isfinite(self.most):
            raise UsageError(f"the limit of {self.metric} must be a finite number, found {self.most}")
        if self.metric == EPSILON and self.most < 0:
            raise UsageError(f"the limit of epsilon must be 0 or more, found {self.most:g}")
        if self.metric != EPSILON and not 0 <= self.most <= 1:
            raise UsageError(
                f"the limit of {self.metric} must lie between 0 and 1, such as 0.60, not 60; found {self.most:g}"
            )


@dataclass(frozen=True)
class GateResult:
    """What the gate says.

    Attributes:
        limits: what was agreed on.
        broken: what could not be judged, then one sentence for each attack and limit that breaks it; empty if it is
            passed.
        not_judged: names of attacks that the gate says nothing of: they could not run, or were trained in.
        without_references: names of attacks that are no part of this, as there are no reference models for them.
    """

    limits: tuple[Limit, ...]
    broken: tuple[str, ...]
    not_judged: tuple[str, ...]
    without_references: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every judged attack stays at or below every limit."""
        return not self.broken

    def sentence(self) -> str:
        """The result in plain words, with the first of what broke it; of attacks the strongest comes first."""
        limits = ", ".join(f"{limit.metric} at most {limit.most:g}" for limit in self.limits)
        rest = f" Not judged: {', '.join(self.not_judged)}." if self.not_judged else ""
        if self.without_references:
            rest += (
                f" There are no reference models, so that this says nothing of {', '.join(self.without_references)}."
            )
        if self.passed:
            return f"Gate passed ({limits}).{rest}"
        more = f"; and {len(self.broken) - _SHOWN} more" if len(self.broken) > _SHOWN else ""
        return f"Gate broken ({limits}): {'; '.join(self.broken[:_SHOWN])}{more}.{rest}"


def parse_limit(text: str) -> Limit:
    """``"auroc=0.60"`` as a :class:`Limit`; in the metric's name, upper case and ``-`` for ``_`` make no difference.

    Raises:
        UsageError: anything else than a known metric, ``=`` and a number that the metric can have.
    """
    found = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([^=\s]+)\s*", text)
    try:
        # Python reads 1_0 as 10; whoever types it means something else.
        if not found or "_" in found[2]:
            raise ValueError
        most = float(found[2])
    except ValueError:
        raise UsageError(f"a limit is metric=number, such as auroc=0.60; found {text!r}") from None
    return Limit(found[1].lower().replace("-", "_"), most)


def check_gate(comparison: Comparison, limits: Sequence[Limit]) -> GateResult:
    """Hold every attack from outside against every limit.

    A limit is broken where the upper end of an attack's interval lies above it, and also where nothing can be said: a
    control failed, the model only guesses on the members, a judged attack lacks one of its two controls, no attack ran,
    an attack that was asked for by name did not run, or there are too few non-members for the metric, or too few pairs
    for a bound on epsilon above the limit. Figures that no control stands behind may be too low as well as too high:
    members that are harder than non-members hide what an attack finds of them. Of "all" attacks, those that this kind
    of model gives no signals for are not judged, but one that failed in any other way breaks the gate (on some rows, or
    for want of known samples), and those that read reference models must run if there are any; without them, they are
    no part of the judgement. The head that was trained in is not judged: finding members is its purpose, and no
    outsider has it.

    An attack that is reliably wrong finds members as well as one that is right: where the whole interval of its AUROC
    lies below 0.5, the AUROC of its scores turned round is judged too.

    Raises:
        UsageError: no limit.
    """
    if not limits:
        raise UsageError("a gate needs at least one limit, such as auroc=0.60")
    outsiders = [result for result in comparison.ranked if result.family != TRAINED_IN]
    left_out = _without_references(comparison)
    broken = [_unsupported(comparison)] if comparison.warning() else []
    if not outsiders:
        broken.append("no attack from outside could run")
    broken += _uncontrolled(comparison, outsiders) + _wanting(comparison)
    broken += [f"{limit.metric} of {said}" for limit in limits for r in outsiders if (said := _breaks(r, limit))]
    skipped = [r.name for r in comparison.attacks if r not in outsiders and r.name not in left_out]
    return GateResult(tuple(limits), tuple(broken), tuple(skipped), left_out)


def _unsupported(comparison: Comparison) -> str:
    if comparison.accuracy is not None and comparison.accuracy.guesses:
        return f"the model only guesses: it is right about {100 * comparison.accuracy.members:.1f} % of the members"
    return "the controls do not support the table"


def _without_references(comparison: Comparison) -> tuple[str, ...]:
    """Attacks of "all" that could not run because there are no reference models."""
    if _asked_by_name(comparison) or _has_references(comparison):
        return ()
    return tuple(result.name for result in comparison.not_run if result.family in _WITH_REFERENCES)


def _uncontrolled(comparison: Comparison, judged: Sequence[AttackResult]) -> list[str]:
    """One sentence for each kind of control that some judged attacks lack."""
    found = []
    for kind in (TWIN, SHUFFLED):
        mine = {control.attack: control for control in comparison.controls if control.kind == kind}
        lacking = {r.name: mine.get(r.name) for r in judged if r.name not in mine or mine[r.name].p_value is None}
        if lacking:
            reasons = dict.fromkeys(c.reason if c else "it is missing" for c in lacking.values())
            whose = "any attack" if len(lacking) == len(judged) else ", ".join(lacking)
            found.append(f"no {kind} could be checked for {whose} ({'; '.join(r.rstrip('.') for r in reasons)})")
    return found


def _wanting(comparison: Comparison) -> list[str]:
    """One sentence for each reason why attacks that could not run should have been judged."""
    if _asked_by_name(comparison):
        return _though("asked for, but could not run", comparison.not_run)
    outsiders = [result for result in comparison.not_run if result.family != TRAINED_IN]
    referring = [r for r in outsiders if r.family in _WITH_REFERENCES and _has_references(comparison)]
    broken = [r for r in outsiders if r.failed and r.family not in _WITH_REFERENCES]
    return [
        *_though("could not run although there are reference models", referring),
        *_though("could not run although this model gives what they need", broken),
    ]


def _though(said: str, missed: Sequence[AttackResult]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for result in missed:
        reasons.setdefault(result.reason.rstrip("."), []).append(result.name)
    why = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return [f"{said}: {why}"] if why else []


def _asked_by_name(comparison: Comparison) -> bool:
    return comparison.settings.get("attacks") != "all"


def _has_references(comparison: Comparison) -> bool:
    # A comparison that does not say how many there were is judged as strictly as one with some.
    return comparison.settings.get("references") != 0


def _beyond(result: AttackResult, most: float) -> str:
    bound = result.epsilon
    if bound is None:
        return f"{result.name} was not bounded"
    if bound.value > most:
        return f"{result.name} is at least {bound.value:.3g}, above {most:g}"
    # A lower bound that could not have come out higher says nothing of the limit.
    highest = epsilon_lower_bound(bound.samples, bound.samples, bound.samples, bound.delta, bound.confidence)
    if highest <= most:
        return (
            f"{result.name} cannot be judged: {bound.samples:,} right guesses of as many would show {highest:.3g} only"
        )
    return ""


def _breaks(result: AttackResult, limit: Limit) -> str:
    auroc = result["auroc"].interval
    if limit.metric == "auroc" and auroc.high < 0.5 and not 1 - auroc.low <= limit.most:
        turned = f"may be {1 - auroc.low:.3f} with its scores turned round, above {limit.most:g}"
        return f"{result.name}, which ranks members below non-members, {turned}"
    # Nothing but the AUROC tells how far such scores reach when turned round.
    if limit.metric != "auroc" and auroc.high < 0.5 and (result.p_value or 0) > _SURELY_LOWER:
        return f"{result.name} cannot be judged: members score clearly lower than non-members"
    if limit.metric == EPSILON:
        return _beyond(result, limit.most)
    measured = result[limit.metric]
    if measured.note:
        return f"{result.name} cannot be judged: it {measured.note}"
    high = measured.interval.high
    return "" if high <= limit.most else f"{result.name} may be {high:.3f}, above {limit.most:g}"
