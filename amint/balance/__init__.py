"""How the task's loss and the MINT loss become one training step.

* A :class:`Balance` makes one loss of two: :class:`Weighted`, :class:`NormalisedByFirst`,
  :class:`NormalisedByRunningMean`, :class:`UncertaintyWeighting`. Works in any loop.
* A :class:`GradientBalance` makes one gradient of two, and therefore owns the backward pass
  (``audit.backward(task_loss)``): :class:`ConflictAverse`, :class:`GradNorm`.
"""

from amint.balance.conflict_averse import ConflictAverse
from amint.balance.gradnorm import GradNorm
from amint.balance.protocols import AnyBalance, Balance, GradientBalance
from amint.balance.uncertainty import UncertaintyWeighting
from amint.balance.weighted import NormalisedByFirst, NormalisedByRunningMean, Weighted

__all__ = [
    "AnyBalance",
    "Balance",
    "ConflictAverse",
    "GradNorm",
    "GradientBalance",
    "NormalisedByFirst",
    "NormalisedByRunningMean",
    "UncertaintyWeighting",
    "Weighted",
]
