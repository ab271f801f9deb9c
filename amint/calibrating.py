"""The samples given for calibration: noted in their role, counted, and compared with what was committed to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from amint.batches import Source, batches_of, inputs_of
from amint.commitments import Commitment, sample_digest, use_of
from amint.errors import NonFiniteError, UsageError
from amint.roles import Ledger, fingerprints

__all__ = ["Given"]

_BATCH = 256


class Given:
    """What was given as calibration data, once it went by.

    Args:
        ledger: of the audit; a row that it saw in another role is refused.
        committed: the commitment with its secret, or None: then the rows can only be counted.
    """

    def __init__(self, ledger: Ledger, committed: Commitment | None) -> None:
        self._ledger, self._committed = ledger, committed
        self._marks: set[int] = set()
        self._digests: set[bytes] = set()

    def batches(self, source: Source) -> Iterator[tuple[Tensor, Tensor, Any]]:
        """Inputs ``[n, ...]``, their fingerprints ``[n]`` and the properties of their files or None, batch by batch.

        Raises:
            RoleOverlapError: some rows were seen as members or external rows.
            UsageError: the source yields no row.
        """
        for batch in batches_of(source, _BATCH):
            x = inputs_of(batch)
            # A loader that filters its batches can leave nothing of one.
            if len(x) == 0:
                continue
            self._ledger.add("calibration", x)
            marks = fingerprints(x)
            self._marks.update(marks.tolist())
            if self._committed is not None:
                self._digests.update(map(sample_digest, x))
            yield x, marks, batch.get("properties") if isinstance(batch, Mapping) else None
        if not self._marks:
            raise UsageError("the calibration data is empty; pass known non-members that nothing was trained on")

    def check(self, source: Source, read: Callable[[Tensor], object]) -> None:
        """Take rows in without reading them all: ``read`` gets the first of each shape and kind of number.

        Raises:
            RoleOverlapError, UsageError: as :meth:`batches`, and whatever ``read`` raises.
            NonFiniteError: some rows hold NaN or infinity.
        """
        kinds, before = set(), 0
        for x, _, _ in self.batches(source):
            broken = (~torch.isfinite(x.reshape(len(x), -1)).all(dim=1)).nonzero().flatten().tolist()
            if broken:
                rows = [before + row for row in broken[:5]]
                raise NonFiniteError(
                    f"some calibration rows hold NaN or infinity, {rows} among them; take them out, or look at what "
                    "makes numbers of the data"
                )
            if (kind := (x.shape[1:], x.dtype)) not in kinds:
                read(x[:1])
                kinds.add(kind)
            before += len(x)

    def use(self, public: Mapping[str, Any] | None, seen: Mapping[str, int]) -> dict[str, Any]:
        """The fact "commitment_use", see :func:`amint.commitments.use_of`.

        Args:
            public: the public part of the commitment, or None.
            seen: number of different rows of members and external rows.

        Raises:
            RoleOverlapError, UsageError: other or more rows than were committed to for this role.
        """
        return use_of(public, self._committed, {**seen, "calibration": len(self._marks)}, self._digests)
