"""A signal of the target beside the same signal of its references, and averages over some of the references.

Which reference trained on which sample is known (``reference_in``), so every average over references is a masked
one: over those that trained on the sample (IN) or over those that did not (OUT). A signal ``name`` comes as the
columns ``name`` ``[n]`` and ``reference_name`` ``[n, k]``, or with q augmented queries as ``[n, q]`` and
``[n, k, q]``; in here the query axis is always there, of length 1 for a plain signal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats, label_array
from amint.errors import NonFiniteError, UsageError
from amint.signals import Signals

__all__ = [
    "BLOCK",
    "Mask",
    "Referenced",
    "known_nonmembers",
    "log_mean_exp",
    "mean",
    "median",
    "needs_of",
    "one_of",
    "referenced",
    "require_inside",
    "require_outside",
    "target_column",
    "variance",
]

Mask = NDArray[np.bool_]

# Numbers worked on at a time: 8 MB an intermediate array, however many samples, references and queries there are.
BLOCK = 2**20

# log softmax is at most 0; float32 rounding may lift it by a few units in the last place.
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Referenced:
    """One signal, checked.

    Attributes:
        target: float64 ``[n, q]``.
        reference: ``[n, k, q]``, as stored.
        inside: bool ``[n, k]``, reference k trained on sample n.
    """

    target: Floats
    reference: NDArray[Any]
    inside: Mask


def needs_of(name: str) -> frozenset[str]:
    """The columns that :func:`referenced` reads for a signal."""
    return frozenset({name, f"reference_{name}", "reference_in"})


def one_of(parameter: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise UsageError(f"{parameter} must be one of {', '.join(map(repr, allowed))}; found {value!r}.")


def target_column(signals: Signals, name: str) -> Floats:
    """A target's signal ``[n]`` or ``[n, q]`` as float64 ``[n, q]``. Raises as :func:`referenced`."""
    return np.asarray(_checked(signals, name, queries_at=1), dtype=np.float64)


def referenced(signals: Signals, name: str) -> Referenced:
    """The target's and the references' columns of the signal ``name``.

    Raises UsageError for shapes that do not match, a ``reference_in`` that is not bool, or log-probabilities above
    0; NonFiniteError for NaN or infinity.
    """
    target, inside = target_column(signals, name), signals["reference_in"]
    reference = _checked(signals, f"reference_{name}", queries_at=2)
    if inside.dtype != np.bool_:
        raise UsageError(f"reference_in must be bool, found {inside.dtype}; pass reference_in.astype(bool).")
    if inside.shape != reference.shape[:2] or reference.shape[2] != target.shape[1]:
        raise UsageError(
            f"{name}, reference_{name} and reference_in must agree on samples, references and queries: expected "
            f"[n, q], [n, k, q] and [n, k], found {target.shape}, {reference.shape} and {inside.shape}. "
            f"Measure the references on the same samples, in the same order, with the same queries."
        )
    if reference.shape[1] == 0:
        raise UsageError("reference_in has no columns: this attack needs at least one reference model.")
    return Referenced(target, reference, inside)


def known_nonmembers(known: Signals, is_member: NDArray[np.bool_], needs: frozenset[str]) -> Signals:
    """The population Z: the needed columns of the samples that are known not to be members, ``[m, ...]``.

    Raises UsageError where there is none, or where ``is_member`` does not fit.
    """
    others = ~label_array(is_member)
    if len(others) != len(known):
        raise UsageError(f"known and is_member must have one length, found {len(known)} and {len(others)}.")
    if not others.any():
        raise UsageError(
            f"The population is made of known non-members, and none of the {len(others)} known samples is one. "
            f"Add samples that the target was not trained on."
        )
    return Signals({name: known[name][others] for name in needs})


def require_outside(inside: Mask, what: str) -> None:
    """Raise UsageError if some of the ``what`` have no OUT reference."""
    if bad := int(inside.all(axis=1).sum()):
        raise UsageError(
            f"{bad} of {len(inside)} {what} have no OUT reference: all {inside.shape[1]} references trained on "
            f"them, so nothing says what a model that did not would do. Drop these samples, or add references "
            f"that leave them out (random halves leave out each sample in half of the references)."
        )


def require_inside(inside: Mask, what: str) -> None:
    """Raise UsageError if some of the ``what`` have no IN reference."""
    if bad := int((~inside.any(axis=1)).sum()):
        raise UsageError(
            f"{bad} of {len(inside)} {what} have no IN reference: none of the {inside.shape[1]} references trained "
            f'on them, which the online attack needs. Use mode="offline", or add references trained on them.'
        )


def log_mean_exp(values: NDArray[Any], mask: Mask) -> Floats:
    """Log of the mean probability over the masked references: ``[n, k, q]``, ``[n, k]`` -> ``[n, q]``.

    Exactly their common value where they are equal, so that ties stay ties. A row of the mask without any True is
    the caller's error.
    """

    def reduce(block: Floats, chosen: Mask) -> Floats:
        logs = np.where(chosen, block, -np.inf)
        top = logs.max(axis=1)
        total = np.exp(logs - top[:, None]).sum(axis=1)
        return np.asarray(top + np.log(total / chosen.sum(axis=1)), dtype=np.float64)

    return _by_blocks(reduce, values, mask)


def mean(values: NDArray[Any], mask: Mask) -> Floats:
    """Mean over the masked references, ``[n, q]``; a row of the mask without any True gives 0."""
    return _by_blocks(_mean, values, mask)


def variance(values: NDArray[Any], mask: Mask) -> Floats:
    """Mean squared distance from :func:`mean` over the masked references, ``[n, q]``."""

    def reduce(block: Floats, chosen: Mask) -> Floats:
        return _mean((block - _mean(block, chosen)[:, None]) ** 2, chosen)

    return _by_blocks(reduce, values, mask)


def median(values: NDArray[Any], mask: Mask) -> Floats:
    """Median over the masked references, ``[n, q]``."""

    def reduce(block: Floats, chosen: Mask) -> Floats:
        ascending = np.sort(np.where(chosen, block, np.inf), axis=1)
        count = chosen.sum(axis=1)[:, None]
        low = np.take_along_axis(ascending, (count - 1) // 2, axis=1)
        high = np.take_along_axis(ascending, count // 2, axis=1)
        return np.asarray((low + high)[:, 0] / 2, dtype=np.float64)

    return _by_blocks(reduce, values, mask)


def _mean(block: Floats, chosen: Mask) -> Floats:
    return np.asarray(np.where(chosen, block, 0.0).sum(axis=1) / np.maximum(chosen.sum(axis=1), 1), dtype=np.float64)


def _by_blocks(reduce: Callable[[Floats, Mask], Floats], values: NDArray[Any], mask: Mask) -> Floats:
    rows = max(1, BLOCK // max(1, values[:1].size))
    parts = [np.empty((0, values.shape[2]))]
    for start in range(0, len(values), rows):
        # C order, whatever the caller's: a sum over references must round alike in every batch.
        block = np.asarray(values[start : start + rows], dtype=np.float64, order="C")
        parts.append(reduce(block, mask[start : start + rows, :, None]))
    return np.concatenate(parts)


def _checked(signals: Signals, name: str, queries_at: int) -> NDArray[Any]:
    """The column with its query axis, finite, and at most 0 if it holds log-probabilities."""
    column = signals[name]
    with_queries = name.endswith("_queries")
    expected = queries_at + with_queries
    if column.ndim != expected or column.dtype.kind not in "fiu":
        axes = ["n", "k", "q"] if queries_at == 2 else ["n", "q"]
        raise UsageError(
            f"{name} must hold numbers of shape [{', '.join(axes[:expected])}]; found shape {column.shape} and "
            f"dtype {column.dtype}."
        )
    values = column if with_queries else column[..., None]
    rest = tuple(range(1, values.ndim))
    if bad := int((~np.isfinite(values)).any(axis=rest).sum()):
        raise NonFiniteError(
            f"{name}: {bad} of {len(values)} samples have NaN or infinite values. Drop these samples and say so, or "
            f"fix the model that they come from."
        )
    if "logprob" in name and (bad := int((values > ROUNDING).any(axis=rest).sum())):
        raise UsageError(
            f"{name}: {bad} of {len(values)} samples have log-probabilities above 0. Pass log softmax of the logits, "
            f"not probabilities."
        )
    return values
