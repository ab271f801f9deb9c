"""What travels with each batch of members: external rows, hard negatives, and views of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amint.errors import NonFiniteError, StepError, UsageError
from amint.external import ExternalStream
from amint.negatives import HardNegatives
from amint.tolerance import Tolerance

__all__ = ["Mixture", "plain_rows"]


@dataclass(frozen=True)
class Mixture:
    """The rows of a step besides its members: external rows, hard negatives, and views of all of them and of members.

    Attributes:
        stream: the external rows.
        ratio: external rows per member row.
        negatives: how to make further "not a member" rows, or None.
        tolerance: how to make further rows of both kinds, or None.
    """

    stream: ExternalStream
    ratio: float
    negatives: HardNegatives | None
    tolerance: Tolerance | None = None

    @staticmethod
    def of(
        stream: ExternalStream,
        ratio: float,
        negatives: HardNegatives | Callable[[Tensor], Tensor] | None,
        tolerance: Tolerance | Callable[[Tensor], Tensor] | None = None,
    ) -> Mixture:
        """Check the arguments; a bare symmetry turns external rows only, a bare transform is a tolerance.

        Raises:
            UsageError: a ratio out of range.
        """
        if not 0 < ratio <= 1000:
            raise UsageError(f"ratio, external rows per member row, must be above 0 and at most 1000, got {ratio}")
        if negatives is not None and not isinstance(negatives, HardNegatives):
            negatives = HardNegatives(negatives)
        if tolerance is not None and not isinstance(tolerance, Tolerance):
            tolerance = Tolerance(tolerance)
        return Mixture(stream, ratio, negatives, tolerance)

    def rows(self, members: Tensor) -> list[Tensor]:
        """The "not a member" rows for members ``[n, ...]``: external rows, hard negatives, the views of all of these.

        Raises:
            StepError: there are no members, or the external rows do not look like them.
            NonFiniteError: some rows hold NaN or infinity.
        """
        if len(members) == 0:
            raise StepError("the audited model was called with an empty batch; skip it, or drop it in the loader")
        external = self.stream.take(max(1, round(self.ratio * len(members)))).to(members.device)
        alike = external.is_floating_point() == members.is_floating_point()
        if external.shape[1:] != members.shape[1:] or not alike:
            raise StepError(
                f"external rows are {external.dtype} {tuple(external.shape[1:])}, members {members.dtype} "
                f"{tuple(members.shape[1:])}; give both the same preprocessing"
            )
        external = external.to(members.dtype)
        _refuse_broken("member", members)
        _refuse_broken("external", external)
        rows = [external]
        with self.stream.own_randomness():
            if self.negatives is not None:
                rows += self.negatives.rows(members, external)
            if self.tolerance is not None:
                rows.append(self.tolerance.views(torch.cat(rows)))
        return rows

    def views(self, members: Tensor) -> Tensor:
        """The further member rows ``[n or 0, ...]`` for members ``[n, ...]``; call it after :meth:`rows`."""
        if self.tolerance is None:
            return members[:0]
        with self.stream.own_randomness(1):
            return self.tolerance.views(members)

    def facts(self) -> dict[str, Any]:
        """Plain values for the bundle."""
        negatives, tolerance = self.negatives, self.tolerance
        return {
            "ratio": self.ratio,
            "negatives": None if negatives is None else _name(negatives.symmetry),
            "negatives_of_members": negatives is not None and negatives.members,
            **({} if tolerance is None else {"tolerance": _name(tolerance.transform)}),
        }


def plain_rows(plain: Tensor, members: Tensor) -> Tensor:
    """The rows that the head sees in place of members ``[n, ...]``, where those are and of their precision.

    Raises:
        StepError: not as many rows, or of another shape or kind.
    """
    if plain.shape != members.shape or plain.is_floating_point() != members.is_floating_point():
        raise StepError(
            f"audit.seen_as() got {plain.dtype} {tuple(plain.shape)}, the model was called with {members.dtype} "
            f"{tuple(members.shape)}; give it the same samples in the same order, preprocessed alike but not augmented"
        )
    return plain.to(members)


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", repr(function)))


def _refuse_broken(role: str, rows: Tensor) -> None:
    """Before the model sees them: batch statistics would carry NaN into every row and stay broken."""
    broken = (~torch.isfinite(rows)).reshape(len(rows), -1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise NonFiniteError(
            f"{len(broken)} of {len(rows)} {role} rows of this batch hold NaN or infinity (rows {broken[:5]}); clean "
            "the data, or its preprocessing"
        )
