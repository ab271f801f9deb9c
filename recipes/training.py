"""What the recipes share: augmentations and the usual training loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from data import Rows
from rich.progress import track
from settings import Settings
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import amint

HeadOptimizers = Callable[[nn.Module, float], list[torch.optim.Optimizer]]


def jittered(x: Tensor) -> Tensor:
    """Images ``[n, c, h, w]``, each turned by up to 10 degrees, moved by up to 7 % and scaled by up to 10 %."""
    turn, scale, move = (torch.rand(*size, len(x), device=x.device) for size in ((), (), (2,)))
    turn, scale, move = turn * 0.35 - 0.175, scale * 0.2 + 0.9, move * 0.28 - 0.14
    across, along = turn.cos() * scale, turn.sin() * scale
    rows = torch.stack([across, -along, move[0], along, across, move[1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def mirrored(x: Tensor) -> Tensor:
    """The same, and every other image mirrored."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return jittered(torch.where(flip, x.flip(-1), x))


def train(
    model: nn.Module,
    members: Rows,
    use: Settings,
    augment: Callable[[Tensor], Tensor],
    audit: amint.Auditable | None = None,
    averaged: float = 0.0,
    of_head: HeadOptimizers = amint.head_optimizers,
    plain_view: bool = True,
) -> None:
    """The usual loop; the task trains on augmented images, and with an audit the head sees the plain ones.

    Without ``plain_view`` the head sees what the task sees. It learns with the optimizers that ``of_head`` makes. The
    layers that it reads may have a rate of their own; without an audit every layer learns at the usual rate. With
    ``averaged``, the network and the head end with running averages of their weights, of which each step leaves that
    share.
    """
    head = [] if audit is None else list(audit.head.parameters())
    own = set(head)
    trunk = [p for p in model.parameters() if p not in own]
    early = set() if audit is None else layers_up_to(audit.points[-1].name, model)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trunk if p in early], "lr": use.tap_lr or use.lr},
        {"params": [p for p in trunk if p not in early], "lr": use.lr},
    ]
    groups = [group for group in groups if group["params"]]
    fused = torch.device(use.device).type == "cuda"
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, weight_decay=0.01, fused=fused)]
    optimizers += [] if audit is None else of_head(audit.head, use.head_lr)
    batches = members.shuffled(use.batch)
    steps = use.epochs * (members.n // batches.batch)
    schedules = [OneCycleLR(each, [group["lr"] for group in each.param_groups], steps) for each in optimizers]
    values = [*trunk, *head, *(value for value in model.buffers() if value.is_floating_point())] if averaged else []
    average = [value.detach().clone() for value in values]
    torch.manual_seed(use.seed)
    for _ in track(range(use.epochs), "plain" if audit is None else "audited", transient=True):
        model.train()
        for x, y in batches:
            model.zero_grad()
            views = augment(x)
            with (
                torch.autocast(torch.device(use.device).type, torch.bfloat16, enabled=use.precision == "bf16"),
                audit.seen_as(x) if audit is not None and plain_view else nullcontext(),
            ):
                loss = F.cross_entropy(model(views), y, label_smoothing=use.label_smoothing)
            loss.backward() if audit is None else audit.backward(loss)
            for optimizer in optimizers:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
            for mean, value in zip(average, values, strict=True):
                mean.lerp_(value.detach(), 1 - averaged)
    for mean, value in zip(average, values, strict=True):
        value.data.copy_(mean)
    model.eval()


def layers_up_to(tap: str, model: nn.Module) -> set[nn.Parameter]:
    """The parameters of the tapped module and of all that were registered before it."""
    names = [name for name, _ in model.named_modules()]
    last = max(i for i, name in enumerate(names) if f"{name}.".startswith(f"{tap}."))
    return {p for module in list(model.modules())[: last + 1] for p in module.parameters(recurse=False)}


def accuracy(model: nn.Module, rows: Rows) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in rows) / rows.n
