"""What the page of a verdict shows: which samples, which figures, and what is said of power and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from amint.bundle_words import evaluation_rows
from amint.calibration import Calibration
from amint.evidence import Verdict
from amint.items import Evidence, Items, by_rank
from amint.report.figures import p_value_plot, power_plot, roc_plot, score_histogram

__all__ = ["distinct", "evaluation", "figures", "pictured", "pictures", "power_sentence"]

_MOST_PICTURED = 12


def distinct(verdict: Verdict) -> Items:
    """What was judged, without copies."""
    judged = verdict.judged
    return judged.take(~judged.are_copies())


def pictured(verdict: Verdict) -> tuple[str, ...]:
    """The names of the samples whose pictures a report shows: the most and the least suspicious, copies once."""
    return tuple(item.path for group in _extremes(verdict) for item in group)


def _extremes(verdict: Verdict) -> tuple[Items, Items]:
    """The most and the least suspicious, each in the order of suspicion."""
    ranked = by_rank(distinct(verdict))
    half = min(_MOST_PICTURED, (len(ranked) + 1) // 2)
    return ranked[:half], ranked[max(half, len(ranked) - _MOST_PICTURED) :]


def pictures(verdict: Verdict, thumbnails: Mapping[str, bytes]) -> list[tuple[str, list[Evidence]]]:
    """Title and samples of each group that there are pictures of."""
    groups = zip(("Most suspicious", "Least suspicious"), _extremes(verdict), strict=True)
    shown = [(title, [item for item in items if item.path in thumbnails]) for title, items in groups]
    return [(title, items) for title, items in shown if items]


def figures(verdict: Verdict, calibration: Calibration) -> dict[str, Markup]:
    """Drawn are distinct samples: copies are no evidence of their own."""
    items = distinct(verdict)
    found = {}
    if items:
        scores, p_values = items.numbers("score"), items.numbers("p_value")
        line = (f"p ≤ {verdict.alpha:g}", calibration.threshold(verdict.alpha))
        found = {
            "scores": score_histogram(
                "scores",
                ("calibration (not used)", calibration.scores),
                ("submission", scores),
                None if verdict.by_class else line,
            ),
            "p_values": p_value_plot("p-values", p_values, len(calibration.scores), verdict.alpha),
        }
        if not verdict.by_class:
            found["roc"] = roc_plot(
                "roc",
                {"submission": (scores, calibration.scores)},
                found="share of the submission",
                among="calibration data",
            )
    if verdict.power and verdict.power["points"]:
        found["power"] = power_plot("power", verdict.power, verdict.counted)
    return found


def power_sentence(verdict: Verdict) -> str:
    """How many samples it takes, in words."""
    power = verdict.power
    if verdict.by_class and not power:
        return "Not known how many samples a verdict by class takes: known members are kept without their class."
    if not power:
        return (
            "Not known how many samples a verdict on this model takes: the bundle holds no scores of known members, "
            "which its owner can add with audit.evaluate."
        )
    share, found = f"{power['target']:.0%} of submissions", f"{power['members_n']:,} known members"
    test = f"by the MINT head alone, at a false-alarm rate of {power['alpha']:g}"
    if power["alpha"] != verdict.alpha:
        test += f" (its share of {verdict.alpha:g})"
    if power["needed"] is None:
        return f"Half of {found} are too few for {share} to be found {test}; how many it takes is not known."
    samples = "1 sample is" if power["needed"] == 1 else f"{power['needed']:,} samples are"
    return f"{samples} needed for {share} to be found {test}, if all of them were used and are like the {found}."


def evaluation(figures: Any) -> list[tuple[str, str]]:
    """Name and value of each figure that the owner measured; a bundle can hold anything in its place."""
    return [(f"Owner’s {name}", value) for name, value in evaluation_rows(figures)]
