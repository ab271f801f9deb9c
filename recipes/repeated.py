"""One network trained again and again, one thing changed at a time, with the same rows for every line of a seed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cifar10 import Cifar10
from common import Pool
from cyclopts import Parameter
from lines import KEYS, Figures, Line
from sources import sources

# What runs may differ in and still be set side by side: where the data, the results and the network lie.
APART = ("seed", "seeds", "only", "out", "data_root", "device")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Small(Cifar10):
    """A CIFAR-10 training small enough to be repeated dozens of times on 2 CPU cores.

    The whole MINT gradient enters the network, as in the paper, and the head ends with it.

    Attributes:
        seeds: as many trainings of each line, from the first seed on.
        only: the lines named so, or beginning so where none is, beside the first; all without it.
    """

    arch: str = "resnet10t"
    members: int = 1000
    external: int = 2000
    epochs: int = 24
    trunk_gradient: float = 1.0
    ratio: float = 2.0
    head_epochs: int = 0
    seeds: int = 1
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()


def repeated(lines: Mapping[str, Line], use: Small, data: Pool) -> dict[str, list[Figures]]:
    """The figures of every line, seed by seed; every run is written when it is done, and not done again after a kill.

    Raises:
        SystemExit: the folder ``use.out`` holds runs of other settings.
    """
    use.out.mkdir(parents=True, exist_ok=True)
    about = {name: str(value) for name, value in asdict(use).items() if name not in APART} | {"sources": sources()}
    journal, runs = use.out / "runs.jsonl", list[dict[str, Any]]()
    if journal.exists():
        earlier, *runs = whole_lines(journal)
        if {name: value for name, value in earlier.items() if name not in APART} != about:
            raise SystemExit(
                f"{journal} holds runs with other settings or of other code; pass another --out, or remove it"
            )
    else:
        journal.write_text(json.dumps(about) + "\n", encoding="utf-8")
    done = {(run["name"], run["seed"]) for run in runs}
    for seed in range(use.seed, use.seed + use.seeds):
        for name, line in lines.items():
            if (name, seed) not in done:
                runs.append({"name": name, "seed": seed, **line(replace(use, seed=seed), data)})
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    of = {(run["name"], run["seed"]): {key: tuple(run[key]) for key in KEYS} for run in runs}
    return {name: [of[name, seed] for seed in range(use.seed, use.seed + use.seeds)] for name in lines}


def chosen(lines: Mapping[str, Line], only: tuple[str, ...]) -> dict[str, Line]:
    """The lines named so, or whose names begin so where none is; all without any.

    Raises:
        SystemExit: none begins so.
    """
    wanted = tuple(only or lines)
    begun = tuple(one for one in wanted if one not in lines)
    for one in begun:
        if not any(name.startswith(one) for name in lines):
            raise SystemExit(f"--only {one}: no line begins so; there are: {', '.join(lines)}")
    return {name: line for name, line in lines.items() if name in wanted or (begun and name.startswith(begun))}


def whole_lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's lines, after cutting off one that a kill left unfinished.

    Raises:
        SystemExit: there is none.
    """
    kept, _, torn = journal.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        journal.write_text(f"{kept}\n" if kept else "", encoding="utf-8")
    if not kept:
        raise SystemExit(f"{journal} is empty; remove it")
    return [json.loads(line) for line in kept.split("\n")]
