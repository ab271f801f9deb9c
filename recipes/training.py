"""What the recipes share: rows as batches of inputs, and the usual training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import amint

if TYPE_CHECKING:
    from common import Settings


@dataclass(frozen=True)
class Rows:
    """Images and labels; iterating gives batches of model inputs and labels on the device.

    Attributes:
        images: uint8 ``[n, c, h, w]``, where it lies, or a dataset of (uint8 image, label) that is read as it goes.
        labels: int64 ``[n]``.
        look: how pixels become inputs.
        numbers: which rows.
        device: of the batches.
        batch: rows in a batch.
        shuffle: a new order each time, and whole batches only.
    """

    images: Tensor | Dataset[tuple[Tensor, int]]
    labels: Tensor
    look: amint.Preprocessing
    numbers: Sequence[int]
    device: str = "cpu"
    batch: int = 256
    shuffle: bool = False

    @property
    def n(self) -> int:
        return len(self.numbers)

    def take(self, numbers: Sequence[int]) -> Rows:
        return replace(self, numbers=numbers)

    def shuffled(self, batch: int) -> Rows:
        return replace(self, batch=min(batch, self.n), shuffle=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.tensor(self.numbers)
        if not isinstance(self.images, Tensor):
            subset = Subset(self.images, numbers.tolist())
            for pixels, labels in DataLoader(subset, self.batch, self.shuffle, num_workers=2, drop_last=self.shuffle):
                yield self._input(pixels), labels.to(self.device)
            return
        if self.shuffle:  # a short last batch would spoil the batch statistics
            numbers = numbers[torch.randperm(self.n)[: self.n // self.batch * self.batch]]
        for rows in numbers.split(self.batch):
            yield self._input(self.images[rows.to(self.images.device)]), self.labels[rows].to(self.device)

    def _input(self, pixels: Tensor) -> Tensor:
        return self.look.scaled(pixels.to(self.device)).contiguous(memory_format=torch.channels_last)


def jittered(x: Tensor) -> Tensor:
    """Images ``[n, c, h, w]``, each turned by up to 10 degrees, moved by up to 7 % and scaled by up to 10 %."""
    n = len(x)
    turn, scale, move = torch.rand(n) * 0.35 - 0.175, torch.rand(n) * 0.2 + 0.9, torch.rand(2, n) * 0.28 - 0.14
    across, along = turn.cos() * scale, turn.sin() * scale
    rows = torch.stack([across, -along, move[0], along, across, move[1]], dim=1).view(n, 2, 3)
    grid = F.affine_grid(rows.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirrored(x: Tensor) -> Tensor:
    """The same, and every other image mirrored."""
    flip = torch.rand(len(x), 1, 1, 1).to(x) < 0.5
    return jittered(torch.where(flip, x.flip(-1), x))


def train(
    model: nn.Module,
    members: Rows,
    use: Settings,
    augment: Callable[[Tensor], Tensor],
    audit: amint.Auditable | None = None,
    averaged: float = 0.0,
) -> None:
    """The usual loop; with an audit two lines differ: the task trains on augmented images, the head sees plain ones.

    The layers that the head reads learn slowly, or it could not follow them; the head has a rate of its own too.
    With ``averaged``, the network and the head end with running averages of their weights, of which each step leaves
    that share.
    """
    head = set() if audit is None else set(audit.head.parameters())
    trunk = {name: p for name, p in model.named_parameters() if p not in head}
    deepest = use.deepest_tap(model, next(iter(members))[0][:2]) if audit is None else audit.points[-1].name
    reach = max((i for i, name in enumerate(trunk) if name.startswith(f"{deepest}.")), default=0)
    groups: list[dict[str, Any]] = [
        {"params": list(trunk.values())[: reach + 1], "lr": use.tap_lr},
        {"params": list(trunk.values())[reach + 1 :], "lr": use.lr},
        {"params": list(head), "lr": use.head_lr},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    batches = members.shuffled(use.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], use.epochs * (members.n // batches.batch)
    )
    whole = nn.ModuleList([model] if audit is None else [model, audit.head])
    average = {name: value.clone() for name, value in whole.state_dict().items() if value.is_floating_point()}
    torch.manual_seed(use.seed)
    for _ in track(range(use.epochs), "plain" if audit is None else "audited", transient=True):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            with (
                torch.autocast(torch.device(use.device).type, torch.bfloat16, enabled=use.precision == "bf16"),
                nullcontext() if audit is None else audit.seen_as(x),
            ):
                loss = F.cross_entropy(model(augment(x)), y, label_smoothing=use.label_smoothing)
            loss.backward() if audit is None else audit.backward(loss)
            optimizer.step()
            schedule.step()
            if averaged:
                for name, value in average.items():
                    value.lerp_(whole.state_dict()[name], 1 - averaged)
    if averaged:
        whole.load_state_dict(average, strict=False)
    model.eval()


def accuracy(model: nn.Module, rows: Rows) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in rows) / rows.n
