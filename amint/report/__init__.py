"""A verdict or a training run as one HTML file, without scripts or outside resources, for phone, desktop and print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import ArrayLike

from amint.calibration import Calibration
from amint.errors import UsageError
from amint.evidence import SCHEMA, Verdict, by_rank
from amint.metrics import auroc_interval, tpr_at_fpr_interval
from amint.report.figures import p_value_plot, roc_plot, score_histogram

__all__ = ["METHODS", "write_report", "write_training_report"]

METHODS = {"active": "active MINT", "registered": "registered afterwards", "passive": "passive MINT"}
_MOST_SUSPICIOUS, _MOST_REJECTED, _LONGEST = 20, 50, 400


def write_report(verdict: Verdict, calibration: Calibration, path: str | Path) -> Path:
    """Write a verdict as one self-contained HTML file.

    Args:
        verdict: what :func:`amint.verify` found.
        calibration: the calibration that it was found with.
        path: the file to write; its folder is made if need be.

    Raises:
        UsageError: the calibration is not the verdict's.
        AlphaError: the verdict's alpha is out of the calibration's reach.
    """
    if verdict.calibration_n != len(calibration.scores):
        raise UsageError(
            f"the verdict rests on {verdict.calibration_n} calibration scores, but the calibration given holds "
            f"{len(calibration.scores)}; pass the calibration of the audit that gave this verdict"
        )
    judged = verdict.judged
    rejected = [item for item in verdict.items if item.score is None]
    return _write(
        path,
        "verdict.html.j2",
        verdict=verdict,
        schema=SCHEMA,
        by_chance=verdict.alpha * len(judged),
        suspicious=by_rank(judged)[:_MOST_SUSPICIOUS],
        rejected=rejected[:_MOST_REJECTED],
        more_rejected=max(0, len(rejected) - _MOST_REJECTED),
        n_rejected=len(rejected),
        figures=_figures(verdict, calibration) if judged else None,
    )


def write_training_report(
    results: Mapping[str, Any],
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    verdicts: Mapping[str, Verdict],
    path: str | Path,
) -> Path:
    """Write a training run, compared with its alternatives, as one self-contained HTML file.

    Args:
        results: the figures of the run, as ``amint demo`` writes them to results.json.
        curves: for each of the names in ``METHODS`` the scores of members ``[m]`` and of unseen samples ``[n]``.
        verdicts: name of a submission -> what was found, such as "members" and "unseen".
        path: the file to write; its folder is made if need be.

    Raises:
        UsageError: a method without scores.
    """
    missing = [label for label in METHODS.values() if label not in curves]
    if missing:
        raise UsageError(f"curves lack {', '.join(missing)}; found {', '.join(curves) or 'none'}")
    shown = {label: curves[label] for label in METHODS.values()}
    members, unseen = shown[METHODS["active"]]
    return _write(
        path,
        "training.html.j2",
        results=results,
        methods=[(label, results[key], _intervals(*curves[label])) for key, label in METHODS.items()],
        verdicts=verdicts,
        roc=roc_plot("roc", shown),
        histogram=score_histogram("scores", ("unseen", unseen), ("members", members)),
    )


def _figures(verdict: Verdict, calibration: Calibration) -> dict[str, Markup]:
    scores = np.array([item.score for item in verdict.judged if item.copy_of is None], dtype=np.float64)
    return {
        "scores": score_histogram(
            "scores",
            ("calibration (not used)", calibration.scores),
            ("submission", scores),
            (f"p ≤ {verdict.alpha:g}", calibration.threshold(verdict.alpha)),
        ),
        "p_values": p_value_plot("p-values", calibration.p_values(scores), len(calibration.scores), verdict.alpha),
    }


def _intervals(members: ArrayLike, unseen: ArrayLike) -> dict[str, str]:
    scores, labels = np.concatenate([members, unseen]), np.repeat([1, 0], [np.size(members), np.size(unseen)])
    found = {"auroc": auroc_interval(scores, labels), "tpr_at_fpr_0.01": tpr_at_fpr_interval(scores, labels, 0.01)}
    return {key: f"{interval.low:.3f} – {interval.high:.3f}" for key, interval in found.items()}


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _visible(text: str) -> str:
    """No character that is invisible, reorders its neighbours or cannot be encoded; file names come from strangers."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_PAGES = Environment(
    loader=PackageLoader(__name__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_PAGES.filters |= {
    "count": lambda n: f"{n:,}",
    "number": _number,
    "chance": lambda p: "< 0.0001" if p is not None and p < 0.0001 else _number(p, 2),
    "percent": lambda x: f"{x:.1%}".replace("%", " %"),
    "visible": _visible,
}


def _write(path: str | Path, template: str, **values: Any) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGES.get_template(template).render(**values), encoding="utf-8", newline="\n")
    return path
