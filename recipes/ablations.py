"""What matters: where the network is tapped, how much external data, and every lever on head, loss and judging.

    python recipes/ablations.py --data-root DATA            # CIFAR-10, see recipes/cifar10.py
    python recipes/ablations.py --data-root DATA --seeds 3
    python recipes/ablations.py --data-root DATA --arch efficientnet_b0 --only entry middle output

Each line changes one thing of the first line; all see the same unseen images, and the same members unless it is their
number that changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cyclopts
from cifar10 import pool
from common import Parts, Pool
from grid import SPLITS
from joined import attached
from launch import launch
from levers import Scheduled, adamw, against_mirror, by, member_statistics, of_views
from lines import BASELINES, Audited, Line
from repeated import Small, chosen, repeated
from spread import show

import amint


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ablations(Small):
    """Its results lie apart."""

    out: Path = Path("runs/ablations")


def lines(use: Ablations, audit: amint.Auditable) -> dict[str, Line]:
    """What is compared with ``audit``, attached to the first line's network."""
    taps, widths, head = [point.name for point in audit.points], audit.head.config.width, use.head_size()
    mostly = use.members + use.external // 2
    mirrored = amint.HardNegatives(amint.horizontal_flip, members=True)
    return {
        f"{use.split} ({' and '.join(taps)})": Audited(),
        **BASELINES,
        **{split: Audited({"split": split}) for split in SPLITS if split != use.split},
        **{f"one tap ({tap})": Audited({"split": tap}) for tap in taps},
        "half as much external data as members": Audited({"external": use.members // 2}),
        "as much external data as members": Audited({"external": use.members}),
        "twice as many external rows a step": Audited({"ratio": 2 * use.ratio}),
        "no hard negatives": Audited({"hard_negatives": False}),
        "mirror images as hard negatives": Audited(attach={"negatives": mirrored}),
        "moved images as hard negatives": Audited(attach={"negatives": amint.HardNegatives(amint.Moved(), True)}),
        "hard negatives of external rows alone": Audited(attach={"negatives": amint.Moved(mirror=True)}),
        "MINT weight rising from a tenth": Audited(balance=Scheduled.over(use, 0.1, 1)),
        "MINT weight falling to a tenth": Audited(balance=Scheduled.over(use, 1, 0.1)),
        "trunk gradient 0, losses as they are": Audited({"trunk_gradient": 0.0}),
        "trunk gradient 0.3": Audited({"trunk_gradient": 0.3}),
        "head twice as wide": Audited(attach={"head": replace(head, width=2 * max(widths), hidden=2 * head.hidden)}),
        "two heads that learn apart": Audited(attach={"head": replace(head, ensemble=2)}),
        "head that pools to 2 x 2": Audited(attach={"head": replace(head, pool=2)}),
        "head that pools to 8 x 8": Audited(attach={"head": replace(head, pool=8)}),
        "no label smoothing": Audited({"label_smoothing": 0.0}),
        "no augmentation": Audited({"augment": False}),
        "head that sees augmented members": Audited(plain_view=False),
        "taps a quarter as fast as the rest": Audited({"tap_lr": use.lr / 4}),
        "running average of weights": Audited(averaged=0.95, settle=member_statistics),
        "batch statistics of members alone": Audited(settle=member_statistics),
        "head learning three times as fast": Audited({"head_lr": 3 * use.head_lr}),
        "head learning with AdamW alone": Audited(of_head=adamw),
        "a new head alone for as long again": Audited({"head_epochs": use.head_epochs + use.epochs}),
        "a new head alone for three times as long": Audited({"head_epochs": use.head_epochs + 3 * use.epochs}),
        "judged by five contrasts": Audited(judged=by(of_views)),
        "judged against the mirror image": Audited(judged=by(against_mirror)),
        "two in three rows members": Audited({"members": mostly, "external": use.external // 2}),
    }


def main(use: Ablations) -> None:
    """Train every line with every seed; print and save means over the seeds, and differences."""
    use = use.budget()
    data: Pool = pool(use)
    probe = Parts.of(use, data)
    every = lines(use, attached(use, probe, probe.network(use)))
    first = next(iter(every))
    found = repeated({first: every[first]} | chosen(every, use.only), use, data)
    title = f"{use.arch}, {use.members:,} members, {use.external:,} external, {use.seeds} seeds"
    show(title, found, use.out / "ablations.json")


if __name__ == "__main__":
    launch(main)
