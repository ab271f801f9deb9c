"""What can be measured: a target turns a batch into named per-sample numbers."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from amint.audit import Audit
from amint.batches import inputs_of
from amint.errors import UsageError
from amint.gradients import sample_gradients
from amint.identity import content_digest, model_digest
from amint.posteriors import posterior_columns
from amint.probes import Seen, look
from amint.queries import Queries
from amint.rebuilding import like_weights, shown_weight
from amint.split import TapPoint, resolve_split
from amint.taps import evaluating

__all__ = ["POSTERIORS", "QUERIED", "AuditedModel", "ClassifierTarget", "Columns", "Target", "labels_of"]

Columns = dict[str, np.ndarray[Any, Any]]

POSTERIORS = frozenset(
    {"logprob", "max_logprob", "correct", "entropy", "modified_entropy", "hinge", "scaled_logit", "top3"}
)
QUERIED = frozenset({"logprob_queries", "scaled_logit_queries"})
_LINEAR = frozenset({"features", "gradient"})
_NORMS = frozenset({"gradient_norm", "gradient_norms"})
_GRADIENTS = _NORMS | {"gradient"}
_TAPPED = frozenset({"activations", "maps"})
_LABELLED = (POSTERIORS - {"max_logprob", "entropy", "top3"}) | QUERIED | _GRADIENTS | {"label"}


class Target(Protocol):
    """A model that signals can be read from.

    Attributes:
        provides: names of the signals it can measure.
    """

    provides: frozenset[str]

    def measure(self, batch: Any, needs: Set[str]) -> Columns:
        """Signals of one batch, inputs ``[n, ...]`` alone or with labels ``[n]`` behind them, each ``[n, ...]``."""
        ...


class AuditedModel:
    """A model with its MINT head, the same for a row whatever rows come with it.

    ``mint_logit``, the MINT score, is float64 ``[n]``; ``max_logprob``, float64 ``[n]``, and ``predicted``, the class,
    int64 ``[n]``, are NaN and -1 unless the model is a classifier.
    """

    provides = frozenset({"mint_logit", "max_logprob", "predicted"})

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def measure(self, batch: Any, needs: Set[str]) -> Columns:
        """See :class:`Target`."""
        reading = self._audit.read(inputs_of(batch))
        n = len(reading.scores)
        columns = {
            "mint_logit": reading.scores,
            "max_logprob": np.full(n, np.nan) if reading.confidence is None else reading.confidence,
            "predicted": np.full(n, -1) if reading.classes is None else reading.classes,
        }
        return {name: columns[name] for name in needs & self.provides}

    def identity(self) -> str:
        """A hash that changes with whatever changes the signals, code and attributes of a subclass included."""
        return _digest(_audit_digest(self._audit), _own(self, {"_audit"}))


class ClassifierTarget:
    """A classifier, read in evaluation mode and left as it was: modes, gradients, buffers, hooks, random numbers.

    ====================================================== =============================================================
    ``label``                                              int64 ``[n]``, as given
    ``logprob`` ``max_logprob`` ``correct`` ``entropy``    float64, see :func:`amint.posteriors.posterior_columns`
    ``modified_entropy`` ``hinge`` ``scaled_logit``
    ``top3``
    ``logprob_queries`` ``scaled_logit_queries``           float64 ``[n, q]``, on the views of ``queries``
    ``features``                                           float32 ``[n, d]``, what the last linear layer reads
    ``gradient`` ``gradient_norm`` ``gradient_norms``      see :func:`amint.gradients.sample_gradients`; of the last
                                                           linear layer, of all parameters, and of each
    ``activations``                                        float32 ``[n, d]``, channel means of the taps side by side
    ``maps``                                               float16 ``[n, c, h, w]``, the deepest tap, at most 8 x 8
    ``mint_logit``                                         float64 ``[n]``, of the audit
    ====================================================== =============================================================

    Memory grows with samples, not with classes, except for ``gradient``. Kernels choose another order of summation for
    another batch size; in float32 that moves a logit by about 1e-6 of the largest, and columns in proportion.

    Args:
        model: inputs ``[n, ...]`` -> logits ``[n, c]``, c >= 2.
        audit: an audit of this very model, for ``mint_logit``.
        taps: where to read ``activations`` and ``maps``, as in :func:`amint.split.resolve_split`; None for the audit's
            taps if there is one, else nowhere.
        classes: how many classes there have to be, if that is known.
        queries: augmented views for the signals named ``*_queries``.

    Attributes:
        provides: names of the signals it can measure.

    Raises:
        UsageError: the audit is of another model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        audit: Audit | None = None,
        taps: str | Sequence[str] | None = None,
        classes: int | None = None,
        queries: Queries | None = None,
    ) -> None:
        if audit is not None and audit.backbone is not model:
            raise UsageError("this audit is of another model; pass ClassifierTarget(audit.backbone, audit=audit)")
        self._model, self._audit, self._split, self._classes = model, audit, taps, classes
        self._queries = queries or Queries()
        self._points: tuple[TapPoint, ...] = audit.points if audit is not None and taps is None else ()
        provides = {"label"} | _NORMS | POSTERIORS | QUERIED
        provides |= _LINEAR if any(isinstance(m, nn.Linear) for m in model.modules()) else set()
        provides |= _TAPPED if audit is not None or taps is not None else set()
        self.provides = frozenset(provides | ({"mint_logit"} if audit is not None else set()))

    @property
    def model(self) -> nn.Module:
        """The classifier."""
        return self._model

    @property
    def audit(self) -> Audit | None:
        """The audit of that model, if there is one."""
        return self._audit

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return shown_weight(self._model).device

    @property
    def queries(self) -> Queries:
        """The augmented views that the model is asked about; references must be asked about the same."""
        return self._queries

    def on(self, model: nn.Module, audit: Audit | None = None) -> Self:
        """The same target, of its own kind and with its taps, classes and queries, on another network.

        Args:
            model: of the same architecture.
            audit: of that model, where this target has one.

        Raises:
            UsageError: only one of the two targets has an audit, or it is of another model.
        """
        if (audit is None) != (self._audit is None) or (audit is not None and audit.backbone is not model):
            raise UsageError("a target with an audit needs an audit of the other model, one without has no use for one")
        other = copy.copy(self)
        other._model, other._audit = model, audit
        return other

    def measure(self, batch: Any, needs: Set[str]) -> Columns:
        """See :class:`Target`.

        Raises:
            UsageError: a label is missing or out of range; the model gives no ``[n, c]`` logits, probabilities, or
                another number of classes than it should; a signal does not fit this model.
            NonFiniteError: some logits are NaN or infinite.
        """
        x, labels = inputs_of(batch), labels_of(batch)
        if labels is None and needs & _LABELLED:
            raise UsageError(
                f"{sorted(needs & _LABELLED)} need labels, but the loader yielded inputs only; let it yield (x, label)"
            )
        if needs <= {"mint_logit"}:
            return _mint_logit(self._audit, x) if self._audit is not None and needs else {}
        with _undisturbed(self._model):
            columns = {name: column.cpu().numpy() for name, column in self._columns(x, labels, needs).items()}
        if self._audit is not None and "mint_logit" in needs:
            columns |= _mint_logit(self._audit, x)
        return {name: columns[name] for name in needs & self.provides}

    def count_classes(self, batch: Any) -> int:
        """How many classes the model tells apart, by running the first rows of a batch."""
        x = inputs_of(batch)[:2]
        with _undisturbed(self._model):
            return self._logits(look(self._model, like_weights(self._model, x)), len(x)).shape[1]

    def identity(self) -> str:
        """A hash that changes with whatever changes the signals, code and attributes of a subclass included."""
        audit = None if self._audit is None else _audit_digest(self._audit)
        # Taps are resolved when they are first read, from what is in the hash already.
        return _digest(model_digest(self._model), audit, _own(self, {"_model", "_audit", "_points"}))

    def _columns(self, raw: Tensor, labels: Tensor | None, needs: Set[str]) -> dict[str, Tensor]:
        x = like_weights(self._model, raw)
        points = self._resolved(x) if needs & _TAPPED else ()
        seen = look(self._model, x, points, linears=bool(needs & _LINEAR))
        logits = self._logits(seen, len(x))
        # What reads no label comes out the same with any.
        y = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
        columns = posterior_columns(logits, y)
        y = columns["label"] = y.to(x.device).long()
        if seen.means is not None and seen.maps is not None:
            columns |= {"activations": seen.means.float(), "maps": seen.maps}
        if "features" in needs:
            columns["features"] = seen.classifier().features.float()
        if needs & _GRADIENTS:
            layer = seen.classifier().name if "gradient" in needs else None
            columns |= sample_gradients(self._model, x, y, layer=layer, norms=bool(needs & _NORMS))
        return columns | (self._queried(raw, y, columns) if needs & QUERIED else {})

    def _queried(self, raw: Tensor, y: Tensor, plain: dict[str, Tensor]) -> dict[str, Tensor]:
        views = []
        for number, view in enumerate(self._queries.views(raw)):
            if number:
                seen = look(self._model, like_weights(self._model, view))
                plain = posterior_columns(self._logits(seen, len(view)), y)
            views.append(plain)
        return {name: torch.stack([view[name.removesuffix("_queries")] for view in views], 1) for name in QUERIED}

    def _logits(self, seen: Seen, n: int) -> Tensor:
        output = seen.output
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"the model must give logits [{n}, classes] for {n} inputs, it gave {found}; wrap it in a module that "
                "returns the logits alone"
            )
        if self._classes is not None and output.shape[1] != self._classes:
            raise UsageError(
                f"this model tells {output.shape[1]} classes apart, {self._classes} were expected (found on {n} "
                "samples); target and references must be trained on the same classes"
            )
        return output

    def _resolved(self, x: Tensor) -> tuple[TapPoint, ...]:
        if not self._points and self._split is not None:
            self._points = resolve_split(self._model, self._split, x[:2])
        return self._points


def labels_of(batch: Any) -> Tensor | None:
    """The labels of a batch: the second of a tuple or list, if that is a tensor."""
    pair = isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[1], Tensor)
    return batch[1] if pair else None


def _mint_logit(audit: Audit, x: Tensor) -> Columns:
    return {"mint_logit": audit.read(x).scores}


def _audit_digest(audit: Audit) -> str:
    return _digest(model_digest(audit.backbone), model_digest(audit.head), [point.name for point in audit.points])


def _own(target: Target, skipped: Set[str]) -> str:
    """A hash of a target's attributes and its class: by name if it is ours, as the version of signals pins its code."""
    kind = type(target)
    ours = kind.__module__.partition(".")[0] == __package__
    attributes = {name: value for name, value in vars(target).items() if name not in skipped}
    return content_digest([kind.__qualname__ if ours else kind, attributes])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    device = shown_weight(model).device
    with (
        evaluating(model),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.compiler.set_stance("force_eager"),
    ):
        yield
