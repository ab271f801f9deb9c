"""How well the head does while training goes on: recent members against external rows that it has not seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from amint.arrays import Floats
from amint.batches import Source
from amint.errors import UsageError
from amint.external import ExternalStream
from amint.metrics import Measurement, summary

__all__ = ["Recent"]


class Recent:
    """The members of the latest steps, in batches, in main memory.

    Args:
        most: batches are forgotten as long as the others hold that many rows; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._batches: deque[Tensor] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._batches)

    def add(self, members: Tensor) -> None:
        """Remember a copy of rows ``[n, ...]``."""
        if self._most:
            self._batches.append(members.detach().to("cpu", copy=True))
            while len(self) - len(self._batches[0]) >= self._most:
                self._batches.popleft()

    def clear(self) -> None:
        """Start anew."""
        self._batches.clear()

    def measured(
        self, scores: Callable[[Source], Floats], stream: ExternalStream, alpha: float
    ) -> dict[str, Measurement]:
        """These members against the external rows that were kept out of the stream.

        Args:
            scores: rows -> MINT scores.
            stream: the external rows.
            alpha: false-alarm rate of the threshold, taken from those external rows, for the balanced accuracy.

        Raises:
            UsageError: there is nothing to compare.
        """
        if stream.reserved is None or not self._batches:
            raise UsageError(
                "there is nothing to monitor: attach(monitor=1000) keeps that many external rows and recent member "
                "rows for it (external data must be a dataset or a loader over one), and a step must have been trained"
            )
        inside = np.concatenate([scores(rows) for rows in self])
        with stream.own_randomness():
            outside = scores(stream.reserved)
        labels = np.r_[np.ones(len(inside), bool), np.zeros(len(outside), bool)]
        threshold = float(np.quantile(outside, 1 - alpha, method="higher"))
        return summary(np.r_[inside, outside], labels, threshold)
