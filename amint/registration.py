"""Registration after training: the same head, trained on a frozen model with the list of its members.

Shown all members, this is the passive counterpart of active MINT (a register). Shown only some members and judged on
others, it is passive MINT in the sense of De Alcala et al. (2024): a different question, whether membership shows
on members the head was never told about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from amint.audit import Audit
from amint.batches import Source
from amint.commitments import Commitment, promised
from amint.external import ExternalStream
from amint.head_training import check_training, train_head
from amint.heads import HeadSize, new_head
from amint.history import History
from amint.mixing import Mixture
from amint.negatives import HardNegatives
from amint.tolerance import Tolerance

__all__ = ["register"]


def register(
    model: nn.Module,
    members: Source,
    external: Source,
    *,
    split: str | Sequence[str] = "entry",
    epochs: int = 30,
    lr: float = 3e-3,
    batch_size: int = 64,
    ratio: float = 1.0,
    negatives: HardNegatives | Callable[[Tensor], Tensor] | None = None,
    tolerance: Tolerance | Callable[[Tensor], Tensor] | None = None,
    head: HeadSize | None = None,
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
    commitment: Commitment | Mapping[str, Any] | None = None,
) -> Audit:
    """Train a MINT head on a frozen, already trained model.

    Args:
        model: the trained model; not changed in any way.
        members: the rows it was trained on (all of them, for a register), as the model sees them when it is used. A
            loader's own batches are used, and it should shuffle; datasets and tensors are shuffled. They are read once
            more than there are epochs: the first pass, of a hundred steps at most, is for :mod:`amint.whitening`.
        external: rows that look like members and were not trained on.
        split, ratio, negatives, tolerance, head: as in :func:`amint.attach`.
        epochs: passes over the members.
        lr: initial learning rate of Muon (dense layers) and AdamW (the rest), falling to 0 along a cosine; with many
            epochs 1e-3 may find more.
        batch_size: members a step, for datasets and tensors.
        seed: for the head's weights and all shuffling; the global random state is left alone.
        progress: called after each epoch with its number (from 1) and its mean loss.
        commitment: as in :func:`amint.attach`; one made after the model was trained promises nothing about that
            training.

    Returns:
        An audit, to be calibrated and saved like one from :func:`amint.attach`.

    Raises:
        UsageError: nothing to train on, a generator of members, or bad arguments.
        NonFiniteError: the loss became NaN or infinite.
    """
    check_training(epochs, lr, batch_size)
    mixture = Mixture.of(ExternalStream(external, seed), ratio, negatives, tolerance)
    points, mint_head, shape = new_head(model, split, mixture.stream.example(), seed, head)
    promise, secret = promised(commitment)
    facts = {"method": "registered", **mixture.facts(), "epochs": epochs, "lr": lr, **promise}
    audit = Audit(model, points, mint_head, shape, facts)
    audit.committed = secret
    history = History()
    train_head(
        audit, mixture, members, history, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed, progress=progress
    )
    audit.facts |= history.facts()
    return audit
