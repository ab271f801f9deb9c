"""ROC curves of many attacks, on two logarithmic axes, told apart by colour, dashes and markers alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter

from amint.errors import UsageError
from amint.report.figures import BLUE, GREEN, GREY, VERMILLION, _axes, _inline

__all__ = ["MOST_CURVES", "log_roc"]

Curve = Sequence[tuple[float, float]]

_INK = "#1f2933"
_LOOKS = (
    (VERMILLION, "solid", "o"),
    (BLUE, (0, (5, 1.5)), "s"),
    (GREEN, (0, (1, 1)), "^"),
    (_INK, "dashdot", "D"),
    ("#cc79a7", (0, (3, 1, 1, 1, 1, 1)), "v"),
    ("#56b4e9", (0, (8, 2)), "P"),
)
MOST_CURVES = len(_LOOKS)
_LONG = 20
# In inches: the figure without its legend, and a line of that.
_WIDTH, _HEIGHT, _LINE = 4.9, 3.0, 0.21


def log_roc(name: str, title: str, curves: Mapping[str, tuple[Curve, str]], smallest: tuple[float, float]) -> Markup:
    """Step ROC curves with logarithmic axes, on which low false-alarm rates have room.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        title: what the curves are, for readers who do not see them.
        curves: label -> (FPR, TPR) points from (0, 0) to (1, 1), and the same in words; at most ``MOST_CURVES``.
        smallest: the FPR and the TPR of a single sample, where the axes begin.

    Raises:
        UsageError: too many curves.
    """
    if len(curves) > MOST_CURVES:
        raise UsageError(f"{len(curves)} curves cannot be told apart in one figure; draw at most {MOST_CURVES}")
    left, bottom = (min(0.1, 10.0 ** np.floor(np.log10(rate))) for rate in smallest)
    with _axes() as (figure, axes), warnings.catch_warnings():
        # Text stays text in the SVG: it is the reader's browser that needs the glyphs.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        for number, ((label, (points, _)), (color, dashes, marker)) in enumerate(
            zip(curves.items(), _LOOKS, strict=False)
        ):
            fpr, tpr = np.array(points).T
            rates = np.geomspace(left, 1, 300)
            found = tpr[np.searchsorted(fpr, rates * (1 + 1e-9), side="right") - 1]
            seen = np.where(found > 0, found, np.nan)
            # Markers of different curves never stand above each other.
            at = list(range(20 + 9 * number, 300, 60))
            axes.step(
                rates,
                seen,
                where="post",
                color=color,
                linestyle=dashes,
                linewidth=1.6,
                marker=marker,
                markersize=4.5,
                markevery=at,
                label=label,
            )
        axes.plot([left, 1], [left, 1], color=GREY, linewidth=0.9, label="guessing")
        axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(bottom, 1.1))
        axes.set(xlabel="false alarms among non-members (log)", ylabel="members found (log)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.grid(color="#e5e7eb", linewidth=0.7)
        # Two long names beside each other would leave the figure.
        columns = 1 if max(map(len, curves), default=0) > _LONG else 2
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
        # The legend stands above the axes and must not press them together.
        figure.set_size_inches(_WIDTH, _HEIGHT + _LINE * math.ceil((len(curves) + 1) / columns))
        return _inline(figure, name, title, " ".join(f"{label}: {words}" for label, (_, words) in curves.items()))
