"""Active MINT for any training loop: ``attach`` a model, pass its loss through ``audit.loss``.

Source: aMINT (arXiv 2509.07879), section 3: one network, two objectives, the MINT head fed by early activations of
members (training data) and external data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from amint.audit import Audit
from amint.auditable import Auditable
from amint.balance import AnyBalance
from amint.balance.choice import chosen
from amint.batches import Source
from amint.commitments import Commitment, promised
from amint.errors import UsageError
from amint.external import ExternalStream
from amint.heads import HeadSize, new_head
from amint.mixing import Mixture
from amint.negatives import HardNegatives
from amint.placement import check_attachable
from amint.tolerance import Tolerance

__all__ = ["attach"]


def attach(
    model: nn.Module,
    *,
    external: Source,
    split: str | Sequence[str] = "entry",
    balance: AnyBalance | None = None,
    ratio: float = 1.0,
    negatives: HardNegatives | Callable[[Tensor], Tensor] | None = None,
    tolerance: Tolerance | Callable[[Tensor], Tensor] | None = None,
    head: HeadSize | None = None,
    trunk_gradient: float = 1.0,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    monitor: int = 0,
    commitment: Commitment | Mapping[str, Any] | None = None,
) -> Auditable:
    """Make a model auditable while it trains. Call it before the optimizer is made and before torch.compile.

    Args:
        model: the audited model; keeps its class, its state-dict keys and, in evaluation mode, its outputs.
        external: loader, dataset or tensor of rows that look like the members but are not (no labels needed).
        split: "entry", "middle", "output", or module names.
        balance: how the two losses become one; default ``NormalisedByFirst()``, and ``Weighted()`` where
            ``trunk_gradient=0`` leaves them nothing in common. A balance of gradients, such as ``ConflictAverse``,
            needs one process, ``trunk_gradient`` above 0 and :meth:`Auditable.backward`.
        ratio: external rows per member row, above 0. The head normalises what it reads over all rows of a step: batches
            of one or two members cost it a good part of what it finds, as the last ones of epochs of few steps, too.
        negatives: a symmetry of the domain, or :class:`HardNegatives`, for further "not a member" rows.
        tolerance: a random change, such as :class:`amint.tolerance.Reencoding`, under which the head has to know
            members still; doubles the rows that go up to the taps.
        head: how large the MINT head is; None for :class:`amint.HeadSize` as it stands.
        trunk_gradient: how much of the MINT loss's gradient enters the audited model: 1 as in the paper, 0 not at all;
            at 0 the model trains exactly as it would without amint (with a balance that leaves the task loss as it is,
            and no common limit on the norm of all gradients).
        seed: for the head's weights and the order of the external rows.
        rank, world: this process among several.
        monitor: external rows kept away from the head, and member rows remembered, for :meth:`Auditable.monitor`.
        commitment: from :func:`amint.commit`, or its public part; for the bundle, and its root for logger "amint".

    Returns:
        The audit; call ``audit.loss(task_loss)``, or ``audit.backward(task_loss)``, once a step.

    Raises:
        UsageError: attached twice, already compiled or wrapped, bad arguments.
        SplitError: the network cannot be tapped like this.
    """
    check_attachable(model)
    if not 0 <= trunk_gradient <= 1:
        raise UsageError(f"trunk_gradient must lie between 0 and 1, got {trunk_gradient}")
    balance = chosen(balance, trunk_gradient, world)
    mixture = Mixture.of(ExternalStream(external, seed, rank, world, monitor), ratio, negatives, tolerance)
    points, mint_head, shape = new_head(model, split, mixture.stream.example(), seed, head)
    # A damaged commitment is refused while the model is still as it was.
    promise, secret = promised(commitment, quietly=rank > 0)
    audit = Auditable(Audit(model, points, mint_head, shape), mixture, balance, trunk_gradient)
    audit.facts.update(promise)
    audit.committed = secret
    return audit
