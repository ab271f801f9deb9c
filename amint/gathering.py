"""Every signal that any attack needs, from the target and from its references, in one pass over the rows for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amint.errors import AmintError, UsageError
from amint.labelled import LabelledRows
from amint.queries import Queries
from amint.signal_cache import Identified, extract_cached
from amint.signals import Signals, extract
from amint.targets import ClassifierTarget, Target

__all__ = ["Gathered", "Progress", "References", "forward_passes", "gather", "is_of_references"]

Progress = Callable[[str, int, int], None]

# Names that begin like this are columns of the references, not of the target.
_REFERENCE, _SHADOW = "reference_", "shadow_"
_PROBED = 8


class References(Protocol):
    """Reference models, as :class:`amint.fleet.Fleet` gives them."""

    provides: frozenset[str]

    @property
    def k(self) -> int:
        """How many models."""
        ...

    def saw(self, marks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``[n]``: whether any of them trained on a row with this fingerprint."""
        ...

    def signals(
        self,
        batches: Iterable[Any],
        needs: Set[str],
        *,
        queries: Queries | None = None,
        classes: int | None = None,
        cache: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> Signals:
        """Columns of all models, each ``[n, k, ...]``."""
        ...


@dataclass(frozen=True, eq=False)
class Gathered:
    """What could be measured.

    Attributes:
        signals: columns of all rows.
        missing: name of a signal -> why it could not be measured.
        references: how many reference models there are.
    """

    signals: Signals
    missing: Mapping[str, str]
    references: int

    def why_not(self, needs: Set[str]) -> str:
        """Why an attack with these needs cannot run, or an empty text."""
        lacking = sorted(set(needs) - set(self.signals.columns))
        if not lacking:
            return ""
        reasons = dict.fromkeys(self.missing[name] for name in lacking if name in self.missing)
        return f"needs {', '.join(lacking)}: {'; '.join(reasons)}"


def gather(
    target: Target,
    references: References | None,
    rows: LabelledRows,
    needs: Set[str],
    *,
    queries: Queries | None = None,
    cache: str | Path | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    stage: str = "target",
) -> Gathered:
    """Measure what can be measured; one signal that cannot be does not keep the others from being measured.

    Args:
        target: the model.
        references: their columns are those that begin with ``reference_`` or ``shadow_``.
        rows: what to measure.
        needs: names of signals, of target and references.
        queries: augmented views, the same as the target's.
        cache: folder for the target's signals.
        device: of the references; None for the CPU.
        progress: see :func:`amint.compare`.
        stage: what the pass over the target is called there.

    Raises:
        Exception: what the target raises, if none of its signals but the MINT head's can be measured.
        UsageError: the references do not fit, the rows change between passes, or a target without identity is to be
            kept on disk.
    """
    own = {name for name in needs if not is_of_references(name)}
    missing = _unmeasurable(target, rows, own)
    signals = _extracted(target, _Counted(rows, stage, progress), own - set(missing), cache)
    others = set(needs) - own
    if references is None:
        hint = "there are no reference models; pass fleet=, or --references on the command line"
        return Gathered(signals, missing | dict.fromkeys(others, hint), 0)
    missing |= dict.fromkeys(others - references.provides, "these reference models do not provide it")
    # What the target cannot give is of no use from references, and would fail there for the same reason.
    missing |= {name: missing[same] for name in others if (same := name.removeprefix(_REFERENCE)) in missing}
    wanted = others - set(missing)
    if wanted:
        batches = _Counted(rows, "references", progress)
        more = references.signals(
            batches, wanted, queries=queries, classes=_classes(target, rows), device=device or "cpu"
        )
        signals = signals.joined(more)
    return Gathered(signals, missing, references.k)


def is_of_references(name: str) -> bool:
    """Whether a signal is read from reference models."""
    return name.startswith((_REFERENCE, _SHADOW))


def forward_passes(needs: Set[str], gathered: Gathered) -> int:
    """How many passes one sample costs an attack that runs alone; a gradient counts as two more."""
    queried = [name for name in needs if name.endswith("_queries") and not is_of_references(name)]
    views = max((gathered.signals[name].shape[1] for name in queried if not gathered.why_not({name})), default=1)
    models = 1 + (gathered.references if any(name.startswith(_REFERENCE) for name in needs) else 0)
    models += any(name.startswith(_SHADOW) for name in needs)
    return models * views + 2 * any(name.startswith("gradient") for name in needs)


@dataclass(frozen=True, eq=False)
class _Counted:
    """Batches that may be read as often as need be, and report how far each pass is."""

    rows: LabelledRows
    stage: str
    progress: Progress | None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for x, y in self.rows:
            yield x, y
            done += len(x)
            if self.progress is not None:
                self.progress(self.stage, done, len(self.rows))


def _unmeasurable(target: Target, rows: LabelledRows, needs: Set[str]) -> dict[str, str]:
    x, y = next(iter(rows))
    few = (x[:_PROBED], y[:_PROBED])
    failures: dict[str, Exception] = {}
    for name in sorted(needs & target.provides):
        # A user's model may raise anything.
        try:
            target.measure(few, {name})
        except Exception as error:
            failures[name] = error
    # The MINT head reads no outputs; it alone does not make a comparison.
    if failures and set(failures) >= (needs & target.provides) - {"mint_logit"}:
        raise next(iter(failures.values()))
    absent = dict.fromkeys(needs - target.provides, "this target does not provide it")
    return absent | {name: _said(error) for name, error in failures.items()}


def _extracted(target: Target, batches: _Counted, needs: Set[str], cache: str | Path | None) -> Signals:
    if cache is None:
        return extract(target, batches, needs)
    if not hasattr(target, "identity"):
        raise UsageError(
            f"signals can only be kept on disk for a target that knows what it is; {type(target).__name__} has no "
            "identity(). Leave out cache="
        )
    return extract_cached(cast(Identified, target), batches, needs, cache)


def _classes(target: Target, rows: LabelledRows) -> int | None:
    return target.count_classes(next(iter(rows))) if isinstance(target, ClassifierTarget) else None


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, AmintError) else f"{type(error).__name__}: {error}"
