"""Which members are still found after their pictures were compressed, resized, cropped or taken off a screen?

    python recipes/survives.py --smoke                            # scikit-learn's digits
    python recipes/survives.py --data-root DATA --members 1000    # DATA holds MNIST/raw

Three heads: plain; with hard negatives (members moved by one pixel are "not a member"); with a tolerance (members under
random JPEG, resizing and brightness are members). Beside the members found: false alarms among unseen images changed
alike. Calibration images are not changed, so these may exceed alpha; amint.verify, not used here, has controls for it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import cyclopts
import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

import amint
from amint.datasets import digits, mnist
from amint.tolerance import Reencoding

MEAN, STD = 0.13, 0.31
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hard negatives": {"negatives": amint.HardNegatives(amint.one_pixel_shift, members=True)},
    "tolerant": {"tolerance": Reencoding(amint.Preprocessing(channels=1, mean=(MEAN,), std=(STD,)))},
}
LOOKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))
KINDS = ("one by one", "sets of 20")


def resized(x: Tensor, share: float) -> Tensor:
    """To another size and back."""
    sides = list(x.shape[-2:])
    return cast(Tensor, transforms.resize(transforms.resize(x, [round(share * side) for side in sides]), sides))


def compressed(x: Tensor, quality: int) -> Tensor:
    """Through a JPEG file."""
    files = [io.BytesIO() for _ in x]
    for picture, file in zip(x, files, strict=True):
        transforms.to_pil_image(picture).save(file, "JPEG", quality=quality)
    return torch.stack([transforms.pil_to_tensor(Image.open(file)) for file in files])


def screenshot(x: Tensor) -> Tensor:
    """Half as large again and back, a little less contrast, and noise of 4 grey levels."""
    noise = 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return cast(Tensor, transforms.adjust_contrast(resized(x, 1.5), 0.95) + noise).round().clamp(0, 255).to(torch.uint8)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "JPEG 95": lambda x: compressed(x, 95),
    "JPEG 75": lambda x: compressed(x, 75),
    "resized": lambda x: resized(x, 0.75),
    "crop": lambda x: transforms.resize(x[..., 1:-1, 1:-1], list(x.shape[-2:])),
    "brightness": lambda x: transforms.adjust_brightness(x, 1.15),
    "grey": lambda x: transforms.rgb_to_grayscale(x, x.shape[1]),
    "screenshot": screenshot,
}


def train(network: nn.Module, audit: amint.Auditable, x: Tensor, y: Tensor, epochs: int) -> None:
    """The usual loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(x[::32]))
    for rows in (rows for _ in range(epochs) for rows in torch.randperm(len(x)).split(32)):
        optimizer.zero_grad()
        audit.loss(F.cross_entropy(network(x[rows]), y[rows])).backward()
        optimizer.step()
        schedule.step()
    network.eval()


def found(audit: amint.Audit, x: Tensor, alpha: float) -> dict[str, float]:
    """Shares of single pictures, and of 200 random sets of 20, with a p-value of at most alpha."""
    scores, random, calibration = audit.scores(x), np.random.default_rng(0), audit.calibrated()
    sets = [calibration.set_p_value(random.choice(scores, 20, replace=False)) for _ in range(200)]
    p_values = (calibration.p_values(scores), np.array(sets))
    return {kind: float((p <= alpha).mean()) for kind, p in zip(KINDS, p_values, strict=True)}


def draw(shares: dict[str, Any], path: Path) -> None:
    """Share of members found (filled) and of unseen images (hollow), by change and head."""
    figure, both = plt.subplots(2, 1, figsize=(7.5, 5.5), sharex=True, layout="constrained")
    for axes, kind in zip(both, KINDS, strict=True):
        for number, (head, (colour, mark)) in enumerate(zip(shares, LOOKS, strict=True)):
            for group, face in (("members", colour), ("unseen", "white")):
                at = [place + 0.2 * (number - 1) for place in range(len(CHANGES))]
                values = [shares[head][change][group][kind] for change in CHANGES]
                axes.plot(at, values, mark, color=colour, markerfacecolor=face, label=f"{head}: {group}")
        axes.set(ylabel=f"share found, {kind}", ylim=(-0.04, 1.04))
        axes.grid(axis="y", color="#e5e7eb")
    both[1].set_xticks(range(len(CHANGES)), list(CHANGES))
    both[0].legend(ncols=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(
    *,
    data_root: Path | None = None,
    arch: str = "test_resnet",
    members: int = 1000,
    epochs: int = 20,
    alpha: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
    smoke: bool = False,
    out: Path = Path("runs/survives"),
) -> None:
    """Train three heads, each with a network of its own; print two tables, save them and a plot."""
    images, labels = digits() if data_root is None else mnist(data_root, train=True)
    # The digits come writer by writer, and samples in a row must not resemble each other.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = transforms.resize(images[order], [24 if data_root is None else 28] * 2), labels[order]
    members, epochs = (220, 9) if smoke else (members, epochs)
    roles = amint.assign_roles(len(images), members=members, external=3 * members, calibration=members, seed=seed)
    x, y = ((images.float() / 255 - MEAN) / STD).to(device), labels.to(device)
    inside, console = list(roles.members), Console()
    pictures = {"members": images[inside], "unseen": images[list(roles.unseen[:2000])]}
    shares: dict[str, dict[str, dict[str, Any]]] = {head: {} for head in HEADS}
    for head, options in track(HEADS.items(), "training", console=console, transient=True):
        torch.manual_seed(seed)
        network = timm.create_model(arch, num_classes=10, in_chans=1).to(device)
        options = {**options, "ratio": 3, "balance": amint.Weighted(), "seed": seed}
        audit = amint.attach(network, external=x[list(roles.external)], **options)
        train(network, audit, x[inside], y[inside], epochs)
        audit.calibrate(x[list(roles.calibration)])
        for change, of in CHANGES.items():
            seen = {group: ((of(rows).float() / 255 - MEAN) / STD).to(device) for group, rows in pictures.items()}
            shares[head][change] = {group: found(audit, rows, alpha) for group, rows in seen.items()}
    for kind in KINDS:
        table = Table("change", *HEADS, title=f"{kind}: members found (false alarms), alpha = {alpha:g}")
        for change in CHANGES:
            cells = [[shares[head][change][group][kind] for group in pictures] for head in HEADS]
            table.add_row(change, *(f"{inside:.3f} ({outside:.3f})" for inside, outside in cells))
        console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    (out / "survives.json").write_text(json.dumps(shares, indent=1))
    draw(shares, out / "survives.png")


if __name__ == "__main__":
    cyclopts.run(main)
