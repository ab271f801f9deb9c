"""The parameter a of offline RMIA and InfoRMIA: given, tuned on references, or its authors' value."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.attacks._masked import Mask, log_mean_exp, referenced
from amint.errors import UsageError
from amint.metrics import auroc
from amint.signals import Signals

__all__ = ["UNTUNED_A", "fitted_a", "log_guess", "tuned_a"]

GRID = tuple(step / 10 for step in range(11))
TUNING_TARGETS = 4
# What the authors' code sets for CIFAR-10, from before it tuned a (0.6 for CIFAR-100).
UNTUNED_A = 0.3


def fitted_a(mode: str, a: float | None, known: Signals, name: str) -> tuple[float | None, str]:
    """The a to use, and a note where it could not be tuned.

    It is the one given, none online, else tuned on the known samples' references, else :data:`UNTUNED_A`.
    """
    if mode == "online" or a is not None:
        return a, ""
    # The first query is the sample itself.
    columns = referenced(known, name)
    found = _aurocs_of_references(columns.reference[:, :, 0], columns.inside)
    if found:
        return _best(found), ""
    return UNTUNED_A, (
        f"a = {UNTUNED_A}, its authors' value for CIFAR-10: it could not be tuned, as no reference was trained on some "
        "of the known samples that another one leaves out"
    )


def tuned_a(reference_logprob: NDArray[Any], inside: Mask) -> float:
    """The a in 0, 0.1 ... 1 with the best AUROC when references ``[n, k]`` play the target, 4 of them at the most.

    Nothing of the audited model is used, so the tuning is not optimistic about it. The AUROC is that of the ratio,
    of which RMIA's score is a non-decreasing function and InfoRMIA's a shift.

    Raises UsageError where no reference has both IN and OUT samples with an OUT reference among the others.
    """
    found = _aurocs_of_references(reference_logprob, inside)
    if not found:
        raise UsageError(
            f"a cannot be tuned with {inside.shape[1]} references and {len(inside)} known samples: a reference plays "
            f"the target, so it must have trained on some of the known samples and not on others, and another "
            f"reference must leave them out. Pass a (0.3 was used on CIFAR-10, 0.6 on CIFAR-100), or use more "
            f"references."
        )
    return _best(found)


def log_guess(outside: Floats, a: float) -> Floats:
    """Log of the mean of the OUT mean and the guessed IN mean, a * OUT mean + 1 - a."""
    certain = math.log((1 - a) / 2) if a < 1 else -math.inf
    return np.asarray(np.logaddexp(outside + math.log((1 + a) / 2), certain), dtype=np.float64)


def _aurocs_of_references(reference_logprob: NDArray[Any], inside: Mask) -> list[list[float]]:
    """For each reference that can play the target, of at most 4, the AUROC of the ratio with each a of the grid."""
    found: list[list[float]] = []
    for j in np.flatnonzero(inside.any(axis=0) & ~inside.all(axis=0)):
        outside = np.array(~inside, dtype=np.bool_)
        outside[:, j] = False
        rows = np.asarray(outside.any(axis=1))
        if inside[rows, j].any() and not inside[rows, j].all():
            normaliser = log_mean_exp(reference_logprob[rows][:, :, None], outside[rows])[:, 0]
            target = reference_logprob[rows, j].astype(np.float64)
            found.append([auroc(target - log_guess(normaliser, a), inside[rows, j]) for a in GRID])
        if len(found) == TUNING_TARGETS:
            break
    return found


def _best(found: list[list[float]]) -> float:
    return GRID[int(np.argmax(np.mean(found, axis=0)))]
