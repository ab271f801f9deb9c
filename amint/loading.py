"""An audit bundle back into an audit: the model with its weights, the head, the calibration."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from amint import bundle
from amint.audit import Audit
from amint.errors import BundleError, UsageError
from amint.heads import MintHead
from amint.rebuilding import alike, fill

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    allow_import: Collection[str] = (),
    public_key: str | None = None,
) -> Audit:
    """Read an audit bundle back: the model with its weights, the head, the calibration.

    Args:
        path: a bundle's folder or .zip.
        model: the model to fill with the bundle's weights, for architectures that the bundle does not describe. It
            takes their precision and stays on its device.
        allow_import: import paths of model code that may be run.
        public_key: 64 hexadecimal digits: refuse a bundle that is not signed with this key.

    Raises:
        BundleError: damaged or edited, no way to build the model, or the rebuilt model does not score as the saved one.
        UsageError: not a path, or ``model`` is no module.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"expected the path of an audit bundle, or an audit, found {_called(path)}")
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(f"model= is the model to fill with the bundle's weights, as MyModel(); found {_called(model)}")
    contents = bundle.read(path, public_key=public_key)
    if model is None:
        if contents.architecture is None:
            raise BundleError(
                f"{path} does not say how to build its model; pass one: amint.load(path, model=MyModel()), or save it "
                'with architecture=amint.Architecture("import", "my_package.models:MyModel") and allow that import: '
                "--allow-import my_package.models:MyModel"
            )
        # Building draws random numbers, and loading must not change what the caller draws next.
        with torch.random.fork_rng(devices=[]):
            model = contents.architecture.build(allow_import)
    # A model that does not fit may raise anything in its forward pass.
    try:
        fill(model, contents.model_weights)
        audit = Audit(model, contents.points, _head(contents), contents.input_shape, contents.manifest["facts"])
        found = audit.measure(bundle.probe_input(contents.input_shape))
    except Exception as error:
        raise BundleError(f"the weights in {path} do not fit this model: {str(error)[:500]}") from error
    for name, expected in contents.manifest["probe"].items():
        if not alike(expected, found[name], model):
            raise BundleError(
                f"the model rebuilt from {path} does not compute what the saved one did ({name} {found[name][:2]} "
                f"instead of {expected[:2]}); its architecture differs though its weights fit"
            )
    audit.restore(contents)
    model.eval()
    return audit


def _called(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"


def _head(contents: bundle.Bundle) -> MintHead:
    # Without memory of its own until it takes the stored weights: nothing is drawn, rounded or allocated twice.
    with torch.device("meta"):
        head = MintHead(contents.head)
    head.load_state_dict(dict(contents.head_weights), assign=True)
    return head.eval()
