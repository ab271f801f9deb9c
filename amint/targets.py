"""What can be measured: a target turns a batch of inputs into named per-sample numbers."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from amint.audit import Audit

__all__ = ["AuditedModel", "Target"]


class Target(Protocol):
    """A model that signals can be read from.

    Attributes:
        provides: names of the signals it can measure.
    """

    provides: frozenset[str]

    def measure(self, x: Tensor, needs: Set[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Signals of one batch ``[n, ...]``, each ``[n, ...]``, float64."""
        ...


class AuditedModel:
    """A model with its MINT head; provides ``mint_logit`` ``[n]``."""

    provides = frozenset({"mint_logit"})

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def measure(self, x: Tensor, needs: Set[str]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """See :class:`Target`."""
        return {name: self._audit.score(x).double().cpu().numpy() for name in needs if name == "mint_logit"}
