"""Training a MINT head on a model that stands still."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from amint.audit import Audit
from amint.batches import Source, batches_of, inputs_of, refuse_generator
from amint.errors import NonFiniteError, UsageError
from amint.heads import head_weights, load_head_weights, start_anew
from amint.history import History, balanced_accuracy
from amint.losses import membership_loss
from amint.mixing import Mixture
from amint.muon import head_optimizers
from amint.roles import Ledger
from amint.seeding import isolated
from amint.taps import prefix

__all__ = ["HEAD_EPOCHS", "MEMBERS_ALONE", "check_training", "counting_alone", "train_head"]

# Names of facts.
HEAD_EPOCHS, MEMBERS_ALONE = "head_epochs", "members_of_head_alone"

# A map of one place and a thousand channels takes some ten thousand rows to be known.
_STEPS_TO_WHITEN = 100
_log = logging.getLogger("amint")


def check_training(epochs: int, lr: float, batch_size: int) -> None:
    """Refuse numbers with which nothing can be trained.

    Raises:
        UsageError: one of them is not positive, or the rate is not finite.
    """
    if epochs < 1 or batch_size < 1 or not 0 < lr < math.inf:
        raise UsageError(f"epochs, batch_size and lr must be positive, got {epochs=}, {batch_size=}, {lr=}")


@contextmanager
def counting_alone(
    ledger: Ledger, facts: dict[str, Any], progress: Callable[[int, float], None] | None
) -> Iterator[Callable[[int, float], None]]:
    """Count, among the facts, the epochs that end inside and the members first seen there, whatever stops it.

    Yields:
        The progress to report to, which reports to that of the caller.
    """

    def ended(epoch: int, loss: float) -> None:
        facts[HEAD_EPOCHS] = facts.get(HEAD_EPOCHS, 0) + 1
        if progress is not None:
            progress(epoch, loss)

    before = ledger.count("members")
    try:
        yield ended
    finally:
        if alone := ledger.count("members") - before:
            facts[MEMBERS_ALONE] = facts.get(MEMBERS_ALONE, 0) + alone
            _log.warning(
                "%s of the rows given to train_head never passed the hooked training as they are: the MINT head now "
                "calls them members. That is right for plain views of augmented members, and for nothing else",
                f"{alone:,}",
            )


def train_head(
    audit: Audit,
    mixture: Mixture,
    members: Source,
    history: History,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> None:
    """Train the head of an audit anew, and nothing else, with :func:`amint.head_optimizers`; the rate falls to 0.

    It begins with new weights. One that learned while the network moved knows its rows by heart already: its loss, and
    what it could still learn of the network as it now stands, is next to nothing, and unseen rows look like members to
    it (Ash and Adams, "On warm-starting neural network training", 2020, find the same of whole networks). Its whitening
    is fitted first, to the maps of an epoch or of its first hundred steps, and stays. If no epoch comes to its end, the
    head is left as it was.

    Args:
        audit: its head is trained in place; its ledger notes the rows.
        mixture: the "not a member" rows.
        members: read once before the first epoch, and once in each.
        history: the curves go on there.
        epochs, lr, batch_size, seed, progress: as in :func:`amint.register`.

    Raises:
        UsageError: there are no members, or a generator gives them.
        NonFiniteError: the loss became NaN or infinite.
    """
    refuse_generator("members", members)
    loader = batches_of(members, batch_size, shuffle_seed=seed)

    def maps_of(x: Tensor) -> tuple[list[Tensor], int]:
        """The tapped maps of a step's rows, of which so many are members."""
        rows, views = mixture.rows(x), mixture.views(x)
        audit.ledger.add("members", x)
        audit.ledger.add("external", rows[0])
        return prefix(audit.backbone, audit.taps, torch.cat([x, views, *rows])), len(x) + len(views)

    before, ended = head_weights(audit.head), 0
    start_anew(audit.head, seed)
    optimizers = head_optimizers(audit.head, lr)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs) for optimizer in optimizers]
    # As part of a model that was put into evaluation mode it may be in that.
    mode = audit.head.training
    audit.head.train()
    try:
        with isolated(seed, epochs):
            batches = islice(loader, _STEPS_TO_WHITEN)
            audit.head.whiten(maps_of(inputs_of(batch).to(audit.device))[0] for batch in batches)
        for epoch in range(epochs):
            losses = []
            # A loader shuffles, and transforms draw, from the global generators.
            with isolated(seed, epoch):
                for batch in loader:
                    maps, inside = maps_of(inputs_of(batch).to(audit.device))
                    logits = audit.head.each(maps)
                    loss = membership_loss(logits, inside, audit.head.config.smoothing)
                    if not bool(torch.isfinite(loss)):
                        raise NonFiniteError(
                            f"the MINT loss is {loss.item()}; look for NaN or infinity in the model's weights, or "
                            "lower lr"
                        )
                    audit.head.zero_grad()
                    loss.backward()
                    for optimizer in optimizers:
                        optimizer.step()
                    history.add(mint_loss=loss, mint_accuracy=balanced_accuracy(logits.mean(dim=1), inside))
                    losses.append(loss.item())
            if not losses:
                raise UsageError(
                    "the members' loader yielded nothing; it must give the rows the model was trained on each time it "
                    "is iterated over (a generator gives them once: pass a DataLoader or a dataset)"
                )
            for schedule in schedules:
                schedule.step()
            ended += 1
            if progress is not None:
                progress(epoch + 1, sum(losses) / len(losses))
    finally:
        if not ended:
            load_head_weights(audit.head, before)
        audit.head.train(mode)
