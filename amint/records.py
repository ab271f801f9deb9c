"""What an audit remembers of the samples that went by, so that a later submission can be compared with them.

Of members nothing is kept that could tell one of them: their scores and the outcome of the blind control only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amint.blind import blind_features
from amint.calibration import Calibration
from amint.errors import UsageError
from amint.perceptual import perceptual_hash

if TYPE_CHECKING:
    from amint.reading import Reading

__all__ = [
    "CalibrationRecords",
    "Sketch",
    "TrainingRecords",
    "is_image_batch",
    "perceptual_hashes",
    "without_copies",
]

# Enough for the blind control, and little enough to keep in memory.
_MOST_BLIND = 2_000


@dataclass(frozen=True, eq=False)
class CalibrationRecords:
    """One row a calibration sample, in the order given.

    Attributes:
        scores: float64 ``[n]``, MINT scores.
        marks: int64 ``[n]``, fingerprints of the content.
        blind: float32 ``[n, f]``, statistics that know nothing of the model (:mod:`amint.blind`).
        hashes: int64 ``[n]``, perceptual hashes; None unless the inputs are images.
        confidence: float64 ``[n]``, log of the largest class probability; None unless the model is a classifier.
        classes: int64 ``[n]``, the predicted class; None unless the model is a classifier.
        properties: float64 ``[n, p]``, properties of the files; None unless the samples were read from files.
    """

    scores: NDArray[np.float64]
    marks: NDArray[np.int64]
    blind: NDArray[np.float32]
    hashes: NDArray[np.int64] | None = None
    confidence: NDArray[np.float64] | None = None
    classes: NDArray[np.int64] | None = None
    properties: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"calibration records must have one length, got {lengths}")

    @staticmethod
    def of(x: Tensor, marks: Tensor, reading: Reading, properties: Any = None) -> CalibrationRecords:
        """The records of one batch.

        Args:
            x: inputs ``[n, ...]``.
            marks: int64 ``[n]``, their fingerprints.
            reading: what the model and its head make of them.
            properties: ``[n, p]`` of their files, or None.
        """
        return CalibrationRecords(
            scores=reading.scores,
            marks=marks.cpu().numpy(),
            blind=blind_features(x).numpy(),
            hashes=perceptual_hashes(x),
            confidence=reading.confidence,
            classes=reading.classes,
            properties=None if properties is None else np.asarray(properties, np.float64),
        )

    @staticmethod
    def joined(parts: Sequence[CalibrationRecords]) -> CalibrationRecords:
        """The records of several batches one after the other; a column that one batch lacks is left out."""
        columns: dict[str, Any] = {}
        for field in fields(CalibrationRecords):
            column = [getattr(part, field.name) for part in parts]
            columns[field.name] = None if any(c is None for c in column) else np.concatenate(column)
        return CalibrationRecords(**columns)

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def calibration(self) -> Calibration:
        """The scores, sorted once."""
        return Calibration(self.scores)

    def to_tensors(self) -> dict[str, Tensor]:
        """Column -> tensor, for the bundle."""
        return _to_tensors(self)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> CalibrationRecords:
        """The inverse of :meth:`to_tensors`.

        Raises:
            UsageError: a column is missing, unknown, of another type or length.
        """
        missing = [name for name in ("scores", "marks", "blind") if name not in tensors]
        if missing:
            raise UsageError(f"calibration records lack {missing}")
        return CalibrationRecords(**_columns(CalibrationRecords, tensors))


@dataclass(frozen=True, eq=False)
class TrainingRecords:
    """What is kept of training.

    Attributes:
        external_marks: int64 ``[m]``, fingerprints of the external rows; None if there were none.
        external_hashes: int64 ``[m]``, their perceptual hashes; None unless they are images.
        member_scores: float64 ``[k]``, MINT scores of members given to :meth:`amint.Audit.evaluate`; None before.
    """

    external_marks: NDArray[np.int64] | None = None
    external_hashes: NDArray[np.int64] | None = None
    member_scores: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        marks, hashes = self.external_marks, self.external_hashes
        if hashes is not None and (marks is None or len(marks) != len(hashes)):
            raise UsageError("there must be one fingerprint for each perceptual hash of the external rows")

    @property
    def external(self) -> int | None:
        """How many different external rows there were; None if that is not known."""
        return None if self.external_marks is None else len(self.external_marks)

    def to_tensors(self) -> dict[str, Tensor]:
        """Column -> tensor, for the bundle."""
        return _to_tensors(self)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> TrainingRecords:
        """The inverse of :meth:`to_tensors`; raises UsageError as :meth:`CalibrationRecords.from_tensors`."""
        return TrainingRecords(**_columns(TrainingRecords, tensors))


def without_copies(records: CalibrationRecords) -> CalibrationRecords:
    """Each different row once, where it stood first; left out rows are told to the log (logger "amint").

    A p-value of 1 / (n + 1) takes n independent samples, and a copy is no further sample: a loader that repeats its
    rows would promise false-alarm rates that it cannot keep.
    """
    first = np.sort(np.unique(records.marks, return_index=True)[1])
    if len(first) == len(records):
        return records
    logging.getLogger("amint").warning(
        "%d of %d calibration rows are exact copies of others and do not count: %d different ones remain",
        len(records) - len(first),
        len(records),
        len(first),
    )
    columns = {field.name: getattr(records, field.name) for field in fields(records)}
    kept: dict[str, Any] = {name: None if column is None else column[first] for name, column in columns.items()}
    return CalibrationRecords(**kept)


class Sketch:
    """Collects, while training runs, what the controls need: each different row once."""

    def __init__(self) -> None:
        self._state: dict[str, list[Tensor]] = {}

    def add(self, role: str, rows: Tensor, marks: Tensor) -> None:
        """Note rows ``[n, ...]`` seen for the first time in a role, with their fingerprints ``[n]``."""
        if len(rows) == 0:
            return
        room = _MOST_BLIND - sum(map(len, self._state.get(f"{role}.blind", ())))
        if room > 0:
            self._state.setdefault(f"{role}.blind", []).append(blind_features(rows[:room]).cpu())
        if role == "external":
            self._state.setdefault("external.marks", []).append(marks.cpu())
            hashes = perceptual_hashes(rows)
            if hashes is not None:
                self._state.setdefault("external.hashes", []).append(torch.from_numpy(hashes))

    def column(self, name: str) -> NDArray[Any] | None:
        """``"members.blind"``, ``"external.blind"`` ``[n, f]``, ``"external.marks"``, ``"external.hashes"`` ``[m]``."""
        parts = self._state.get(name)
        return None if not parts else torch.cat(parts).numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """Column -> tensor."""
        return {name: torch.cat(parts) for name, parts in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` gave; rows that stand in it twice are kept once."""
        self._state = {}
        for role in ("members", "external"):
            if f"{role}.blind" in state:
                self._state[f"{role}.blind"] = [torch.unique(state[f"{role}.blind"], dim=0)[:_MOST_BLIND]]
        if "external.marks" in state:
            marks, first = np.unique(state["external.marks"].numpy(), return_index=True)
            self._state["external.marks"] = [torch.from_numpy(marks)]
            if "external.hashes" in state:
                self._state["external.hashes"] = [state["external.hashes"][torch.from_numpy(first)]]


def is_image_batch(x: Tensor) -> bool:
    """Whether rows look like images ``[n, 1 or 3, height, width]``."""
    return x.ndim == 4 and x.shape[1] in (1, 3)


def perceptual_hashes(x: Tensor) -> NDArray[np.int64] | None:
    """Perceptual hashes ``[n]`` of a batch of images, None for anything else."""
    return np.asarray(perceptual_hash(x), np.int64) if is_image_batch(x) else None


def _to_tensors(records: Any) -> dict[str, Tensor]:
    columns = {field.name: getattr(records, field.name) for field in fields(records)}
    return {name: torch.tensor(column) for name, column in columns.items() if column is not None}


_KINDS = {
    "scores": (torch.float64, 1), "marks": (torch.int64, 1), "blind": (torch.float32, 2), "hashes": (torch.int64, 1),
    "confidence": (torch.float64, 1), "classes": (torch.int64, 1), "properties": (torch.float64, 2),
    "external_marks": (torch.int64, 1), "external_hashes": (torch.int64, 1), "member_scores": (torch.float64, 1),
}  # fmt: skip


def _columns(kind: type, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    unknown = set(tensors) - {field.name for field in fields(kind)}
    if unknown:
        raise UsageError(f"{kind.__name__} has no columns {sorted(unknown)}")
    for name, column in tensors.items():
        if (column.dtype, column.ndim) != _KINDS[name]:
            raise UsageError(f"the column {name} is {column.dtype} of {column.ndim} dimensions")
        if column.is_floating_point() and not bool(column.isfinite().all()):
            raise UsageError(f"the column {name} holds NaN or infinity")
    return {name: column.numpy() for name, column in tensors.items()}
