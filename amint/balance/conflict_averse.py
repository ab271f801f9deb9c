"""Two gradients into one that does not let one loss undo the other: the aggregators of torchjd.

Each sees the 2 x 2 Gramian of the two gradients and gives two weights; the gradients are never stacked into a matrix.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amint.balance.protocols import Balance
from amint.balance.torchjd_extra import missing, torchjd_module
from amint.balance.two_gradients import TwoGradients
from amint.errors import UsageError

__all__ = ["ConflictAverse"]

_AGGREGATORS = {
    "aligned_mtl": "AlignedMTL",
    "cagrad": "CAGrad",
    "imtl_g": "IMTLG",
    "mgda": "MGDA",
    "nash_mtl": "NashMTL",
    "pcgrad": "PCGrad",
    "upgrad": "UPGrad",
}
# torchjd's own norm_eps of 1e-4 would stop the shared layers where one gradient is 10,000 times as long as the other.
_DEFAULTS: dict[str, dict[str, Any]] = {"cagrad": {"c": 0.5, "norm_eps": 1e-6}}
_FIXED: dict[str, dict[str, Any]] = {"nash_mtl": {"n_tasks": 2}}


class ConflictAverse:
    """The gradient of the shared layers is an aggregate of the task's and the MINT loss's; others get their own loss's.

    ===============  ==========================================================  =======================================
    method           the aggregate                                               source
    ===============  ==========================================================  =======================================
    ``upgrad``       mean of both gradients, each projected onto the cone of     Quinton, Rey 2024 (arXiv 2406.16232)
                     directions in which no loss grows
    ``cagrad``       near the mean, with the best decrease of the worst loss     Liu et al. 2021 (arXiv 2110.14048)
    ``pcgrad``       sum of both, each without its part against the other        Yu et al. 2020 (arXiv 2001.06782)
    ``mgda``         the shortest convex combination                             Désidéri 2012; Sener, Koltun 2018
    ``imtl_g``       equal projections on both directions                        Liu et al. 2021 (ICLR, "Impartial")
    ``aligned_mtl``  both gradients made orthogonal and equally long             Senushkin et al. 2023 (CVPR)
    ``nash_mtl``     the Nash bargaining solution                                Navon et al. 2022 (arXiv 2202.01017)
    ===============  ==========================================================  =======================================

    All but ``pcgrad`` and ``nash_mtl`` are on the scale of the mean of the two gradients, a weighted sum of losses on
    that of their sum. ``nash_mtl`` is at most 1 long by default (``max_norm``). For two losses none of them is random,
    and the global random numbers are left alone. ``nash_mtl`` solves to a few digits, and badly where one gradient is
    more than a hundred times as long as the other: bring the losses to one scale first.

    Args:
        method: one of the above.
        of: a balance of losses to apply first, such as ``Weighted(mint=10)`` or ``NormalisedByFirst(mint=1)``: the
            gradients are multiplied by its weights, in every layer; None for the losses as they are.
        options: of torchjd's aggregator, e.g. ``c=0.4`` for cagrad (default 0.5), ``pref_vector=(1, 1)`` for upgrad and
            aligned_mtl, ``max_norm=0`` or ``update_weights_every=10`` for nash_mtl.

    Raises:
        UsageError: an unknown method or option, or torchjd (extra "balance") is not installed.
    """

    def __init__(self, method: str, *, of: Balance | None = None, **options: Any) -> None:
        if method not in _AGGREGATORS:
            near = difflib.get_close_matches(method.lower(), _AGGREGATORS, 3, 0.4)
            raise UsageError(
                f"there is no conflict-averse method {method!r}; "
                + (f"near names: {', '.join(near)}" if near else f"there are {', '.join(_AGGREGATORS)}")
            )
        if of is not None and (isinstance(of, type) or not isinstance(of, Balance)):
            raise UsageError(f"of must be a balance of losses, such as Weighted(mint=10), got {of!r}")
        self.method, self.of = method, of
        self.options = _DEFAULTS.get(method, {}) | options
        self._aggregator = _aggregator(method, self.options)
        self._remembers = method == "nash_mtl"
        start = self.state_dict()
        try:
            self._weights(torch.eye(2, dtype=torch.float64))
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{self!r} does not work for two losses: {error}") from error
        self.load_state_dict(start)

    def backward(self, task: Tensor, mint: Tensor) -> Tensor:
        """Add the aggregate to the shared layers' gradients, and to the others' the gradient of the loss they have."""
        if self.of is not None:
            a, b = _weights_of(self.of, task, mint)
            task, mint = a * task, b * mint
        total = (task + mint).detach()
        if bool(torch.isfinite(total)):
            gradients = TwoGradients.of(task, mint)
            gradients.accumulate(*self._weights(gradients.gramian()))
        return total

    def state_dict(self) -> dict[str, Any]:
        """What ``of`` remembers, and for nash_mtl the last bargain and the number of steps."""
        state: dict[str, Any] = {"of": getattr(self.of, "state_dict", dict)()}
        if self._remembers:
            weighting = self._aggregator.weighting
            state |= {"step": int(weighting.step), "alpha": weighting.prvs_alpha.tolist()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        if self.of is not None and hasattr(self.of, "load_state_dict"):
            self.of.load_state_dict(state["of"])
        if self._remembers:
            weighting = self._aggregator.weighting
            weighting.step, weighting.prvs_alpha = state["step"], np.array(state["alpha"], dtype=np.float64)

    def __repr__(self) -> str:
        shown = [repr(self.method), *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"{type(self).__name__}({', '.join(shown + ([f'of={self.of!r}'] if self.of is not None else []))})"

    def _weights(self, gramian: Tensor) -> tuple[float, float]:
        if not bool(gramian.any()):
            return 1.0, 1.0
        if self._remembers:
            # It reads lengths off a matrix, and any two rows with this Gramian will do.
            values, vectors = torch.linalg.eigh(gramian)
            matrix = vectors * values.clamp_min(0).sqrt()
            with warnings.catch_warnings():
                # Of the solver, at every step, about speed and last digits.
                warnings.simplefilter("ignore")
                task, mint = self._aggregator.weighting(matrix).tolist()
        else:
            # The weights do not depend on the unit of the gradients, but solvers take short ones for zero.
            with torch.random.fork_rng(devices=[]):
                task, mint = self._aggregator.gramian_weighting(gramian / gramian.trace()).tolist()
        return task, mint


def _aggregator(method: str, options: dict[str, Any]) -> Any:
    make = getattr(torchjd_module("aggregation", f"ConflictAverse({method!r})"), _AGGREGATORS[method])
    fixed = _FIXED.get(method, {})
    known = [name for name in inspect.signature(make).parameters if name not in fixed]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"{method} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    if options.get("pref_vector") is not None:
        options = options | {"pref_vector": torch.as_tensor(options["pref_vector"], dtype=torch.float64, device="cpu")}
    try:
        if method == "upgrad" and "projector" not in options:
            # With torchjd's own reg_eps of 1e-4 a gradient a hundred times as long would overrule the other.
            projector = torchjd_module("linalg", f"ConflictAverse({method!r})").QuadprogProjector(reg_eps=1e-12)
            options = options | {"projector": projector}
        return make(**options, **fixed)
    except ImportError as error:
        raise missing(f"ConflictAverse({method!r})", error) from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"ConflictAverse({method!r}) cannot be made: {error}") from error


def _weights_of(balance: Balance, task: Tensor, mint: Tensor) -> tuple[Tensor, Tensor]:
    """How much a balance of losses multiplies the gradient of each, as two scalars."""
    losses = [loss.detach().requires_grad_() for loss in (task, mint)]
    with torch.enable_grad():
        a, b = torch.autograd.grad(balance.combine(*losses), losses)
    return a, b
