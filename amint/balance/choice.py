"""Which balance a training run uses, and where one of gradients cannot work."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from amint.balance.protocols import AnyBalance, Balance, GradientBalance
from amint.balance.weighted import NormalisedByFirst, Weighted
from amint.errors import UsageError

__all__ = ["check_training_pass", "chosen", "combining", "process_count"]


def chosen(balance: AnyBalance | None, trunk_gradient: float, world: int) -> AnyBalance:
    """The balance, or the default one.

    Raises:
        UsageError: no balance, or one of gradients where nothing is shared or several processes train.
    """
    if balance is None:
        return NormalisedByFirst() if trunk_gradient > 0 else Weighted()
    if isinstance(balance, type) or not isinstance(balance, Balance | GradientBalance):
        raise UsageError(
            f"balance must be an object with a method combine(task, mint), got {balance!r}; one that balances "
            "gradients has backward(task, mint) in its place"
        )
    if isinstance(balance, GradientBalance):
        if trunk_gradient == 0:
            raise UsageError(
                f"{balance!r} balances two gradients, but with trunk_gradient=0 the MINT loss has none in the audited "
                "model: use trunk_gradient above 0, or Weighted()"
            )
        _check_alone(balance, world)
    return balance


def combining(balance: AnyBalance) -> Callable[[Tensor, Tensor], Tensor]:
    """How a balance of losses makes one of two.

    Raises:
        UsageError: it is a balance of gradients.
    """
    if isinstance(balance, GradientBalance):
        raise UsageError(
            f"{balance!r} balances two gradients, and no single loss has the result: call audit.backward(task_loss) in "
            "place of audit.loss(task_loss).backward()"
        )
    return balance.combine


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def check_training_pass(balance: AnyBalance, device: torch.device) -> None:
    """Raise UsageError for a balance of gradients in several processes, or in a pass that needs a GradScaler."""
    if not isinstance(balance, GradientBalance):
        return
    _check_alone(balance, process_count())
    kind = device.type
    if torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
        raise UsageError(
            f"{balance!r} cannot run under float16 autocast: small gradients vanish there without a GradScaler, which "
            f"scales one loss and not two gradients. Use torch.autocast({kind!r}, torch.bfloat16), which needs none"
        )


def _check_alone(balance: GradientBalance, world: int) -> None:
    if world > 1:
        raise UsageError(
            f"{balance!r} cannot run in {world} processes: its gradients bypass the averaging of "
            "DistributedDataParallel, and the processes would drift apart. Train in one process, or use a balance of "
            "losses, such as NormalisedByFirst or UncertaintyWeighting"
        )
