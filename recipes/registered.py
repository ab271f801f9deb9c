"""One network of the paper's tables, trained plainly, and a head registered on it for every split.

    python recipes/registered.py --data cifar10 --data-root DATA --arch vit_small_patch16_224       # the paper's size
    python recipes/registered.py --data mnist --data-root DATA --members 1000 --external 2000 --side 32 --batch 64

The cheapest way to a row: without a MINT gradient an audit leaves this very network, bit for bit, so that one training
serves every split. Network and rows are kept, and not made again after a kill.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from asked import Asked, Names
from common import Parts
from finished import ELSEWHERE, done
from grid import MODULES, SPLITS, settings
from joined import found_by, registered
from launch import launch
from paper import show
from row import Notes, conclude
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from settings import Settings
from sources import sources
from torch import nn
from training import train

from amint.errors import UsageError

# What a network may differ in and still be the same; what only a head is told begins with "head_".
APART = (*ELSEWHERE, "split", "hard_negatives")


def main(
    asked: Asked,
    *,
    data: Literal["mnist", "cifar10", "gtsrb", "tiny_imagenet", "casia_webface"] = "cifar10",
    arch: str = "mobilenetv1_100",
    split: Names = SPLITS,
    out: Path = Path("runs/registered"),
) -> None:
    """Train the network, register and measure one head after the other, print and save their rows.

    What is None is as recipes/grid.py has it.
    """
    if asked.head_epochs == 0:
        raise UsageError("--head-epochs must be at least 1 here, found 0: the head learns afterwards only")
    changes = asked.changes() | {"trunk_gradient": 0.0}
    uses = [settings(data, arch, where, changes, out) for where in split]
    parts, paper = Parts.of(uses[0], MODULES[data].pool(uses[0])), MODULES[data].PAPER
    for use in uses:
        if (row := done(use, "registered")) is not None:
            show(row, paper)
            continue
        notes = Notes(use)
        plain = network(use, parts)
        notes.lap("plain")
        audit = registered(use, parts, plain, use.head_epochs)
        found = found_by(audit, parts)
        notes.lap("registered", found)
        conclude(use, parts, paper, plain, audit, {"registered": found}, use.head_epochs, notes)


def network(use: Settings, parts: Parts) -> nn.Module:
    """The trained network, from the file beside the rows if this code trained one with these settings before."""
    path = use.out.parent / f"{use.arch}-{use.side}px.safetensors"
    made = {n: str(v) for n, v in asdict(use).items() if n not in APART and not n.startswith("head_")}
    made |= {"sources": sources()}
    mark = {"settings": json.dumps(made, sort_keys=True)}
    model = parts.network(use)
    if path.is_file():
        with safe_open(path, "pt") as file:
            if file.metadata() == mark:
                model.load_state_dict(load_file(path, device=use.device))
                return model.eval()
    train(model, parts.members, use, parts.augment)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, part, mark)
    part.replace(path)
    return model


if __name__ == "__main__":
    launch(main)
