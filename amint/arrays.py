"""Score and label arrays, checked once: what every metric and every p-value starts from."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amint.errors import NonFiniteError, UsageError

__all__ = ["Floats", "by_class", "label_array", "samples_needed", "score_array"]

Floats = NDArray[np.float64]


def score_array(values: ArrayLike, name: str = "scores") -> Floats:
    """``values`` as a new float64 array ``[n]``, possibly empty.

    Raises UsageError unless it is one-dimensional and numeric, NonFiniteError for NaN or infinity:
    an overflow is not evidence, and one infinite score would otherwise count as the strongest there is.
    """
    raw = np.asarray(values)
    if raw.ndim != 1 or raw.dtype.kind not in "biuf":
        raise UsageError(
            f"{name} must be a one-dimensional array of numbers, one a sample; "
            f"found shape {raw.shape} and dtype {raw.dtype}."
        )
    array = raw.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise NonFiniteError(
            f"{name}: {int(bad.sum())} of {len(array)} are NaN or infinite, the first at index "
            f"{int(bad.argmax())}. Drop these samples and say so, or fix the signal they come from."
        )
    return array


def samples_needed(rate: float) -> int:
    """The smallest n whose step 1/n does not exceed ``rate`` > 0, judged in floating point."""
    # 1/100 > 0.01 as exact fractions, yet 1/100 == 0.01 as floats, and floats are what is compared elsewhere.
    n = math.ceil(1 / Fraction(rate))
    return n - 1 if n > 1 and 1 / (n - 1) <= rate else n


def rounded_up(rate: float) -> float:
    """``rate`` > 0 to three digits, and not below it: a limit to be typed."""
    scale = 10.0 ** (2 - math.floor(math.log10(rate)))
    return math.ceil(rate * scale) / scale


def label_array(is_member: ArrayLike) -> NDArray[np.bool_]:
    """``is_member`` as a bool array ``[n]``. Raises UsageError unless it is one-dimensional bool or 0/1."""
    raw = np.asarray(is_member)
    if raw.ndim != 1 or not (raw.size == 0 or (raw.dtype.kind in "biuf" and np.isin(raw, (0, 1)).all())):
        raise UsageError(
            "is_member must be a one-dimensional array of booleans or 0/1, one a sample; "
            f"found shape {raw.shape}, dtype {raw.dtype}, values {raw.ravel()[:5].tolist()}."
        )
    return raw.astype(np.bool_)


def by_class(scores: ArrayLike, is_member: ArrayLike) -> tuple[Floats, Floats]:
    """The members' and the non-members' scores, neither of them empty.

    Raises UsageError for arrays that do not match, labels other than 0/1, or one class only; NonFiniteError
    for NaN or infinite scores.
    """
    values, labels = score_array(scores), label_array(is_member)
    if len(values) != len(labels):
        raise UsageError(
            f"scores and is_member must have the same length, found {len(values)} scores and "
            f"{len(labels)} labels. Pass one label for each score, in the same order."
        )
    members, others = values[labels], values[~labels]
    if not (len(members) and len(others)):
        missing = "non-members" if len(members) else "members" if len(others) else "both"
        raise UsageError(
            f"Members and non-members are both needed, found {len(members)} members and {len(others)} "
            f"non-members. Add scores of known {missing}, or collect more batches before computing."
        )
    return members, others
