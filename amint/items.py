"""What is known of each submitted sample: one value a sample to read, columns of numbers and bytes to keep.

A submission of 100,000 files is 100,000 rows; as objects they would take more memory than reading the files does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, overload

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.errors import UsageError
from amint.texts import Texts

__all__ = ["Decision", "Evidence", "Items", "by_rank"]

Decision = Literal["used", "no evidence", "cannot tell"]
_DECISIONS: tuple[Decision, ...] = get_args(Decision)
_TEXTS = ("path", "note", "sha256", "copy_of")
_NUMBERS = ("score", "p_value", "adjusted", "confidence")
_NOT_PREDICTED = -(2**63)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one submitted sample.

    Attributes:
        path: the file's path inside the submission, or its row number.
        decision: ``used`` if the adjusted p-value is at most alpha.
        score: MINT score, higher = more likely used; None if it could not be judged.
        p_value: chance of a score this high or higher for a sample that was not used.
        adjusted: the p-value after Benjamini-Hochberg over the submission.
        note: why it could not be judged, or what was done to the file before.
        sha256: of the file's bytes, or None.
        copy_of: path of an earlier sample that is the same input to the model; copies count once in the set-level test.
        confidence: log of the largest class probability that the model gives it, or None.
        predicted: the class that the model predicts, or None.
    """

    path: str
    decision: Decision
    score: float | None = None
    p_value: float | None = None
    adjusted: float | None = None
    note: str = ""
    sha256: str | None = None
    copy_of: str | None = None
    confidence: float | None = None
    predicted: int | None = None


class Items(Sequence[Evidence]):
    """A sequence of :class:`Evidence`, about 200 bytes each.

    Parts of it (slices, :meth:`take`) share its columns.
    """

    def __init__(self, items: Iterable[Evidence] = ()) -> None:
        """Raises UsageError for what is no evidence: another decision, NaN, texts for numbers."""
        texts, numbers = {name: Texts() for name in _TEXTS}, {name: array("d") for name in _NUMBERS}
        decisions, predicted = array("b"), array("q")
        for item in items:
            if getattr(item, "decision", _DECISIONS[0]) not in _DECISIONS:
                raise UsageError(f"a sample cannot be {item.decision!r}; it is one of {_DECISIONS}")
            try:
                decisions.append(_DECISIONS.index(item.decision))
                predicted.append(_NOT_PREDICTED if item.predicted is None else item.predicted)
                for name, column in texts.items():
                    column.append(getattr(item, name))
                for name, values in numbers.items():
                    values.append(_number(getattr(item, name)))
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                raise UsageError(
                    f"not the evidence on a sample: {item!r:.300} ({error}); numbers are numbers or None"
                ) from error
        floats = {name: np.frombuffer(values, np.float64) for name, values in numbers.items()}
        self._keep(texts, floats, np.frombuffer(decisions, np.int8), np.frombuffer(predicted, np.int64))

    @classmethod
    def of(cls, items: Iterable[Evidence]) -> Items:
        """These items; themselves if they are kept this way already."""
        return items if isinstance(items, Items) else cls(items)

    @classmethod
    def of_columns(
        cls,
        texts: Mapping[str, Texts],
        numbers: Mapping[str, Floats | None],
        predicted: NDArray[np.int64] | None,
        used: NDArray[np.bool_],
        told: NDArray[np.bool_],
    ) -> Items:
        """Items column by column, which are not copied.

        Args:
            texts: ``path``, ``note``, ``sha256`` and ``copy_of``, one a sample each.
            numbers: ``score``, ``p_value``, ``adjusted`` and ``confidence``, float64 ``[n]`` with NaN for None; None
                where all are.
            predicted: int64 ``[n]`` or None.
            used: which are ``used``, ``[n]``; the others are ``no evidence``,
            told: or ``cannot tell`` where this is False, ``[n]``.
        """
        items = object.__new__(cls)
        codes = np.where(told, np.where(used, 0, 1), 2).astype(np.int8)
        none = np.full(len(codes), np.nan)
        floats = {name: none if (column := numbers[name]) is None else column for name in _NUMBERS}
        whole = np.full(len(codes), _NOT_PREDICTED) if predicted is None else predicted
        items._keep({name: texts[name] for name in _TEXTS}, floats, codes, whole)
        return items

    def _keep(
        self,
        texts: dict[str, Texts],
        numbers: dict[str, Floats],
        decisions: NDArray[np.int8],
        predicted: NDArray[np.int64],
    ) -> None:
        self._texts, self._numbers, self._decisions, self._predicted = texts, numbers, decisions, predicted
        self._rows = np.arange(len(decisions))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> Evidence: ...
    @overload
    def __getitem__(self, number: slice) -> Self: ...
    def __getitem__(self, number: int | slice) -> Evidence | Self:
        """One item, or some of them."""
        if isinstance(number, slice):
            return self.take(np.arange(len(self))[number])
        row = int(self._rows[number])
        told: dict[str, Any] = {name: texts[row] for name, texts in self._texts.items()}
        for name, numbers in self._numbers.items():
            told[name] = None if np.isnan(numbers[row]) else float(numbers[row])
        told["predicted"] = None if self._predicted[row] == _NOT_PREDICTED else int(self._predicted[row])
        return Evidence(decision=_DECISIONS[self._decisions[row]], **told)

    def __iter__(self) -> Iterator[Evidence]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} items>"

    def numbers(self, name: str) -> Floats:
        """``score``, ``p_value``, ``adjusted`` or ``confidence`` of all, float64 ``[n]``; NaN for None."""
        return self._numbers[name][self._rows]

    def are(self, decision: Decision) -> NDArray[np.bool_]:
        """Which have this decision, ``[n]``."""
        return np.asarray(self._decisions[self._rows] == _DECISIONS.index(decision))

    def are_copies(self) -> NDArray[np.bool_]:
        """Which have a ``copy_of``, ``[n]``."""
        return self._texts["copy_of"].present()[self._rows]

    def take(self, which: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Self:
        """Some of them, by their numbers or by a mask ``[n]``, in that order."""
        return self._changed(_rows=self._rows[which])

    def untold(self) -> Self:
        """The same, but that nothing can be told of any of them."""
        return self._changed(_decisions=np.full_like(self._decisions, _DECISIONS.index("cannot tell")))

    def by_path(self) -> Self:
        """In the order of their paths."""
        paths = self._texts["path"]
        return self.take(np.array(sorted(range(len(self)), key=lambda i: paths[int(self._rows[i])] or ""), np.int64))

    def _changed(self, **parts: Any) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **parts)
        return other


def _number(value: float | None) -> float:
    if value is None:
        return np.nan
    if value != value:
        raise ValueError("a number that is NaN")
    return value


def by_rank(items: Iterable[Evidence]) -> Items:
    """The most suspicious first, those that could not be judged last."""
    items = Items.of(items)
    # NaN goes last.
    return items.take(np.argsort(-items.numbers("score"), kind="stable"))
