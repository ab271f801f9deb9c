"""How to build the audited model again, without running code out of a bundle."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from amint.errors import BundleError, UsageError

__all__ = ["Architecture", "describe", "differences"]

_LIBRARIES = ("timm", "torchvision", "import")

# With these the libraries would read files or the network; a description only says what the model looks like.
_LOADING = {
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "weights",
    "weights_backbone",
}


@dataclass(frozen=True)
class Architecture:
    """A model's constructor.

    Attributes:
        library: "timm", "torchvision", or "import" for the caller's own code.
        name: the model's name in that library, or an import path such as ``"mypackage.models:Net"``.
        arguments: keyword arguments, plain JSON values.
    """

    library: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.library not in _LIBRARIES:
            raise UsageError(f"library must be one of {', '.join(_LIBRARIES)}, got {self.library!r}")
        if self.library == "import" and self.name.count(":") != 1:
            raise UsageError(f'an import path looks like "mypackage.models:Net", got {self.name!r}')
        if self.library == "import" and self.name.startswith("__main__:"):
            raise UsageError(
                f"{self.name} can be imported by this script alone, and not by whoever verifies; move the class or "
                "function into a module, and name that"
            )
        loading = sorted(_LOADING & set(self.arguments))
        if self.library != "import" and loading:
            raise UsageError(f"an architecture says nothing about weights; leave out the arguments {loading}")
        try:
            json.dumps(dict(self.arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the arguments of an architecture are plain JSON values, got {self.arguments}") from error

    def __str__(self) -> str:
        return f"{self.library}/{self.name}" + (f" with {dict(self.arguments)}" if self.arguments else "")

    def build(self, allow_import: Collection[str] = ()) -> nn.Module:
        """Make the model, with random weights.

        Args:
            allow_import: import paths that may be imported and called; nothing else is.

        Raises:
            BundleError: unknown model, refused import path, or arguments the constructor does not take.
        """
        try:
            model = self._constructor(allow_import)(**self.arguments)
        except BundleError:
            raise
        except ModuleNotFoundError as error:
            raise BundleError(
                f"cannot build {self.library}/{self.name}: {error}. Install it, or name its folder in the "
                "environment variable PYTHONPATH (PYTHONPATH=. for the current one)"
            ) from error
        except Exception as error:
            raise BundleError(f"cannot build {self}: {error}") from error
        if not isinstance(model, nn.Module):
            raise BundleError(f"{self.name} gave {type(model).__name__}, not a torch.nn.Module")
        return model

    def _constructor(self, allow_import: Collection[str]) -> Any:
        if self.library == "timm":
            import timm

            # Other names would be looked up on a model hub or in a local folder.
            self._check_name(timm.list_models(), timm.is_model(self.name))
            return lambda **arguments: timm.create_model(self.name, pretrained=False, **arguments)
        if self.library == "torchvision":
            import torchvision

            # Models for other tasks download a pretrained trunk.
            names = torchvision.models.list_models(module=torchvision.models)
            self._check_name(names, self.name.lower() in names)
            return lambda **arguments: torchvision.models.get_model(self.name, weights=None, **arguments)
        if self.name not in ({allow_import} if isinstance(allow_import, str) else allow_import):
            raise BundleError(
                f"this bundle's model is code of its own, {self.name}. If you trust it, allow it by name: "
                f"allow_import=[{self.name!r}] or --allow-import {self.name}; or pass the model itself"
            )
        module, attribute = self.name.split(":")
        return getattr(importlib.import_module(module), attribute)

    def _check_name(self, names: list[str], known: bool) -> None:
        if not known:
            near = difflib.get_close_matches(self.name, names, 3, 0.3)
            raise BundleError(f"{self.library} has no classifier {self.name!r}; near names: {near or names[:5]}")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"library": self.library, "name": self.name, "arguments": dict(self.arguments)}

    @staticmethod
    def from_json(data: Any) -> Architecture:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: not such a description.
        """
        if not isinstance(data, dict) or set(data) != {"library", "name", "arguments"}:
            raise UsageError(f"not a description of an architecture: {data!r}")
        if not isinstance(data["name"], str) or not isinstance(data["arguments"], dict):
            raise UsageError(f"not a description of an architecture: {data!r}")
        return Architecture(data["library"], data["name"], data["arguments"])


def describe(model: nn.Module) -> Architecture | None:
    """The description of a timm model that gives the same weights by name and shape; None if there is none."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture") if isinstance(config, dict) else getattr(config, "architecture", None)
    if not isinstance(name, str):
        return None
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    arguments = {"num_classes": getattr(model, "num_classes", None)}
    arguments["in_chans"] = None if first is None else first.in_channels
    known = {key: value for key, value in arguments.items() if isinstance(value, int)}
    candidate = Architecture("timm", name, known)
    try:
        with torch.device("meta"):
            rebuilt = candidate.build()
    except BundleError:
        return None
    return None if differences(rebuilt, model) else candidate


def differences(rebuilt: nn.Module, model: nn.Module) -> list[str]:
    """Names of the weights in which two models differ, by name or shape."""
    own, other = model.state_dict(), rebuilt.state_dict()
    return sorted(k for k in {*own, *other} if k not in own or k not in other or own[k].shape != other[k].shape)
