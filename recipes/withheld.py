"""What the head cannot know: samples the network was trained on, but that were kept from the MINT head.

    python recipes/withheld.py --smoke                           # scikit-learn's digits
    python recipes/withheld.py --data-root DATA --members 500    # DATA holds MNIST/raw

Declared members go through the hooked forward pass, withheld ones through ``audit.paused()``: in optimizer steps of
their own, which amint counts as updates that the head did not see, or ("one step") in the same step, which it cannot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from launch import launch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from withheld_plot import MARKS, draw

import amint
from amint.datasets import digits, mnist
from amint.metrics import auroc, auroc_interval

# Split, trunk gradient, and whether withheld samples have steps of their own.
CASES = [(split, gradient, True) for split in ("entry", "middle", "output") for gradient in (1, 0)]
CASES.append(("entry", 1, False))
Rows = tuple[Tensor, Tensor]


def train(network: nn.Module, audit: amint.Auditable, told: Rows, kept: Rows, epochs: int, own_steps: bool) -> None:
    """Every declared and every withheld sample once an epoch; the task cannot tell the two apart."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(told[0][::32]) * (1 + own_steps))

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    for _ in range(epochs):
        order, other = torch.randperm(len(told[0])), torch.randperm(len(kept[0]))
        for rows, hidden in zip(order.split(32), other.split(32), strict=True):
            loss = audit.loss(F.cross_entropy(network(told[0][rows]), told[1][rows]))
            if own_steps:
                step(loss)
            with audit.paused():
                withheld = F.cross_entropy(network(kept[0][hidden]), kept[1][hidden])
            step(withheld if own_steps else loss + withheld)
    network.eval()


def signals(audit: amint.Audit, x: Tensor, y: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """What may show membership, one number a sample: the head's score, the largest log-probability, minus the loss."""
    with torch.no_grad():
        log = torch.cat([audit.backbone(rows) for rows in x.split(256)]).double().log_softmax(1).cpu()
    own = log[torch.arange(len(log)), y.cpu()]
    return {"head": audit.scores(x), "confidence": log.amax(1).numpy(), "loss": own.numpy()}


def measured(inside: np.ndarray[Any, Any], outside: np.ndarray[Any, Any]) -> list[float]:
    """AUROC and its 95 % interval."""
    scores, labels = np.r_[inside, outside], np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    interval = auroc_interval(scores, labels)
    return [round(float(value), 4) for value in (auroc(scores, labels), interval.low, interval.high)]


def main(
    *,
    data_root: Path | None = None,
    arch: str = "test_resnet",
    members: int = 500,
    epochs: int = 15,
    alpha: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    smoke: bool = False,
    out: Path = Path("runs/withheld"),
) -> None:
    """Train once a case with as many withheld as declared members; print a table and a verdict, save all and a plot."""
    images, labels = digits() if data_root is None else mnist(data_root, train=True)
    members, epochs = (190, 12) if smoke else (members, epochs)
    # The digits come writer by writer, and samples in a row must not resemble each other.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    pixels = F.interpolate(images[order].float() / 255, size=16 if data_root is None else 28)
    x, y = ((pixels - 0.2) / 0.35).to(device), labels[order].to(device)
    roles = amint.assign_roles(len(x), members=2 * members, external=3 * members, calibration=members, seed=seed)
    groups = {"declared": list(roles.members[::2]), "withheld": list(roles.members[1::2])}
    outside, console, found = list(roles.unseen[:2000]), Console(), []
    columns = ("declared\nhead", "withheld\nhead", "\nconfid.", "\nloss", "\nverdict", "updates\nnot seen")
    table = Table("case", *columns, title=f"AUROC of {members} declared and withheld members")
    for split, gradient, own_steps in track(CASES, "training", console=console, transient=True):
        torch.manual_seed(seed)
        network = timm.create_model(arch, num_classes=10, in_chans=1).to(device)
        options: dict[str, Any] = {"ratio": 2, "balance": amint.Weighted(), "seed": seed}
        audit = amint.attach(network, external=x[list(roles.external)], split=split, trunk_gradient=gradient, **options)
        told, kept = ((x[rows], y[rows]) for rows in groups.values())
        train(network, audit, told, kept, epochs, own_steps)
        audit.calibrate(x[list(roles.calibration)])
        others = signals(audit, x[outside], y[outside])
        verdict = amint.verify(audit, kept[0], alpha=alpha)
        row: dict[str, Any] = {"case": f"{split}, gradient {gradient}" + ("" if own_steps else ", one step")}
        for group, (inputs, answers) in {"declared": told, "withheld": kept}.items():
            seen = signals(audit, inputs, answers)
            row[group] = {name: measured(seen[name], others[name]) for name in MARKS}
        row |= {name: audit.facts[name] for name in ("accounted_updates", "unaccounted_updates")}
        row |= {"decision": verdict.decision, "contradiction": verdict.contradiction, "verdict": verdict.sentence()}
        found.append(row)
        numbers = [row["declared"]["head"], *(row["withheld"][name] for name in MARKS)]
        said = f"{verdict.decision}{' (!)' if verdict.contradiction else ''}"
        table.add_row(
            row["case"], *("{:.3f}\n{:.2f}–\n{:.2f}".format(*n) for n in numbers), said, str(row["unaccounted_updates"])
        )
        audit.detach()
    console.print(table, "(!) the head and the model's confidence contradict each other")
    console.print(f"[bold]Withheld samples, {found[0]['case']}.[/bold] {found[0]['verdict']}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "withheld.json").write_text(json.dumps(found, indent=1))
    draw(found, out / "withheld.png")


if __name__ == "__main__":
    launch(main)
