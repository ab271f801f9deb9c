"""Signals: named arrays of per-sample numbers, read from a model in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from amint.errors import UsageError
from amint.targets import Target

__all__ = ["Signals", "extract"]


@dataclass(frozen=True)
class Signals:
    """Columns of equal length.

    Attributes:
        columns: name -> array ``[n, ...]``.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"signals must have one length, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.columns:
            raise UsageError(f"there is no signal {name!r} here; there are {sorted(self.columns)}")
        return self.columns[name]


def extract(target: Target, batches: Iterable[Tensor], needs: Set[str]) -> Signals:
    """Measure all needed signals in one pass.

    Args:
        target: the model.
        batches: inputs, each ``[n, ...]``.
        needs: names of signals, united over all attacks that will run.

    Raises:
        UsageError: the target cannot provide a signal.
    """
    missing = sorted(set(needs) - target.provides)
    if missing:
        raise UsageError(f"this target cannot provide {missing}; it provides {sorted(target.provides)}")
    parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in needs}
    for x in batches:
        for name, column in target.measure(x, needs).items():
            parts[name].append(column)
    return Signals({name: np.concatenate(column) if column else np.empty(0) for name, column in parts.items()})
