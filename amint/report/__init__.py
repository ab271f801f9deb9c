"""A verdict or a training run as one HTML file, without scripts or outside resources, for phone, desktop and print."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import ArrayLike

from amint.bundle_words import METHODS
from amint.calibration import Calibration
from amint.errors import UsageError
from amint.evidence import HEAD, SCHEMA, Verdict
from amint.history import Curves
from amint.items import by_rank
from amint.metrics import auroc_interval, balanced_accuracy_interval, tpr_at_fpr_interval
from amint.next_steps import next_steps
from amint.report import parts
from amint.report.figures import roc_plot, score_histogram
from amint.report.parts import pictured
from amint.report.progress import progress_figures
from amint.wording import chance, shown_alone

__all__ = ["METHODS", "pictured", "write_report", "write_training_report"]

_KINDS = {
    HEAD: "what the head, told of the members in training, makes of the samples",
    "confidence": "how sure the model is of them; also shows data kept from the head, and takes easy samples for known",
}
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_SUSPICIOUS, _LEAST_SUSPICIOUS, _MOST_REJECTED, _LONGEST = 20, 5, 50, 400


def write_report(
    verdict: Verdict, calibration: Calibration, path: str | Path, *, thumbnails: Mapping[str, bytes] | None = None
) -> Path:
    """Write a verdict as one self-contained HTML file.

    Args:
        verdict: what :func:`amint.verify` found.
        calibration: the calibration that it was found with.
        path: the file to write; its folder is made if need be.
        thumbnails: PNG files of the samples that :func:`pictured` names, by the names that the verdict gives them, as
            from :func:`amint.readers.thumbnails.thumbnails`. What is missing is not shown.

    Raises:
        UsageError: the calibration is not the verdict's, or a thumbnail is no PNG file.
        AlphaError: the verdict's alpha is out of the calibration's reach.
    """
    if verdict.calibration_n != len(calibration.scores):
        raise UsageError(
            f"the verdict rests on {verdict.calibration_n} calibration scores, but the calibration given holds "
            f"{len(calibration.scores)}; pass the calibration of the audit that gave this verdict"
        )
    shown = dict(thumbnails or {})
    broken = [name for name, content in shown.items() if not content.startswith(_PNG)]
    if broken:
        raise UsageError(f"thumbnails must be the bytes of PNG files; {broken[0]!r} is something else")
    judged, n_judged = by_rank(verdict.judged), len(verdict.judged)
    rejected = verdict.rejected
    word, _, rest = verdict.sentence().partition(": ")
    last = judged[max(_MOST_SUSPICIOUS, n_judged - _LEAST_SUSPICIOUS) :]
    return _write(
        path,
        "verdict.html.j2",
        verdict=verdict,
        steps=next_steps(verdict),
        schema=SCHEMA,
        word=_plain(word),
        rest=_plain(rest),
        by_chance=verdict.alpha * n_judged,
        kinds=_KINDS,
        controls=sorted(verdict.controls, key=lambda control: control.outcome != "failed"),
        listed=judged[:_MOST_SUSPICIOUS],
        left_out=max(0, n_judged - _MOST_SUSPICIOUS - len(last)),
        last=last,
        pictures=parts.pictures(verdict, shown),
        thumbnails=shown,
        rejected=rejected[:_MOST_REJECTED],
        more_rejected=max(0, len(rejected) - _MOST_REJECTED),
        n_rejected=len(rejected),
        alone=shown_alone(alone) if (alone := verdict.provenance.members_alone) else "",
        method=METHODS.get(verdict.provenance.method, verdict.provenance.method),
        evaluation=parts.evaluation(verdict.provenance.evaluation),
        power_sentence=parts.power_sentence(verdict),
        figures=parts.figures(verdict, calibration),
    )


def write_training_report(
    results: Mapping[str, Any],
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    verdicts: Mapping[str, Verdict],
    path: str | Path,
    *,
    thresholds: Mapping[str, float] | None = None,
    progress: Curves | None = None,
) -> Path:
    """Write a training run, compared with its alternatives, as one self-contained HTML file.

    Args:
        results: the figures of the run, as ``amint demo`` writes them to results.json.
        curves: for each of the names in ``METHODS`` the scores of members ``[m]`` and of unseen samples ``[n]``.
        verdicts: name of a submission -> what was found, such as "members" and "unseen".
        path: the file to write; its folder is made if need be.
        thresholds: for each of the same names the score from which the balanced accuracy of ``results`` calls a sample
            a member, fixed without these scores; gives it an interval.
        progress: of the training of the audited model, from ``audit.history.curves()``; drawn if given.

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
        methods=[
            (label, results[key], _intervals(*curves[label], (thresholds or {}).get(label)))
            for key, label in METHODS.items()
        ],
        verdicts=verdicts,
        roc=roc_plot("roc", shown),
        histogram=score_histogram("scores", ("unseen", unseen), ("members", members)),
        curves=progress,
        progress=None if progress is None else progress_figures(progress),
    )


def _intervals(members: ArrayLike, unseen: ArrayLike, threshold: float | None) -> dict[str, str]:
    scores, labels = np.concatenate([members, unseen]), np.repeat([1, 0], [np.size(members), np.size(unseen)])
    found = {"auroc": auroc_interval(scores, labels), "tpr_at_fpr_0.01": tpr_at_fpr_interval(scores, labels, 0.01)}
    if threshold is not None:
        found["balanced_accuracy"] = balanced_accuracy_interval(scores, labels, threshold)
    return {key: f"{interval.low:.3f} – {interval.high:.3f}" for key, interval in found.items()}


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}g}"


def _visible(text: str) -> str:
    """What strangers wrote, such as file names: made plain, and cut where it is long."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return _plain(text)


def _plain(text: str) -> str:
    """No character that is invisible, reorders its neighbours or cannot be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_PAGES = Environment(
    loader=PackageLoader(__name__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_PAGES.filters |= {
    "base64": lambda content: base64.b64encode(content).decode("ascii"),
    "count": lambda n: f"{n:,}",
    "number": _number,
    "chance": lambda p: "–" if p is None else chance(p),
    "plain": _plain,
    "percent": lambda x: f"{x:.1%}".replace("%", " %"),
    "visible": _visible,
}


def _write(path: str | Path, template: str, **values: Any) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_PAGES.get_template(template).render(**values), encoding="utf-8", newline="\n")
    return path
