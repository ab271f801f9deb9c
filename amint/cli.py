"""The command line: ``amint demo | splits | inspect | verify | attack | prove | check-proof | sign | keygen | bom``.

Exit status: 0 done, 1 a gate is broken, 2 unusable input.
"""

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
from rich.table import Table
from rich.text import Text

import amint
from amint.commands import console, trust
from amint.commands.tables import bundle_table, demo_table, verdict_table
from amint.errors import AmintError, UsageError
from amint.next_steps import next_steps
from amint.wording import fine_print

__all__ = ["app", "main"]

# What every generator of random numbers takes.
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**32))]

app = cyclopts.App(
    name="amint",
    version=amint.__version__,
    help="Make a PyTorch model auditable, and ask later: was this data used to train it?",
)


def main(tokens: Sequence[str] | None = None) -> None:
    """Entry point; what went wrong is one line on the error stream and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        # File names may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except cyclopts.UnknownCommandError as error:
        name = (error.unused_tokens or [""])[0]
        _fail(f"{error}{f' (amint.{name} is for Python scripts)' if name in amint.__all__ else ''}")
    except (AmintError, cyclopts.CycloptsError) as error:
        _fail(str(error))
    except FileExistsError as error:
        _fail(f"{error.filename} is a file, where a folder is expected; name another place")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    line = Text.assemble(("error: ", "bold red"), console.plain(" ".join(message.split())))
    console.err.print(line, soft_wrap=True)
    sys.exit(2)


@app.command
def demo(*, out: Path = Path("runs/demo"), seed: Seed = 0) -> None:
    """Train an auditable model on scikit-learn's digits, compare it with a plain one, verify images.

    Parameters
    ----------
    out
        Folder for results.json, report.html, the bundle and the submitted images.
    seed
        Seed of everything random.
    """
    from amint.demo import run_demo

    with console.progress() as bar:
        results = run_demo(out, seed=seed, progress=console.stages(bar))
    console.out.print(demo_table(results))
    task = results["task"]
    console.out.print(
        f"Accuracy at the task: {task['plain_accuracy']:.3f} plain, {task['audited_accuracy']:.3f} audited."
    )
    for name, row in results["verify"].items():
        console.out.print(
            f"Folder of {row['n']} {name}: {row['flagged']} flagged, set-level p = {row['set_p_value']:.2g}."
        )
    console.say(f"Wrote {out / 'results.json'} and {out / 'report.html'} in {results['seconds']:.0f} s.")


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
    if shape[2] in (1, 3) and shape[0] > 4:
        raise UsageError(f"--input is channels x height x width; in {input} the channels seem to come last")
    if library == "torchvision" and shape[0] != 3:
        raise UsageError(f"torchvision's classifiers take three channels; got --input {input}. timm's take any number")
    arguments: dict[str, Any] = {"in_chans": shape[0]} if library == "timm" and shape[0] != 3 else {}
    network = Architecture(library, model, arguments).build()
    points = tap_points(network, torch.zeros(1, *shape))
    table = Table("tap", "setup", "shape", "layout", "cost so far", title=f"{library}/{model} on {input}")
    for point in points:
        size = " x ".join(map(str, point.shape))
        table.add_row(point.name, ", ".join(point.setups), size, point.layout, f"{point.cost:.1%}")
    console.out.print(table)


@app.command
def inspect(bundle: Path, /, *, report: Path | None = None) -> None:
    """Say what an audit bundle holds; nothing of it is run.

    Parameters
    ----------
    bundle
        A bundle's folder or .zip.
    report
        HTML file to write, which also shows the curves of the training.
    """
    from amint.bundle import read

    held = read(bundle)
    console.out.print(bundle_table(held))
    if report is not None:
        from amint.report.inspection import write_bundle_report

        console.say(f"Wrote {write_bundle_report(held, report)}.")


@app.command
def verify(
    bundle: Path,
    submitted: Path,
    /,
    *,
    alpha: float = 0.01,
    out: Path = Path("runs/verify"),
    by_class: bool | None = None,
    public_key: str | None = None,
    allow_import: tuple[str, ...] = (),
    rows: Annotated[int, Parameter(validator=Number(gte=0))] = 20,
) -> None:
    """Judge submitted images: was this used to train the model?

    Prints the verdict and the most suspicious files, writes verdict.json, verdict.csv and report.html. When it was
    interrupted, the same command goes on where it was; what was added, changed or removed meanwhile is judged as it is
    then.

    Parameters
    ----------
    bundle
        The audit bundle, a folder or .zip.
    submitted
        A folder of images, searched with its subfolders; a zip or tar file of one; a CSV list of paths; a Parquet file
        with images; or one image.
    alpha
        Accepted false-alarm rate.
    out
        Folder for verdict.json, verdict.csv and report.html.
    by_class
        Compare each file with calibration samples of the class that the model predicts; by default as the bundle says.
    public_key
        Refuse a bundle that is not signed with this key.
    allow_import
        Import path of model code that the bundle may run, such as mypackage.models:Net.
    rows
        How many files to print; all of them are in verdict.csv.
    """
    from amint.journal import Journal
    from amint.loading import load
    from amint.readers.thumbnails import thumbnails
    from amint.report import pictured, write_report
    from amint.verification import verify as judge

    if submitted.is_dir() and out.resolve().is_relative_to(submitted.resolve()):
        raise UsageError(f"--out {out} lies inside the submission {submitted}, of which it would become a part")
    with console.progress() as bar:
        task = bar.add_task("judging", total=None)
        audit = load(bundle, allow_import=allow_import, public_key=public_key)
        out.mkdir(parents=True, exist_ok=True)
        journal = out / "journal.jsonl"
        try:
            verdict = judge(
                audit,
                submitted,
                alpha=alpha,
                by_class=by_class,
                journal=journal,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            console.err.print("Interrupted. The same command goes on where it was.")
            raise
    shown = thumbnails(submitted, pictured(verdict))
    page = write_report(verdict, audit.calibrated(), out / "report.html", thumbnails=shown)
    paths = [*verdict.write(out), page]
    Journal.discard(journal)
    console.out.print(verdict_table(verdict, rows))
    console.say(verdict.sentence(), style="bold")
    for line in [*fine_print(verdict), *next_steps(verdict)]:
        console.say(line)
    console.say(f"Wrote {', '.join(map(str, paths))}.")


@app.command
def attack(
    *,
    target: Path,
    members: Path,
    nonmembers: Path,
    attacks: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("all",),
    references: Path | None = None,
    out: Path = Path("runs/attack"),
    fail_above: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True)] = None,
    seed: Seed = 0,
    allow_import: tuple[str, ...] = (),
) -> None:
    """Compare membership attacks on a model: how much do they find out about its training data?

    Members and non-members are folders with a subfolder for each class of the model (numbered by name, or by a file
    classes.txt that lists all), or .npz files with x (float inputs or uint8 images) and y. Writes comparison.json,
    comparison.csv and report.html. Exits with status 1 if the gate is broken, and with 2 if no attack could run.

    Parameters
    ----------
    target
        The audit bundle, a folder or .zip.
    members
        Samples that the model was trained on.
    nonmembers
        Samples that nothing was trained on, from where the members come from.
    attacks
        "all", or names of attacks.
    references
        Folder of reference models, made by amint.references.train_references.
    out
        Folder for the results, and for signals that a second run can use again.
    fail_above
        The gate: metric=limit, such as auroc=0.60, for the upper end of every outside attack's interval.
    seed
        Seed of the split into known and audited samples, and of the controls.
    allow_import
        Import path of model code that the bundle may run, such as mypackage.models:Net.
    """
    from amint.commands.attack import run_attack, tell

    # As from an empty variable in a script: a gate without limits would let everything pass.
    if fail_above is not None and not fail_above:
        raise UsageError("--fail-above needs at least one limit, such as auroc=0.60; leave it out for no gate")
    with console.progress() as bar:
        done = run_attack(
            target,
            members,
            nonmembers,
            attacks=attacks,
            references=references,
            out=out,
            fail_above=fail_above or (),
            seed=seed,
            allow_import=allow_import,
            progress=console.stages(bar),
        )
    if status := tell(done):
        sys.exit(status)


for command in (trust.prove, trust.check_proof, trust.sign, trust.keygen, trust.bom):
    app.command(command)
