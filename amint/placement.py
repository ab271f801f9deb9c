"""Where the MINT head lives while the audited model trains.

It is a submodule of the model, so that optimizers, devices and data parallelism find it, yet it stays out of the
model's state dict: checkpoints load into the plain model, and the plain model's checkpoints load here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from amint.errors import UsageError

__all__ = ["check_attachable", "place"]

HEAD_NAME = "mint_head"


def check_attachable(model: nn.Module) -> None:
    """Raise UsageError for a model that has a head already, is compiled, or is wrapped."""
    if any(HEAD_NAME in module._modules for module in model.modules()):
        raise UsageError("this model already has a MINT head; call audit.detach() before attaching again")
    if any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules()):
        raise UsageError("this model is compiled already and would run past the taps; attach first, then compile")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UsageError(f"attach to the model inside {type(model).__name__}, before it is wrapped: model.module")


def place(model: nn.Module, head: nn.Module) -> Callable[[], None]:
    """Make the head a submodule that no state dict shows.

    Returns:
        A function that takes it away again.
    """
    # A container would run the head as one of its layers.
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    host = next(module for module in model.modules() if not isinstance(module, containers))
    host.add_module(HEAD_NAME, head)
    hooks = [
        head.register_state_dict_post_hook(_leave_out),
        head.register_load_state_dict_post_hook(_not_missed),
    ]

    def remove() -> None:
        for hook in hooks:
            hook.remove()
        host._modules.pop(HEAD_NAME, None)

    return remove


def _leave_out(_head: nn.Module, state: Any, prefix: str, _metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]
    metadata = getattr(state, "_metadata", {})
    for key in [key for key in metadata if f"{key}.".startswith(prefix)]:
        del metadata[key]


def _not_missed(_head: nn.Module, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if f".{HEAD_NAME}." not in f".{key}"]
