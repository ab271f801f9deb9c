"""The same architecture, knowing nothing: what an attack finds in it is not membership."""

from __future__ import annotations

import copy

import torch
from torch import nn

from amint.errors import UsageError

__all__ = ["untrained_twin"]


def untrained_twin(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with fresh weights and statistics, in the same mode and on the same device; the model stays as it is.

    Modules that can are initialised anew by their own ``reset_parameters``. Every other parameter (class tokens, layer
    scales, weights under a parametrization) keeps its numbers in random order: nobody knows how it was initialised, and
    in another place a number says nothing of what was learned. Buffers that no module resets are kept.

    Args:
        model: any module with initialised parameters.
        seed: of the fresh weights; the global generators are left alone.

    Raises:
        UsageError: a lazy module that has seen no data.
    """
    if any(nn.parameter.is_lazy(value) for value in [*model.parameters(), *model.buffers()]):
        raise UsageError("the model has lazy parameters, still without a shape; run one batch through it first")
    twin = copy.deepcopy(model)
    devices = {value.device for value in twin.parameters() if value.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(seed)
        for value in twin.parameters():
            order = torch.randperm(value.numel()).to(value.device)
            value.copy_(value.flatten()[order].reshape(value.shape))
        # After the shuffle, because a reset may leave some of a module's parameters untouched; parents after their
        # children, as in construction, because some of them initialise their children in their own way.
        for module in reversed(list(twin.modules())):
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    return twin
