"""Members and non-members with their labels, as one stream that may be read several times and must not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.utils.data import TensorDataset

from amint.batches import Source, batches_of, inputs_of
from amint.errors import NonFiniteError, RoleOverlapError, UsageError
from amint.roles import fingerprints
from amint.targets import labels_of

__all__ = ["Labelled", "LabelledRows", "read_labelled"]

Labelled: TypeAlias = Source | tuple[Tensor, Tensor]

_CLASSES_DIFFER = 0.001


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """All rows, members first; iterating gives batches of inputs and labels.

    Attributes:
        members, nonmembers: where the rows come from.
        batch_size: of rows that come without batches.
        marks: int64 ``[n]``, fingerprints of the inputs.
        classes: int64 ``[n]``, labels.
        is_member: bool ``[n]``.
    """

    members: Labelled
    nonmembers: Labelled
    batch_size: int
    marks: NDArray[np.int64]
    classes: NDArray[np.int64]
    is_member: NDArray[np.bool_]

    @property
    def different(self) -> NDArray[np.intp]:
        """The numbers of the rows that are no exact copy of an earlier one, ascending."""
        return np.sort(np.unique(self.marks, return_index=True)[1])

    def __len__(self) -> int:
        return len(self.marks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of inputs and labels once more, in the same order.

        Raises:
            UsageError: the rows differ from the first time.
        """
        done = 0
        for x, y in _pairs(self.members, self.nonmembers, batch_size=self.batch_size):
            if not np.array_equal(fingerprints(x).cpu().numpy(), self.marks[done : done + len(x)]):
                raise UsageError(
                    f"rows {done} to {done + len(x) - 1} differ from the first time they were read; use loaders with "
                    "shuffle=False and without random augmentation"
                )
            done += len(x)
            yield x, y
        if done != len(self.marks):
            raise UsageError(
                f"{len(self.marks)} rows were read the first time and {done} the second; pass datasets, or loaders "
                "that can be iterated over again"
            )

    @property
    def classes_differ(self) -> bool:
        """Whether the classes of members and of non-members are not equally frequent, by more than luck explains."""
        _, table = self._class_counts()
        return table.shape[1] > 1 and bool(stats.chi2_contingency(table).pvalue <= _CLASSES_DIFFER)

    def class_note(self) -> str:
        """A warning if :attr:`classes_differ`, or an empty text."""
        if not self.classes_differ:
            return ""
        kinds, table = self._class_counts()
        shares = table / table.sum(axis=1, keepdims=True)
        worst = int(np.abs(shares[0] - shares[1]).argmax())
        inside, outside = (f"{100 * share:.1f} %" for share in shares[:, worst])
        return (
            f"Classes are not equally frequent: class {kinds[worst]} makes up {inside} of the members and {outside} of "
            "the non-members. An attack can gain from the label alone; choose both from the same classes."
        )

    def _class_counts(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The classes ``[c]``, and how many members and non-members they have, ``[2, c]``."""
        kinds, numbers = np.unique(self.classes, return_inverse=True)
        sides = (self.is_member, ~self.is_member)
        return kinds, np.stack([np.bincount(numbers[side], minlength=len(kinds)) for side in sides])


def read_labelled(members: Labelled, nonmembers: Labelled, batch_size: int = 256) -> LabelledRows:
    """Read both sources once, for labels and fingerprints only.

    Args:
        members, nonmembers: each a dataset or loader of (input, class) pairs, or a pair of tensors ``[n, ...]`` and
            ``[n]``; read in their own order each time.
        batch_size: of rows that come without batches.

    Raises:
        RoleOverlapError: some rows are on both sides.
        UsageError: one side is empty, inputs differ in shape or type, or labels are missing or no class numbers.
        NonFiniteError: some inputs hold NaN or infinity.
    """
    marks: list[list[NDArray[np.int64]]] = [[], []]
    classes: list[NDArray[np.int64]] = []
    first: Tensor | None = None
    for side, source in enumerate((members, nonmembers)):
        for x, y in _pairs(source, batch_size=batch_size):
            first = x[:0] if first is None else first
            _check_alike(x, first, "members" if side == 0 else "non-members")
            _check_finite(x)
            marks[side].append(fingerprints(x).cpu().numpy())
            classes.append(_class_numbers(y, len(x)))
    if not (marks[0] and marks[1]):
        counts = [sum(map(len, side)) for side in marks]
        raise UsageError(
            f"members and non-members are both needed, found {counts[0]} members and {counts[1]} non-members"
        )
    inside, outside = (np.concatenate(side) for side in marks)
    common = np.flatnonzero(np.isin(outside, inside))
    if len(common):
        raise RoleOverlapError(
            f"{len(common)} of {len(outside)} non-members are also among the {len(inside)} members (first at rows "
            f"{common[:5].tolist()} of the non-members); take them out of one of the two, for instance with "
            "amint.without(nonmembers, members)"
        )
    is_member = np.repeat([True, False], [len(inside), len(outside)])
    return LabelledRows(
        members, nonmembers, batch_size, np.concatenate([inside, outside]), np.concatenate(classes), is_member
    )


def _pairs(*sources: Labelled, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for source in sources:
        rows: Any = source
        if isinstance(source, tuple) and len(source) == 2 and all(isinstance(part, Tensor) for part in source):
            if len(source[0]) != len(source[1]):
                raise UsageError(f"{len(source[0])} inputs come with {len(source[1])} labels; pass one label a row")
            rows = TensorDataset(*source)
        for batch in batches_of(rows, batch_size):
            labels = labels_of(batch)
            if labels is None:
                raise UsageError(
                    f"attacks compare samples of known classes, but a source yielded {type(batch).__name__} without "
                    "labels; pass a dataset or loader of (input, class) pairs, or a pair of tensors"
                )
            yield inputs_of(batch), labels


def _check_alike(x: Tensor, first: Tensor, side: str) -> None:
    if (x.shape[1:], x.dtype) != (first.shape[1:], first.dtype):
        raise UsageError(
            f"all rows need inputs of one shape and type: the first member is {list(first.shape[1:])} {first.dtype}, a "
            f"batch of {side} holds {list(x.shape[1:])} {x.dtype}; prepare both sides in the same way"
        )


def _check_finite(x: Tensor) -> None:
    broken = (~x.isfinite()).reshape(len(x), -1).any(dim=1)
    if broken.any():
        raise NonFiniteError(f"{int(broken.sum())} of {len(x)} rows of a batch hold NaN or infinity; leave them out")


def _class_numbers(y: Tensor, n: int) -> NDArray[np.int64]:
    if y.shape != (n,) or y.is_floating_point() or y.is_complex() or (n and int(y.min()) < 0):
        raise UsageError(
            f"labels must be class numbers from 0 up, integers [{n}] for {n} rows; found shape {tuple(y.shape)} and "
            f"{y.dtype}"
        )
    return y.cpu().numpy().astype(np.int64)
