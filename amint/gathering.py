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
        failed: names of the missing ones that the target should give: measuring them failed, and no refusal said why.
    """

    signals: Signals
    missing: Mapping[str, str]
    references: int
    failed: Set[str] = frozenset()

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
    refused: str = "",
    queries: Queries | None = None,
    cache: str | Path | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    stage: str = "target",
) -> Gathered:
    """Measure what can be measured; one signal that cannot be does not keep the others from being measured.

    A signal of the target that fails on some batch is left out, and the pass begins again without it. Whatever the
    references raise keeps none of the target's signals back.

    Args:
        target: the model.
        references: their columns are those that begin with ``reference_`` or ``shadow_``.
        rows: what to measure.
        needs: names of signals, of target and references.
        refused: why the references must not be asked, or empty.
        queries: augmented views, the same as the target's.
        cache: folder for the target's signals.
        device: of the references; None for the CPU.
        progress: see :func:`amint.compare`.
        stage: what the pass over the target is called there.

    Raises:
        Exception: what the target raises, if none of its signals but the MINT head's can be measured, or if each can be
            measured alone; and what ``progress`` raises.
        UsageError: the rows change between passes, or a target without identity is to be kept on disk.
    """
    own = {name for name in needs if not is_of_references(name)}
    missing, failed = _unmeasurable(target, rows, own)
    signals, late = _measured(target, _Counted(rows, stage, progress), own - set(missing), cache)
    missing, failed = missing | late, failed | set(late)
    others = set(needs) - own
    if references is None:
        hint = "there are no reference models; pass fleet=, or --references on the command line"
        return Gathered(signals, missing | dict.fromkeys(others, hint), 0, failed)
    if refused:
        return Gathered(signals, missing | dict.fromkeys(others, refused), references.k, failed)
    missing |= dict.fromkeys(others - references.provides, "these reference models do not provide it")
    # What the target cannot give is of no use from references, and would fail there for the same reason.
    missing |= {name: missing[same] for name in others if (same := name.removeprefix(_REFERENCE)) in missing}
    wanted = others - set(missing)
    if wanted:
        classes, batches = _classes(target, rows), _Counted(rows, "references", progress)
        # References may fail in any way, and attacks on the target alone must still run.
        try:
            found = references.signals(batches, wanted, queries=queries, classes=classes, device=device or "cpu")
            signals = signals.joined(found)
        except Exception as error:
            if batches.broken is not None:
                raise
            missing |= dict.fromkeys(wanted, f"the reference models: {_said(error)}")
    return Gathered(signals, missing, references.k, failed)


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


class _Counted:
    """Batches that may be read as often as need be, and report how far each pass is.

    Attributes:
        measured: the batch that was handed out and not yet asked to be followed by another; None between passes.
        done: how many rows came before it.
        broken: what the rows or ``progress`` raised, which is no failure of what reads the batches.
    """

    def __init__(self, rows: LabelledRows, stage: str, progress: Progress | None) -> None:
        self._rows, self._stage, self._progress = rows, stage, progress
        self.measured: tuple[Tensor, Tensor] | None = None
        self.done = 0
        self.broken: Exception | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.measured, self.done = None, 0
        try:
            for batch in self._rows:
                self.measured = batch
                yield batch
                self.measured = None
                self.done += len(batch[0])
                if self._progress is not None:
                    self._progress(self._stage, self.done, len(self._rows))
        except Exception as error:
            self.broken = error
            raise


def _unmeasurable(target: Target, rows: LabelledRows, needs: Set[str]) -> tuple[dict[str, str], Set[str]]:
    """Why signals cannot be measured on the first rows, and the names of those that were not refused but failed."""
    x, y = next(iter(rows))
    failures = _failures(target, (x[:_PROBED], y[:_PROBED]), needs & target.provides)
    if failures and _ends_all(failures, needs & target.provides):
        raise next(iter(failures.values()))
    absent = dict.fromkeys(needs - target.provides, "this target does not provide it")
    failed = {name for name, error in failures.items() if not isinstance(error, UsageError)}
    return absent | {name: _said(error) for name, error in failures.items()}, failed


def _measured(
    target: Target, batches: _Counted, needs: Set[str], cache: str | Path | None
) -> tuple[Signals, dict[str, str]]:
    """The signals that can be measured on all rows, and why the others cannot."""
    failed: dict[str, str] = {}
    while True:
        wanted = needs - set(failed)
        try:
            return _extracted(target, batches, wanted, cache), failed
        except Exception:
            # Not while a batch was measured: the rows, the progress or the cache, and no signal is to blame.
            if batches.measured is None:
                raise
            failures = _failures(target, batches.measured, wanted)
            if not failures or _ends_all(failures, wanted):
                raise
            where = f"in the batch that begins at row {batches.done}"
            failed |= {name: f"{where}: {_said(error)}" for name, error in failures.items()}


def _failures(target: Target, batch: tuple[Tensor, Tensor], needs: Set[str]) -> dict[str, Exception]:
    """What each signal raises when it is measured alone on this batch; those that can be measured are left out."""
    found: dict[str, Exception] = {}
    for name in sorted(needs):
        # A user's model may raise anything.
        try:
            target.measure(batch, {name})
        except Exception as error:
            found[name] = error
    return found


def _ends_all(failures: Mapping[str, Exception], needs: Set[str]) -> bool:
    """Whether nothing is left to compare; the MINT head reads no outputs, and alone it does not make a comparison."""
    return set(failures) >= needs - {"mint_logit"}


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
