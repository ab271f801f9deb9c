"""The baseline that needs no network: a list of the members' hashes, and who is on it.

It recognises content, not training: whoever holds the list finds every listed sample whatever model is asked about,
and a sample the model was trained on but that is not listed leaves no trace. A MINT head is compared with it because
both are told who the members are. The list is something to store (:attr:`HashRegister.nbytes`) and something to leak:
whoever has it can test any sample he holds, and guess at simple ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.batches import Source, input_batches
from amint.errors import UsageError
from amint.perceptual import BITS, nearest
from amint.records import perceptual_hashes
from amint.roles import fingerprints

__all__ = ["HashRegister"]

Hashes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HashRegister:
    """The hashes of the members; made by :meth:`of`.

    Attributes:
        exact: fingerprints of content (:func:`amint.roles.fingerprints`), int64, ascending, each once.
        look: perceptual hashes (:func:`amint.perceptual.perceptual_hash`) of members that are images with 1 or 3
            channels and not blank, int64, ascending, each once.
    """

    exact: Hashes
    look: Hashes

    @staticmethod
    def of(members: Source) -> HashRegister:
        """Register the rows of a loader, dataset or tensor, as the model is fed them.

        Raises:
            UsageError: the source yields nothing.
            NonFiniteError: images hold NaN or infinity.
        """
        exact, look = _hashes(members, "register")
        return HashRegister(np.unique(exact), np.unique(look[look != 0]))

    @property
    def nbytes(self) -> int:
        """What has to be stored, in bytes: 16 a member at most, 8 where it is no image."""
        return self.exact.nbytes + self.look.nbytes

    def scores(self, source: Source) -> Floats:
        """How near each row of a loader, dataset or tensor is to the nearest member, float64 ``[n]``, in order.

        Returns:
            65 for the same content as a member, else the number of equal bits, of 64, in the row's perceptual hash and
            the nearest member's, and -1 where there is nothing to compare (no image, a blank one, or no such member).
            Ties are the rule, so no threshold has just any false-alarm rate: amint's metrics and p-values, which keep
            to a rate or below it, then fall well below it.

        Raises:
            UsageError: the source yields nothing.
            NonFiniteError: images hold NaN or infinity.
        """
        exact, look = _hashes(source, "score")
        _, bits = nearest(look, self.look, BITS)
        return np.where(np.isin(exact, self.exact), BITS + 1, BITS - bits).astype(np.float64)


def _hashes(source: Source, purpose: str) -> tuple[Hashes, Hashes]:
    """Fingerprints and perceptual hashes ``[n]`` of all rows; what is no image gets the hash of a blank one, 0."""
    exact, look = [], []
    for rows in input_batches(source):
        exact.append(fingerprints(rows).cpu().numpy())
        hashes = perceptual_hashes(rows)
        look.append(np.zeros(len(rows), np.int64) if hashes is None else hashes)
    if not exact:
        raise UsageError(f"there is nothing to {purpose}: the source yielded no batch")
    return np.concatenate(exact), np.concatenate(look)
