"""Signals: named arrays of per-sample numbers, read from a model in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from amint.errors import NonFiniteError, UsageError
from amint.targets import Columns, Target

__all__ = ["VERSION", "Signals", "extract"]

# Raised whenever a signal of the same name comes to mean another number: what was cached before is then void.
VERSION = 1


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

    def rows(self, which: np.ndarray[Any, Any]) -> Signals:
        """The rows that a boolean mask ``[n]`` or row numbers select, of every column."""
        return Signals({name: column[which] for name, column in self.columns.items()})

    def joined(self, other: Signals) -> Signals:
        """These columns and others of the same samples in the same order, as of a target and of its references.

        Raises:
            UsageError: a name stands in both, or the numbers of samples differ.
        """
        twice = sorted(set(self.columns) & set(other.columns))
        if twice:
            raise UsageError(f"both sets of signals have {twice}; drop them from one of the two")
        return Signals({**self.columns, **other.columns})


def extract(target: Target, batches: Iterable[Any], needs: Set[str]) -> Signals:
    """Measure all needed signals in one pass.

    Args:
        target: the model.
        batches: inputs, each ``[n, ...]``, or tuples of inputs and labels ``[n]``.
        needs: names of signals, united over all attacks that will run.

    Raises:
        UsageError: the target cannot provide a signal, or single rows were given in the place of batches; and what
            measuring raises, which from the second batch on says where the batch begins.
        NonFiniteError: as measuring raises it, in the same way.
    """
    missing = sorted(set(needs) - target.provides)
    if missing:
        raise UsageError(f"this target cannot provide {missing}; it provides {sorted(target.provides)}")
    if isinstance(batches, Tensor | Dataset):
        raise UsageError(
            f"extract reads batches, a {type(batches).__name__} yields single rows; pass "
            "DataLoader(dataset, batch_size=256)"
        )
    parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in needs}
    read = 0
    for batch in batches:
        columns = _measured(target, batch, needs, read)
        read += len(next(iter(columns.values()), ()))
        for name, column in columns.items():
            parts[name].append(column)
    return Signals({name: np.concatenate(column) if column else np.empty(0) for name, column in parts.items()})


def _measured(target: Target, batch: Any, needs: Set[str], read: int) -> Columns:
    """What the target measures; what it says of the batch's rows is put into the whole pass."""
    try:
        return target.measure(batch, needs)
    except (UsageError, NonFiniteError) as error:
        # Other kinds speak of the model, and may be made from something else than one text.
        if not read or type(error) not in (UsageError, NonFiniteError):
            raise
        raise type(error)(f"in the batch that begins at row {read}: {error}") from error
