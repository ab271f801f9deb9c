"""The only code that hooks forward passes: hooks are added, read and removed here.

A *tap* is a module whose output feeds the MINT head. During a training forward pass :class:`TrainingHooks`
appends further rows to the batch before the backbone runs, keeps the taps' maps of all rows for the head, and
lets only the members' rows go on behind the deepest tap. After training :func:`prefix` runs the backbone up
to the deepest tap and no further, :func:`tapped` to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from amint.errors import StepError, UsageError

__all__ = ["TrainingHooks", "evaluating", "observing", "observing_calls", "prefix", "tapped"]


class _Reached(BaseException):
    """Ends a forward pass at the deepest tap; no ``except Exception`` in a user's model may swallow it."""


def observing(
    modules: Mapping[str, nn.Module], seen: Callable[[str, nn.Module, Any], Any]
) -> AbstractContextManager[None]:
    """Call ``seen(name, module, output)`` after each pass of each module; what it returns replaces the output."""
    return observing_calls(modules, lambda name, module, _, output: seen(name, module, output))


@contextmanager
def observing_calls(
    modules: Mapping[str, nn.Module], seen: Callable[[str, nn.Module, tuple[Any, ...], Any], Any]
) -> Iterator[None]:
    """:func:`observing` with the arguments as well: ``seen(name, module, arguments, output)``."""
    handles = [module.register_forward_hook(partial(seen, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of every single module restored outside."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _eagerly() -> AbstractContextManager[Any]:
    """Hooks that come and go are invisible to a graph compiled before, so early exit runs without it."""
    if torch.compiler.is_compiling():
        raise UsageError("score() was called inside a compiled function; call it outside torch.compile")
    return cast(AbstractContextManager[Any], torch.compiler.set_stance("force_eager"))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def prefix(backbone: nn.Module, taps: Mapping[str, nn.Module], x: Tensor) -> list[Tensor]:
    """Run the backbone in evaluation mode, without gradients, up to its deepest tap.

    Args:
        backbone: the audited model.
        taps: name -> module, shallow to deep.
        x: input batch ``[n, ...]``.

    Returns:
        The taps' outputs, shallow to deep, each ``[n, ...]``.

    Raises:
        StepError: a tap did not run.
    """
    return _run(backbone, taps, x, to_the_end=False)[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def tapped(backbone: nn.Module, taps: Mapping[str, nn.Module], x: Tensor) -> tuple[list[Tensor], Any]:
    """What :func:`prefix` gives, to the bit, and the backbone's output, in one run of the whole backbone."""
    return _run(backbone, taps, x, to_the_end=True)


def _run(
    backbone: nn.Module, taps: Mapping[str, nn.Module], x: Tensor, *, to_the_end: bool
) -> tuple[list[Tensor], Any]:
    maps: dict[str, Tensor] = {}
    deepest = list(taps)[-1]
    result: Any = None

    def keep(name: str, _: nn.Module, output: Any) -> Any:
        # Where the prefix ends nothing is kept any more.
        if deepest in maps:
            return None
        maps[name] = output
        if name == deepest and not to_the_end:
            raise _Reached
        # An in-place layer behind the tap would overwrite the map.
        return output.clone()

    with evaluating(backbone), torch.no_grad(), _eagerly(), observing(taps, keep), suppress(_Reached):
        result = backbone(x)
    missing = [name for name in taps if name not in maps]
    if missing:
        raise StepError(f"the taps {missing} did not run in the model's forward pass; resolve the split again")
    return [maps[name] for name in taps], result


class TrainingHooks:
    """Permanent hooks of an audited model: dormant in evaluation mode, cutting in training mode.

    Args:
        backbone: the audited model.
        taps: name -> module, shallow to deep.
        more_rows: member input ``[n, ...]`` -> rows ``[k, ...]`` to send along up to the deepest tap, or None
            to leave the forward pass as it is.
        reached: called at the deepest tap with the maps of all ``n + k`` rows and ``n``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        taps: Mapping[str, nn.Module],
        more_rows: Callable[[Tensor], Tensor | None],
        reached: Callable[[Sequence[Tensor], int], None],
    ) -> None:
        self._more_rows = more_rows
        self._reached = reached
        self._names = list(taps)
        self._members: int | None = None
        self._maps: dict[str, Tensor] = {}
        self._paused = 0
        self._handles = [
            backbone.register_forward_pre_hook(_Dormant(self._before), with_kwargs=True),
            *(
                module.register_forward_hook(_Dormant(self._tap_hook(name)), prepend=False)
                for name, module in taps.items()
            ),
            backbone.register_forward_hook(_Dormant(self._after), prepend=True),
        ]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, training-mode forward passes are plain ones."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def remove(self) -> None:
        """Take every hook off again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(
        self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._members = None
        self._maps = {}
        if not backbone.training or self._paused:
            return None
        in_args = bool(args) and isinstance(args[0], Tensor)
        key = None if in_args else next((k for k, v in kwargs.items() if isinstance(v, Tensor)), None)
        if not in_args and key is None:
            raise StepError("the audited model was called without an input tensor as its first argument")
        x = args[0] if in_args else kwargs[cast(str, key)]
        rows = self._more_rows(x)
        if rows is None:
            return None
        self._members = len(x)
        joined = torch.cat([x, rows])
        return ((joined, *args[1:]), kwargs) if in_args else (args, {**kwargs, cast(str, key): joined})

    def _tap_hook(self, name: str) -> Callable[..., Any]:
        def tap(_module: nn.Module, _args: Any, output: Any) -> Any:
            if self._members is None:
                return None
            if name in self._maps:
                raise StepError(
                    f"the tap {name!r} ran twice in one forward pass; choose a module that runs once a pass"
                )
            self._maps[name] = output
            if name != self._names[-1]:
                # An in-place layer behind the tap would overwrite the map that the head still needs.
                return output.clone()
            members, missing = self._members, [n for n in self._names if n not in self._maps]
            if missing:
                raise StepError(f"the taps {missing} did not run before {name!r}; resolve the split again")
            self._reached([self._maps[n] for n in self._names], members)
            return output[:members].clone()

        return tap

    def _after(self, *_: Any) -> None:
        if self._members is not None and len(self._maps) < len(self._names):
            missing = [name for name in self._names if name not in self._maps]
            raise StepError(
                f"the taps {missing} were not seen in this forward pass. Attach amint before torch.compile, "
                "and do not replace modules after attaching"
            )
        self._members = None
        self._maps = {}


class _Dormant:
    """A hook that does nothing in a copied or unpickled model: the copy is a plain model, nobody's audit."""

    def __init__(self, hook: Callable[..., Any] | None = None) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> Any:
        return None if self._hook is None else self._hook(*args)

    def __reduce__(self) -> tuple[type[_Dormant], tuple[()]]:
        return (_Dormant, ())
