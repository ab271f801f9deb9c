"""What one attack reached, and the strongest of several in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amint.calibration import holm
from amint.errors import UsageError
from amint.lower_bound import EpsilonBound
from amint.metrics import LOW_FPRS, Measurement, tpr_name

__all__ = [
    "METRICS",
    "SHUFFLED",
    "TRAINED_IN",
    "TWIN",
    "AttackControl",
    "AttackResult",
    "figure",
    "strongest_sentence",
    "succeeds",
]

METRICS = ("auroc", "balanced_accuracy", *map(tpr_name, LOW_FPRS))
# The family of attacks that the training itself put into the model, and that no outsider has.
TRAINED_IN = "trained in"
# The kinds of controls; a whole comparison has both of every attack that ran.
TWIN, SHUFFLED = "untrained twin", "shuffled membership"
# Accepted chance that pure luck is called a success, half of what the two-sided 95 % interval beside it leaves out, so
# that both agree but at the very edge; for attacks that are wrong more often than not a smaller one.
_CHANCE, _REVERSED = 0.025, 0.001


@dataclass(frozen=True)
class AttackResult:
    """One attack on the audited rows.

    Attributes:
        name: of the attack.
        family: what it can see, such as "references".
        about: one plain sentence on what it does.
        needs: names of the signals it reads.
        measurements: one for each of ``METRICS``; none if it could not run.
        p_value: chance of members scoring this high among the audited rows if membership made no difference.
        threshold: where the balanced accuracy is best on rows that were neither fitted nor audited.
        roc: (FPR, TPR) points, from (0, 0) to (1, 1), thinned.
        epsilon: the lower bound that this attack alone gives; None if no class holds audited members and non-members.
        forward_passes: passes of the target and of all references that it costs for each sample, if run alone; a
            gradient counts as two more.
        seconds: spent in its own fitting and scoring.
        reason: why it could not run, or empty.
        note: what to mind when reading its figures, or empty.
        failed: whether it could not run although this kind of target gives what it needs.
    """

    name: str
    family: str
    about: str
    needs: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()
    p_value: float | None = None
    threshold: float | None = None
    roc: tuple[tuple[float, float], ...] = ()
    epsilon: EpsilonBound | None = None
    forward_passes: int = 0
    seconds: float = 0.0
    reason: str = ""
    note: str = ""
    failed: bool = False

    @property
    def reversed(self) -> bool:
        """Whether members score lower: the whole interval of the AUROC lies below 0.5."""
        return bool(self.measurements) and self["auroc"].interval.high < 0.5

    @property
    def reach(self) -> float:
        """The AUROC, of reversed scores that of the scores turned round: whoever knows the attack can do that."""
        auroc = self["auroc"].value
        return 1 - auroc if self.reversed else auroc

    def __getitem__(self, metric: str) -> Measurement:
        """The measurement of this name. Raises UsageError if there is none."""
        for measurement in self.measurements:
            if measurement.name == metric:
                return measurement
        raise UsageError(f"{self.name} has no {metric!r}; it has {[m.name for m in self.measurements]}. {self.reason}")


@dataclass(frozen=True)
class AttackControl:
    """One attack where it must fail: on an untrained twin of the target, or with the membership shuffled.

    Attributes:
        kind: "untrained twin" or "shuffled membership".
        attack: its name.
        auroc: what it reached; None if it could not run.
        p_value: two-sided chance of an AUROC this far from 0.5 by luck alone; None if it could not run.
        reason: why it could not run, or empty.
    """

    kind: str
    attack: str
    auroc: float | None
    p_value: float | None
    reason: str = ""


def succeeds(results: Sequence[AttackResult]) -> bool:
    """Whether some of these attacks tell members from non-members, by more than the luck of the best of them."""
    # The strongest was picked on these very rows, so its own p-value must pay for all that could have been picked.
    p_values = [1.0 if result.p_value is None else result.p_value for result in results]
    turned = [1 - p for result, p in zip(results, p_values, strict=True) if result.reversed]
    return min(holm(p_values), default=1.0) <= _CHANCE or any(p * len(results) <= _REVERSED for p in turned)


def strongest_sentence(ranked: Sequence[AttackResult]) -> str:
    """What the first of these attacks found, the strongest, in plain words and with its uncertainty."""
    best, many = ranked[0], len(ranked)
    who = f"the strongest of {many} attacks from outside, {best.name}," if many > 1 else f"the attack {best.name}"
    auroc, low = best["auroc"], best[tpr_name(0.01)]
    if not succeeds(ranked):
        luck = f", and by luck alone the strongest of {many} lies higher" if many > 1 else ""
        return (
            f"No attack from outside clearly tells members from non-members: {who} has an AUROC of {figure(auroc)}, "
            f"where 0.5 is guessing{luck}. This does not show that no attack could."
        )
    said = f"{who[0].upper()}{who[1:]} tells members from non-members"
    if best.reversed:
        return (
            f"{said} in reverse: members score lower, with an AUROC of {figure(auroc)}, and with the scores turned "
            f"round it is {best.reach:.3f}."
        )
    found = f"finds {100 * low.value:.1f} % of the members at 1 % false alarms"
    return f"{said} with an AUROC of {figure(auroc)} and {found}."


def figure(measured: Measurement) -> str:
    """A value with its interval."""
    low, high, confidence = measured.interval.low, measured.interval.high, measured.interval.confidence
    return f"{measured.value:.3f} ({100 * confidence:g} % interval {low:.3f} to {high:.3f})"
