"""The curves of a training run: losses and accuracy of the MINT head over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from amint.history import Curves
from amint.report.figures import BLUE, GREY, VERMILLION, _axes, _inline, _legend, _panels

__all__ = ["accuracy_curve", "loss_curves", "progress_figures"]

GUESSING = log(2)
_FEW = 50


def progress_figures(curves: Curves) -> dict[str, Markup]:
    """The figures of a page, "losses" and "accuracy"."""
    return {"losses": loss_curves("losses", curves), "accuracy": accuracy_curve("accuracy", curves)}


def loss_curves(name: str, curves: Curves) -> Markup:
    """The task's loss, where it is known, above the MINT loss with the line of a head that guesses, ln 2.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        curves: of the training run.
    """
    lines = {"task loss": curves.task_loss, "MINT loss": curves.mint_loss}
    drawn = {label: values for label, values in lines.items() if values is not None}
    with _panels(len(drawn)) as (figure, panels):
        if curves.task_loss is not None:
            _line(panels[0], curves, curves.task_loss, BLUE, "task loss")
            _legend(panels[0])
        mint = panels[-1]
        _line(mint, curves, curves.mint_loss, VERMILLION, "MINT loss")
        mint.axhline(GUESSING, color=GREY, linestyle="dashed", linewidth=1.2, label="guessing, ln 2 ≈ 0.69")
        mint.set(xlabel="training step", ylim=(0, 1.08 * max(GUESSING, *curves.mint_loss)))
        _legend(mint)
        said = [_in_words(label, values, "{:.3g}") for label, values in drawn.items()]
        title = f"{_begun(' and '.join(drawn))} over {curves.steps:,} training steps"
        return _inline(figure, name, title, " ".join([*said, "A head that guesses has a MINT loss of ln 2."]))


def accuracy_curve(name: str, curves: Curves) -> Markup:
    """Balanced accuracy of the MINT head on the rows of each step, with the line of a head that guesses.

    Args:
        name: prefix of the SVG's ids, unique in the page.
        curves: of the training run.
    """
    with _axes() as (figure, axes):
        _line(axes, curves, curves.mint_accuracy, VERMILLION, "MINT head")
        axes.axhline(0.5, color=GREY, linestyle="dashed", linewidth=1.2, label="guessing")
        axes.set(xlabel="training step", ylabel="balanced accuracy")
        axes.set_ylim(min(0.45, *curves.mint_accuracy) - 0.02, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        _legend(axes)
        title = f"Balanced accuracy of the MINT head over {curves.steps:,} training steps"
        return _inline(figure, name, title, _in_words("Balanced accuracy", curves.mint_accuracy, "{:.1%}"))


def _line(axes: Axes, curves: Curves, values: Sequence[float], color: str, label: str) -> None:
    marker = "o" if curves.steps <= _FEW else ""
    axes.plot(curves.middles, values, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(color="#e5e7eb", linewidth=0.7)


def _in_words(label: str, values: Sequence[float], form: str) -> str:
    tenth = -(-len(values) // 10)
    first, last = (form.format(float(np.mean(part))) for part in (values[:tenth], values[-tenth:]))
    least, most = form.format(min(values)), form.format(max(values))
    return f"{_begun(label)}: {first} over the first tenth, {last} over the last; between {least} and {most}."


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]
