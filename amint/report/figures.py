"""Inline SVG figures, each with a text alternative in numbers.

Only matplotlib's objects, no pyplot: nothing is registered, no window is opened, and the caller's settings neither
change nor matter. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike
from scipy import stats

from amint.arrays import Floats, score_array
from amint.metrics import auroc, roc, tpr_at_fpr

__all__ = ["null_band", "p_value_plot", "power_plot", "roc_plot", "score_histogram"]

# Okabe and Ito's palette, told apart by all common kinds of colour vision; lines also differ in dashes.
BLUE, VERMILLION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b7280"
_CURVES = ((VERMILLION, "solid"), (GREEN, (0, (5, 1.5))), (BLUE, (0, (1, 1))), (GREY, "dashdot"))
_STYLE = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": "#1f2933",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 10.5,
    "font.sans-serif": ["DejaVu Sans"],
    "legend.borderaxespad": 0.2,
    "legend.borderpad": 0.2,
    "legend.columnspacing": 1.4,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "amint",
    "text.parse_math": False,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
}
_POINTS = 300


def score_histogram(
    name: str, expected: tuple[str, ArrayLike], found: tuple[str, ArrayLike], threshold: tuple[str, float] | None = None
) -> Markup:
    """How the scores of two groups lie to each other; each histogram is scaled to its own peak.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        expected: label and scores ``[n]`` of known non-members, drawn filled; n >= 1.
        found: label and scores ``[m]`` of what is judged, drawn outlined; m >= 1.
        threshold: label and place of a vertical line, which may fall outside the axis.
    """
    groups = {label: score_array(scores) for label, scores in (expected, found)}
    edges = _edges(list(groups.values()), None if threshold is None else threshold[1])
    outside = sum(int(((scores < edges[0]) | (scores > edges[-1])).sum()) for scores in groups.values())
    beyond = [f"Beyond the axis, counted in the outermost bars: {outside:,}."] if outside else []
    looks = ((BLUE, "59", 0.6), (VERMILLION, "33", 1.8))
    with _axes() as (figure, axes):
        for (label, scores), (color, opacity, width) in zip(groups.items(), looks, strict=True):
            counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
            bars = axes.stairs(counts / counts.max(), edges, fill=True, label=label)
            bars.set(facecolor=color + opacity, edgecolor=color, linewidth=width)
        if threshold is not None:
            label = f"{threshold[0]} from {threshold[1]:.3g} up"
            axes.axvline(threshold[1], color="#1f2933", linestyle="dashed", linewidth=1.2, label=label)
        margin = 0.04 * (edges[-1] - edges[0])
        axes.set_xlim(edges[0] - margin, edges[-1] + margin)
        axes.set_xlabel("\n".join(["score (higher = more like a member)", *beyond]))
        axes.set(ylabel="share, relative to its peak", ylim=(0, 1.05))
        axes.yaxis.set_major_locator(NullLocator())
        _legend(axes)
        lines = [*(_spread(label, scores, threshold) for label, scores in groups.items()), *beyond]
        return _inline(figure, name, f"Histogram of scores: {' and '.join(groups)}", " ".join(lines))


def p_value_plot(name: str, p_values: ArrayLike, n_calibration: int, alpha: float) -> Markup:
    """The p-values ``[m]``, m >= 1, in ascending order against where those of unused data would lie."""
    p = np.sort(score_array(p_values, "p-values"))
    m = len(p)
    at = np.unique(np.linspace(0, m - 1, _POINTS).round().astype(int))
    places = np.linspace(0, 1, _POINTS)[1:-1]
    with _axes() as (figure, axes):
        axes.fill_between(
            places,
            *null_band(places, m, n_calibration),
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="95 % band if unused",
        )
        axes.plot([0, 1], [0, 1], color=BLUE, linestyle="dashed", linewidth=1.2, label="expected if unused")
        marker = "o" if m <= 50 else ""
        axes.plot((at + 1) / (m + 1), p[at], color=VERMILLION, marker=marker, markersize=4, label="submission")
        axes.set(xlabel="place in the order, first to last", ylabel="p-value", xlim=(0, 1), ylim=(-0.02, 1.02))
        _legend(axes)
        quarters = ", ".join(f"{q:.2g}" for q in np.quantile(p, (0.25, 0.5, 0.75)))
        return _inline(
            figure,
            name,
            "Sorted p-values of the submission against the uniform diagonal",
            f"{m:,} p-values from {p[0]:.2g} to {p[-1]:.2g}; their quartiles are {quarters}, where unused data would "
            f"have about 0.25, 0.5, 0.75. {int((p <= alpha).sum()):,} are at or below {alpha:g}; by chance it would be "
            f"at most about {alpha * m:.3g}.",
        )


def null_band(places: Floats, m: int, n_calibration: int) -> tuple[Floats, Floats]:
    """Where the p-value at each place i / (m + 1) in the order of ``m`` unused samples lies with about 95 % chance.

    The number of calibration scores above it is beta-binomial, since all p-values share one calibration; the band is
    that of the beta distribution with the same mean and variance.
    """
    precision = max(n_calibration * (m + 2) / (m + 1 + n_calibration) - 1, 0.1)
    low, high = (stats.beta.ppf(q, precision * places, precision * (1 - places)) for q in (0.025, 0.975))
    return low, high


def roc_plot(
    name: str,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    found: str = "members found",
    among: str = "unseen",
) -> Markup:
    """Step ROC curves over a logarithmic false-alarm axis.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        curves: label -> scores of members ``[m]`` and of non-members ``[n]``; at most four.
        found: what the members' axis counts.
        among: what the non-members are.
    """
    parts = [f"{label}: {_rates(*_labelled(*scores), found)}" for label, scores in curves.items()]
    left = min(0.1, 10.0 ** np.floor(np.log10(1 / max(np.size(others) for _, others in curves.values()))))
    with _axes() as (figure, axes):
        rates = np.geomspace(left, 1, _POINTS)
        for (label, scores), (color, dashes) in zip(curves.items(), _CURVES, strict=False):
            curve = roc(*_labelled(*scores))
            tpr = curve.tpr[np.searchsorted(curve.fpr, rates, side="right") - 1]
            axes.step(rates, tpr, where="post", color=color, linestyle=dashes, label=label)
        axes.plot(rates, rates, color=GREY, linewidth=0.9, label="guessing")
        axes.set(xscale="log", xlabel=f"false alarms among {among} (log scale)", ylabel=found)
        axes.set(xlim=(left, 1), ylim=(0, 1.02))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.grid(color="#e5e7eb", linewidth=0.7)
        _legend(axes)
        return _inline(figure, name, f"ROC: {found} against false alarms among {among}", " ".join(parts))


def power_plot(name: str, power: Mapping[str, Any], submitted: int) -> Markup:
    """How often submissions of members are found, by their size, with Clopper-Pearson intervals.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        power: a :class:`amint.power.PowerCurve` as plain values, with at least one point.
        submitted: size of the submission at hand, drawn as a line; 0 for none.
    """
    sizes, rates = ([point[key] for point in power["points"]] for key in ("n", "rate"))
    bounds = [(point["interval"]["low"], point["interval"]["high"]) for point in power["points"]]
    below, above = (np.abs(np.array(rates) - ends) for ends in np.array(bounds).T)
    target = power["target"]
    with _axes() as (figure, axes):
        axes.axhline(target, color=BLUE, linestyle="dashed", linewidth=1.2, label=f"{100 * target:.0f} % found")
        if submitted:
            axes.axvline(
                submitted, color=GREY, linestyle="dotted", linewidth=1.4, label=f"this submission: {submitted:,}"
            )
        axes.errorbar(
            sizes,
            rates,
            (below, above),
            color=VERMILLION,
            marker="o",
            markersize=4,
            capsize=3,
            label="power",
        )
        axes.set(xscale="log", xlabel="submitted members (log scale)", ylabel="submissions found", ylim=(-0.02, 1.04))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.grid(color="#e5e7eb", linewidth=0.7)
        _legend(axes)
        points = (
            f"{n:,}: {rate:.0%} (95 % interval {low:.0%} to {high:.0%})"
            for n, rate, (low, high) in zip(sizes, rates, bounds, strict=True)
        )
        said = f"Share of submissions found at a false-alarm rate of {power['alpha']:g}, by size: {'; '.join(points)}."
        return _inline(figure, name, "Power: submissions found, by their size", said)


def _labelled(members: ArrayLike, others: ArrayLike) -> tuple[Floats, Floats]:
    inside, outside = score_array(members), score_array(others)
    return np.concatenate([inside, outside]), np.repeat([1.0, 0.0], [len(inside), len(outside)])


def _rates(scores: Floats, labels: Floats, found: str) -> str:
    rates = ", ".join(f"{tpr_at_fpr(scores, labels, fpr):.1%} at {fpr:.0%}" for fpr in (0.01, 0.1))
    return f"AUROC {auroc(scores, labels):.3f}; {found} at a false-alarm rate of: {rates}."


def _spread(label: str, scores: Floats, threshold: tuple[str, float] | None) -> str:
    low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
    text = f"{label}, {len(scores):,} scores: median {middle:.3g}, middle 90 % from {low:.3g} to {high:.3g}"
    if threshold is None:
        return f"{text}."
    above = int((scores >= threshold[1]).sum())
    return f"{text}, {above:,} at or above the line at {threshold[1]:.3g}."


def _edges(groups: Sequence[Floats], threshold: float | None) -> Floats:
    """Bin edges that cover the bulk of every group, so that a few wild scores do not flatten all the others.

    A threshold among them is an edge: no bar has part of its scores on either side of it.
    """
    lows, highs = zip(*map(_bulk, groups), strict=True)
    low, high = min(lows), max(highs)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        margin = max(1.0, abs(high)) / 2
        low, high = low - margin, high + margin
    bins = int(np.clip(np.sqrt(sum(map(len, groups))), 12, 40))
    if threshold is None or not low < threshold < high:
        return np.linspace(low, high, bins + 1)
    width = (high - low) / bins
    below, above = (int(np.ceil(reach / width)) for reach in (threshold - low, high - threshold))
    return np.asarray(threshold + width * np.arange(-below, above + 1))


def _bulk(scores: Floats) -> tuple[float, float]:
    low, high = np.quantile(scores, 0.05, method="higher"), np.quantile(scores, 0.95, method="lower")
    reach = max(float(high - low), 0.0) or np.inf
    return max(float(scores.min()), low - reach), min(float(scores.max()), high + reach)


@contextmanager
def _axes() -> Iterator[tuple[Figure, Axes]]:
    with _panels(1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def _panels(n: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """One above the other, over one x-axis."""
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.9, 3.3), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, list(figure.subplots(n, sharex=True, squeeze=False).flat)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an <svg> element for HTML: ids made unique, no namespace, no style that leaks into the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(text.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _own(name, key, value) for key, value in element.items()}
    for defs in root.iter("defs"):
        for sheet in defs.findall("style"):
            defs.remove(sheet)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-text"}
    for place, (tag, suffix, content) in enumerate((("title", "title", title), ("desc", "text", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{suffix}"})
        element.text = content
        root.insert(place, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _own(name: str, key: str, value: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    return value.replace("url(#", f"url(#{name}-") if not key.endswith("href") else f"#{name}-{value[1:]}"
