"""The command line: ``amint demo | splits | inspect | verify``. Exit status: 0 done, 2 unusable input."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from amint import __version__
from amint.errors import AmintError, UsageError
from amint.evidence import Verdict, by_rank

__all__ = ["app", "main"]

app = cyclopts.App(
    name="amint",
    version=__version__,
    help="Make a PyTorch model auditable, and ask later: was this data used to train it?",
)
_out, _err = Console(), Console(stderr=True)


def main(tokens: Sequence[str] | None = None) -> None:
    """Entry point; what went wrong is one line on the error stream and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (AmintError, cyclopts.CycloptsError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    line = Text.assemble(("error: ", "bold red"), _plain(" ".join(message.split())))
    _err.print(line, soft_wrap=True)
    sys.exit(2)


def _plain(value: object) -> Text:
    """A stranger's text as it is: no markup, no emoji names, nothing that commands a terminal."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)))


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Train an auditable model on scikit-learn's digits, compare it with a plain one, verify images.

    Parameters
    ----------
    out
        Folder for results.json, report.html, the bundle and the submitted images.
    seed
        Seed of everything random.
    """
    from amint.demo import run_demo

    with _progress() as bar:
        results = run_demo(out, seed=seed, progress=_stages(bar))
    active, registered, passive = results["active"], results["registered"], results["passive"]
    table = Table("", "AUROC", "balanced accuracy", "TPR at 1 % FPR", title="Members against unseen images")
    for name, row in (("active MINT", active), ("registered afterwards", registered), ("passive MINT", passive)):
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("auroc", "balanced_accuracy", "tpr_at_fpr_0.01")))
    _out.print(table)
    task = results["task"]
    _out.print(f"Accuracy at the task: {task['plain_accuracy']:.3f} plain, {task['audited_accuracy']:.3f} audited.")
    for name, row in results["verify"].items():
        _out.print(f"Folder of {row['n']} {name}: {row['flagged']} flagged, set-level p = {row['set_p_value']:.2g}.")
    _say(f"Wrote {out / 'results.json'} and {out / 'report.html'} in {results['seconds']:.0f} s.")


@app.command
def splits(
    model: str,
    /,
    *,
    library: Literal["timm", "torchvision"] = "timm",
    input: Annotated[str, Parameter(help="Channels x height x width, for example 3x224x224.")] = "3x224x224",
) -> None:
    """List where a model can be tapped, with shapes and the share of the forward cost up to each place.

    Parameters
    ----------
    model
        Name of a timm or torchvision classifier.
    library
        Where the model comes from.
    """
    import torch

    from amint.architecture import Architecture
    from amint.split import tap_points

    sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", input.lower())
    shape = [int(side) for side in sides.groups()] if sides else [0]
    if not 0 < math.prod(shape) <= 2**26:
        raise UsageError(
            f"--input is channels x height x width, such as 3x224x224, and not larger than 3x4096x4096; got {input!r}"
        )
    arguments: dict[str, Any] = {"in_chans": shape[0]} if library == "timm" and shape[0] != 3 else {}
    network = Architecture(library, model, arguments).build()
    points = tap_points(network, torch.zeros(1, *shape))
    table = Table("tap", "setup", "shape", "layout", "cost so far", title=f"{library}/{model} on {input}")
    for point in points:
        size = " x ".join(map(str, point.shape))
        table.add_row(point.name, ", ".join(point.setups), size, point.layout, f"{point.cost:.1%}")
    _out.print(table)


@app.command
def inspect(bundle: Path, /) -> None:
    """Say what an audit bundle holds; nothing of it is run.

    Parameters
    ----------
    bundle
        A bundle's folder or .zip.
    """
    from amint.bundle import read

    held = read(bundle)
    manifest, known, architecture = held.manifest, held.calibration, held.architecture
    sizes = [sum(t.numel() for t in weights.values()) for weights in (held.model_weights, held.head_weights)]
    rows = {
        "bundle SHA-256": held.sha256,
        "weights SHA-256": manifest["files"]["model.safetensors"],
        "created": manifest["created"],
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest["libraries"].items()),
        "model": "passed by the caller",
        "parameters": f"{sizes[0]:,} in the model, {sizes[1]:,} in the MINT head",
        "taps": ", ".join(f"{p.name} {p.shape} at {p.cost:.1%} of the forward cost" for p in held.points),
        "input": " x ".join(map(str, held.input_shape)),
        "preprocessing": held.preprocessing or "none: only tensors can be verified",
        "calibration": f"{len(known.scores)} non-members; smallest p-value of one sample {known.smallest_p:.2g}",
    }
    if architecture is not None:
        rows["model"] = f"{architecture.library}/{architecture.name} {dict(architecture.arguments)}"
    table = Table(Column(), Column(overflow="fold"), title=_plain(bundle), show_header=False)
    for name, value in (rows | {f"training: {name}": value for name, value in manifest["facts"].items()}).items():
        table.add_row(_plain(name), _plain(value))
    _out.print(table)


@app.command
def verify(
    bundle: Path,
    submitted: Path,
    /,
    *,
    alpha: float = 0.01,
    out: Path = Path("runs/verify"),
    allow_import: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    rows: Annotated[int, Parameter(validator=Number(gte=0))] = 20,
) -> None:
    """Judge a folder of images: was this used to train the model?

    Prints the verdict and the most suspicious files, writes verdict.json, verdict.csv and report.html.

    Parameters
    ----------
    bundle
        The audit bundle, a folder or .zip.
    submitted
        A folder of images, searched with its subfolders, or one image.
    alpha
        Accepted false-alarm rate.
    out
        Folder for verdict.json, verdict.csv and report.html.
    allow_import
        Import path of model code that the bundle may run, such as mypackage.models:Net.
    rows
        How many files to print; all of them are in verdict.csv.
    """
    from amint.audit import load
    from amint.report import write_report
    from amint.verification import verify as judge

    with _progress() as bar:
        task = bar.add_task("judging", total=None)
        audit = load(bundle, allow_import=allow_import)
        out.mkdir(parents=True, exist_ok=True)
        verdict = judge(
            audit, submitted, alpha=alpha, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    paths = [*verdict.write(out), write_report(verdict, audit.calibrated(), out / "report.html")]
    _out.print(_table(verdict, rows))
    _say(verdict.sentence(), style="bold")
    _say(f"Wrote {', '.join(map(str, paths))}.")


def _table(verdict: Verdict, most: int) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("score", "p", "adjusted")]
    table = Table(Column("file", overflow="fold"), *numbers, Column("verdict", no_wrap=True), box=box.SIMPLE)
    for item in by_rank(verdict.items)[:most]:
        name = Text.assemble(_plain(item.path), (f"\n{_plain(item.note)}" if item.note else "", "dim"))
        score = "" if item.score is None else f"{item.score:.3f}"
        p_values = ["" if p is None else f"{p:.2g}" for p in (item.p_value, item.adjusted)]
        table.add_row(name, score, *p_values, item.decision)
    if len(verdict.items) > most:
        table.caption = f"{most} of {len(verdict.items)} files, the most suspicious first; all are in verdict.csv"
    return table


def _say(text: str, style: str = "") -> None:
    _out.print(_plain(text), style=style, highlight=False)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal)


def _stages(bar: Progress) -> Any:
    tasks: dict[str, Any] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    return show
