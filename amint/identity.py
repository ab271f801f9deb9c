"""What a model and a batch are, as a hash: whatever changes what is computed should change it."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["model_digest", "tensor_digest"]

_MACHINERY = frozenset(vars(nn.Module()))
_LIBRARIES = ("torch.", "lightning.", "builtins", "abc", "typing")


def model_digest(model: nn.Module) -> str:
    """SHA-256 of a model: weights, buffers, plain attributes of every submodule, and the source of their classes.

    Neither the training mode nor hooks count. Code outside the classes, such as a function that they call, is not seen.
    """
    parts: list[str] = [torch.__version__]
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in _MACHINERY}
        parts += [name, type(module).__qualname__, _token(own)]
        parts += [_source(kind) for kind in type(module).__mro__ if not f"{kind.__module__}.".startswith(_LIBRARIES)]
    everything = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name, tensor in itertools.chain(*everything):
        parts += [name, tensor_digest(tensor)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def tensor_digest(*tensors: Tensor | None) -> str:
    """SHA-256 of the type, shape, place (CPU or GPU) and content of tensors; None is told apart from an empty one."""
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device.type};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _token(value: Any) -> str:
    """Plain values as they are, code by its source, all else by its type: an address in memory means nothing."""
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _token(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return repr([_token(item) for item in value])
    if isinstance(value, bool | int | float | complex | str | bytes | None | torch.dtype | torch.device):
        return repr(value)
    return _source(value) if inspect.isfunction(value) else type(value).__qualname__


@lru_cache(maxsize=1024)
def _source(code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return f"{code.__module__}.{code.__qualname__}"
