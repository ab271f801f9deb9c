"""What a model and a batch are, as a hash: whatever changes what is computed should change it.

Values count by their content, objects by what they hold, code by what it compiles to. An address in memory means
nothing. Where content cannot be told, as of an object that C code keeps to itself, the hash comes out another each
time: nothing that was computed before can then pass for what would be computed now.
"""

from __future__ import annotations

import copyreg
import hashlib
import operator
import platform
import secrets
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial, singledispatch
from types import CodeType, EllipsisType, FunctionType, MappingProxyType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["content_digest", "model_digest", "tensor_digest"]

_PLAIN = frozenset(
    {bool, int, float, complex, str, bytes, NoneType, EllipsisType, type(NotImplemented), torch.dtype, torch.device}
)
# Their versions, or those of what they stand on, pin their code.
_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy", "lightning", "lightning_fabric", "pytorch_lightning"}
_VERSIONS = (torch.__version__, np.__version__, platform.python_version())
# These compute what the module in them computes, and keep process groups and compiled code.
_WRAPPERS = ("torch._dynamo.", "torch.nn.parallel.")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_HOW_HOOKED = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
# Python's stack holds 1000 calls by default.
_DEEPEST = 100


def model_digest(model: nn.Module, *, lenient: bool = False) -> str:
    """SHA-256 of a model: weights, buffers, attributes and hooks of every submodule, and the code of their classes.

    Neither the training mode, nor amint's own hooks, nor what PyTorch and Lightning note on a module for themselves
    count. Global variables and functions that the code calls by name are not seen.

    Args:
        lenient: what cannot be told counts by its type. Without it such a model has another hash each time.
    """
    everywhere = [list(getattr(nn.modules.module, f"_global{name}", {}).values()) for name in _HOOKS]
    return content_digest([_VERSIONS, model, *everywhere], lenient=lenient)


def content_digest(value: Any, *, lenient: bool = False) -> str:
    """SHA-256 of any value by its content; see :func:`model_digest`. Versions of libraries do not count."""
    walk = _Walk(lambda found: f"some {_name(type(found))}" if lenient else secrets.token_hex(16))
    return _hashed([_token(value, walk)])


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


@dataclass(frozen=True)
class _Walk:
    """A way through an object.

    Attributes:
        unknown: the token of what cannot be told.
        done: id -> token and the object, which keeps its id while it is kept alive.
        path: ids of the objects that are being read, the outermost first.
    """

    unknown: Callable[[Any], str]
    done: dict[int, tuple[str, Any]] = field(default_factory=dict)
    path: list[int] = field(default_factory=list)


def _token(value: Any, walk: _Walk) -> str:
    """Plain values as they are, all else as a hash of its parts."""
    if type(value) in _PLAIN:
        return repr(value)
    key = id(value)
    if key in walk.done:
        return walk.done[key][0]
    if key in walk.path:
        return f"{len(walk.path) - walk.path.index(key)} levels up"
    if len(walk.path) >= _DEEPEST:
        return walk.unknown(value)
    walk.path.append(key)
    try:
        token = _hashed(_parts(value, walk))
    # Reading an object calls its code and that of libraries, which may raise anything.
    except Exception:
        token = walk.unknown(value)
    finally:
        walk.path.pop()
    walk.done[key] = token, value
    return token


def _tokens(values: Iterable[Any], walk: _Walk) -> list[str]:
    return [_token(value, walk) for value in values]


def _hashed(parts: Iterable[str]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()


@singledispatch
def _parts(value: Any, walk: _Walk) -> list[str]:
    """What an object holds: its attributes, and what pickle would need to make it again.

    Raises whatever pickle would; TypeError for an object that has content which Python does not see.
    """
    kind = type(value)
    if kind in (list, tuple):
        return [kind.__name__, *_tokens(value, walk)]
    if kind is dict:
        return ["dict", *_tokens([item for pair in value.items() for item in pair], walk)]
    # Classes of one's own may leave out of a pickle what they compute with; a library's attributes may be a cache.
    attributes = [] if _of_library(kind) else [object.__getstate__(value)]
    reducer = copyreg.dispatch_table.get(kind)
    reduced = reducer(value) if reducer else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        if operator.attrgetter(reduced)(sys.modules[value.__module__]) is not value:
            raise TypeError(f"{value.__module__}.{reduced} is something else")
        return [value.__module__, reduced]
    called, arguments, state, *items = (*reduced, None, None, None)[:5]
    drawn = [None if part is None else list(part) for part in items]
    return _tokens([kind, *attributes, called, arguments, state, *drawn], walk)


@_parts.register(nn.Module)
def _of_module(module: nn.Module, walk: _Walk) -> list[str]:
    kind = type(module)
    own = {} if _name(kind).startswith(_WRAPPERS) else vars(module)
    skipped = _machinery(next(base for base in kind.__mro__ if base is nn.Module or _is_lightning(base)))
    parts = _tokens([kind, {name: own[name] for name in sorted(own) if name not in skipped}], walk)
    for name in _HOOKS:
        for key, hook in vars(module).get(name, {}).items():
            if not _is_ours(hook):
                how = repr([key in vars(module).get(kinds, ()) for kinds in _HOW_HOOKED])
                parts += [name, _token(hook, walk), how]
    for members in (module._parameters, module._buffers, module._modules):
        parts += ["members", *_tokens([item for pair in members.items() for item in pair], walk)]
    return parts


@_parts.register(Tensor)
def _of_tensor(value: Tensor, _: _Walk) -> list[str]:
    return [_name(type(value)), tensor_digest(value)]


@_parts.register(np.ndarray)
@_parts.register(np.generic)
def _of_array(value: Any, walk: _Walk) -> list[str]:
    array = np.asarray(value)
    if array.dtype.hasobject or (isinstance(value, np.ndarray) and type(value) not in (np.ndarray, np.memmap)):
        return _object(value, walk)
    content = hashlib.sha256(array.tobytes()).hexdigest()
    return [_name(type(value)), repr(array.dtype), repr(array.shape), content]


@_parts.register(set)
@_parts.register(frozenset)
def _of_set(value: Any, walk: _Walk) -> list[str]:
    """In the order of the tokens; each is read apart, as the order in which a set comes must not matter."""
    found = sorted(_token(item, replace(walk, done=walk.done.copy())) for item in value)
    return [*_tokens([type(value), object.__getstate__(value)], walk), *found]


@_parts.register
def _of_view(value: MappingProxyType, walk: _Walk) -> list[str]:  # type: ignore[type-arg]
    return ["view", _token(dict(value), walk)]


@_parts.register
def _of_reference(value: weakref.ref, walk: _Walk) -> list[str]:  # type: ignore[type-arg]
    return ["reference", _token(value(), walk)]


@_parts.register
def _of_namespace(value: ModuleType, _: _Walk) -> list[str]:
    return ["module", value.__name__]


@_parts.register
def _of_handle(_value: RemovableHandle, _: _Walk) -> list[str]:
    """It computes nothing, and is numbered in the order in which a process made its hooks."""
    return ["handle"]


@_parts.register
def _of_method(value: MethodType, walk: _Walk) -> list[str]:
    return ["method", *_tokens([value.__func__, value.__self__], walk)]


@_parts.register
def _of_function(value: FunctionType, walk: _Walk) -> list[str]:
    if _of_library(value) and _is_importable(value):
        return [_name(value)]
    cells = [_cell(cell, walk) for cell in value.__closure__ or ()]
    settings = (value.__code__, value.__defaults__, value.__kwdefaults__, vars(value))
    return [_name(value), *_tokens(settings, walk), *cells]


@_parts.register
def _of_code(value: CodeType, walk: _Walk) -> list[str]:
    arguments = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)
    names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
    return _tokens([value.co_code, value.co_exceptiontable, arguments, *names, value.co_consts], walk)


@_parts.register
def _of_property(value: property, walk: _Walk) -> list[str]:
    return ["property", *_tokens([value.fget, value.fset, value.fdel], walk)]


@_parts.register(staticmethod)
@_parts.register(classmethod)
@_parts.register(type(lru_cache(len)))
def _of_wrapped(value: Any, walk: _Walk) -> list[str]:
    return [type(value).__name__, _token(value.__wrapped__, walk)]


@_parts.register
def _of_cached(value: cached_property, walk: _Walk) -> list[str]:  # type: ignore[type-arg]
    return ["cached_property", _token(value.func, walk)]


@_parts.register
def _of_class(kind: type, walk: _Walk) -> list[str]:
    """A library's class by its name, any other by what it and its bases define."""
    if _of_library(kind):
        return [_name(kind)]
    parts = [_name(kind), *_tokens(kind.__bases__, walk)]
    for name, value in sorted(vars(kind).items()):
        # What Python itself keeps on a class: documentation, annotations, lines in a file, registers of subclasses.
        if name != "_abc_impl" and (not name.startswith("__") or isinstance(value, FunctionType | staticmethod)):
            parts += [name, _token(value, walk)]
    return parts


_object = _parts.dispatch(object)


def _cell(cell: Any, walk: _Walk) -> str:
    try:
        content = cell.cell_contents
    except ValueError:
        return "empty"
    return _token(content, walk)


def _name(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def _of_library(named: Any) -> bool:
    return str(named.__module__).partition(".")[0] in _LIBRARIES


def _is_importable(function: FunctionType) -> bool:
    try:
        return operator.attrgetter(function.__qualname__)(sys.modules[function.__module__]) is function
    except (AttributeError, KeyError):
        return False


def _is_ours(hook: Any) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None)).startswith("amint.")


def _is_lightning(kind: type) -> bool:
    return kind.__name__ == "LightningModule" and _of_library(kind)


@lru_cache(maxsize=8)
def _machinery(base: type[nn.Module]) -> frozenset[str]:
    """Names of what a base class keeps on a module for itself."""
    return frozenset(vars(base())) | {"_compiled_call_impl"}
