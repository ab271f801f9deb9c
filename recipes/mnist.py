"""MNIST, active MINT: train a network plainly and audited, with the same budget, and print one row of the table.

    python recipes/mnist.py --data-root DATA --members 5000 --external 10000

DATA is the folder that holds MNIST/raw. The paper (arXiv 2509.07879) has 0.86 MINT accuracy and 0.96 audited accuracy
for MobileNet with the entry split, at 25,000 members. The external rows go to the head a second time, each moved by
one pixel: without these hard negatives it knows members by heart but is unsure of what it has not seen.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cyclopts
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

import amint
from amint.datasets import mnist

# Larger than the digits are: the network halves its maps five times.
PREPROCESSING = amint.Preprocessing(size=(64, 64), channels=1, mean=(0.1307,), std=(0.3081,))


def prepared(images: Tensor) -> Tensor:
    """uint8 ``[n, 1, 28, 28]`` -> float32 ``[n, 1, 64, 64]``."""
    x = torch.stack([PREPROCESSING(Image.fromarray(image[0].numpy())) for image in images])
    return x.contiguous(memory_format=torch.channels_last)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        right = [(model(a).argmax(1) == b).float() for a, b in zip(x.split(500), y.split(500), strict=True)]
    return float(torch.cat(right).mean())


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epochs: int,
    rates: tuple[float, float],
    batch: int,
    audit: amint.Auditable | None,
) -> None:
    """The usual loop; with an audit one line differs, and the head has a learning rate of its own."""
    head = set() if audit is None else set(audit.head.parameters())
    trunk = [p for p in model.parameters() if p not in head]
    groups = [{"params": trunk, "lr": rates[0]}, {"params": list(head), "lr": rates[1]}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.01)
    whole = len(x) // batch * batch  # a short last batch would spoil the batch statistics
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], epochs * whole // batch
    )
    generator = torch.Generator().manual_seed(0)
    for _ in track(range(epochs), "plain" if audit is None else "audited", transient=True):
        model.train()
        for rows in torch.randperm(len(x), generator=generator)[:whole].split(batch):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            if audit is not None:
                loss = audit.loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main(
    *,
    data_root: Path,
    arch: str = "mobilenetv3_small_100",
    split: str = "entry",
    members: int = 5000,
    external: int = 10_000,
    calibration: int = 5000,
    epochs: int = 10,
    mint: float = 1.0,
    ratio: float = 2.0,
    trunk_gradient: float = 1.0,
    lr: float = 4e-3,
    head_lr: float = 2e-3,
    batch: int = 32,
    seed: int = 0,
    device: str = "cpu",
    hard_negatives: bool = True,
    most_unseen: int = 10_000,
    out: Path = Path("runs/mnist"),
) -> dict[str, Any]:
    """Train, audit, measure on the unseen test images, print and save the row."""
    began = time.perf_counter()
    images, labels = mnist(data_root, train=True)
    roles = amint.assign_roles(len(images), members=members, external=external, calibration=calibration, seed=seed)
    inside = list(roles.members)
    x, y = prepared(images[inside]).to(device), labels[inside].to(device)
    test, answers = (t[:most_unseen] for t in mnist(data_root, train=False))
    unseen, answers = prepared(test).to(device), answers.to(device)
    networks = []
    for _ in range(2):
        torch.manual_seed(seed)
        network = timm.create_model(arch, num_classes=10, in_chans=1).to(device)
        networks.append(network.to(memory_format=torch.channels_last))
    plain, audited = networks
    train(plain, x, y, epochs, (lr, head_lr), batch, None)
    audit = amint.attach(
        audited,
        split=split,
        external=prepared(images[list(roles.external)]).to(device),
        balance=amint.Weighted(mint=mint),
        ratio=ratio,
        trunk_gradient=trunk_gradient,
        negatives=amint.one_pixel_shift if hard_negatives else None,
        seed=seed,
    )
    train(audited, x, y, epochs, (lr, head_lr), batch, audit)
    audit.calibrate(prepared(images[list(roles.calibration)]))
    measured = audit.evaluate(x, unseen, alpha=0.05)
    row = {
        "arch": arch,
        "split": [point.name for point in audit.points],
        "members": members,
        "external": external,
        "calibration": calibration,
        "epochs": epochs,
        "seed": seed,
        "plain_accuracy": accuracy(plain, unseen, answers),
        "audited_accuracy": accuracy(audited, unseen, answers),
        **{name: round(m.value, 4) for name, m in measured.items()},
        "intervals": {name: [round(m.interval.low, 4), round(m.interval.high, 4)] for name, m in measured.items()},
        "mint_loss": round(float(audit.last.mint), 4) if audit.last else None,
        "head_parameter_share": round(audit.parameter_share, 4),
        "seconds": round(time.perf_counter() - began),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "row.json").write_text(json.dumps(row, indent=1))
    audit.save(out / "model.amint", preprocessing=PREPROCESSING)
    return row


if __name__ == "__main__":
    cyclopts.run(main)
