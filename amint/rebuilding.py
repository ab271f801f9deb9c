"""Models made again from a description and stored weights, and the check that they compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amint.architecture import Architecture, describe, differences
from amint.bundle import probe_input
from amint.errors import UsageError
from amint.preprocessing import Preprocessing
from amint.taps import evaluating

__all__ = ["alike", "built_like", "described", "fill", "first_outputs", "lacking", "like_weights", "shown_weight"]


def described(model: nn.Module, given: Architecture | None, input_shape: Sequence[int]) -> Architecture | None:
    """The architecture if it gives this very model again: a bundle must not turn out unusable years later.

    Args:
        model: the model to be described.
        given: what the user says it is, or None to ask the model.
        input_shape: one input without the batch dimension.

    Raises:
        BundleError: there is no such architecture, or it does not take these arguments.
        UsageError: the architecture given is not this model's.
    """
    with torch.random.fork_rng(devices=[]):
        architecture = given or describe(model)
    if architecture is None:
        return None
    again = built_like(model, architecture)
    fill(again, model.state_dict())
    x = probe_input(input_shape)
    if alike(first_outputs(model, x), first_outputs(again, x), again):
        return architecture
    if given is None:
        return None
    raise UsageError(
        f"{architecture} has this model's weights but does not compute what it does: an activation or a pooling may "
        "differ. Name the arguments it was made with"
    )


def built_like(model: nn.Module, architecture: Architecture) -> nn.Module:
    """The architecture's model, with random weights of the names and shapes that this model's have.

    Raises:
        BundleError: there is no such architecture, or it does not take these arguments.
        UsageError: its weights differ from the model's by name or shape.
    """
    with torch.random.fork_rng(devices=[]):
        # Code that whoever saves names himself is his own.
        again = architecture.build([architecture.name])
    if differing := differences(again, model):
        raise UsageError(
            f"{architecture} is not this model: {len(differing)} weights differ, first {differing[0]!r}. Name "
            "the arguments it was made with"
        )
    return again


def lacking(how: Architecture | None, preprocessing: Preprocessing | None) -> str:
    """What somebody who has files and a bundle would miss, in words; "" if nothing."""
    needed = {
        "how to build the model (architecture=)": how,
        "how files become inputs (preprocessing=)": preprocessing,
    }
    return " nor ".join(what for what, said in needed.items() if said is None)


def first_outputs(model: nn.Module, x: Tensor) -> list[float]:
    """The first 16 numbers that a model gives, in evaluation mode."""
    with evaluating(model), torch.no_grad():
        leaves = tree_leaves(model(like_weights(model, x)))
    values: list[float] = next(leaf for leaf in leaves if isinstance(leaf, Tensor)).flatten()[:16].tolist()
    return values


def like_weights(model: nn.Module, x: Tensor) -> Tensor:
    """``x`` on the model's device; floating-point inputs in its precision too."""
    weight = shown_weight(model)
    return x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)


def shown_weight(model: nn.Module) -> Tensor:
    """A weight that shows the model's device and precision."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights in the precision they were saved in, which is not always the one the model was built in."""
    floating = [weight.dtype for weight in weights.values() if weight.is_floating_point()]
    if floating:
        model.to(floating[0])
    for name, own in model.state_dict(keep_vars=True).items():
        if name in weights:
            own.data = own.data.to(weights[name].dtype)
    model.load_state_dict(dict(weights))


def alike(expected: Sequence[float], found: Sequence[float], model: nn.Module) -> bool:
    """Whether two outputs of a model agree up to rounding, which depends on devices and library versions."""
    rounding = torch.finfo(shown_weight(model).dtype).eps
    tolerance = max(0.01, 8 * rounding) * max(map(abs, expected)) + 1e-5
    return len(expected) == len(found) and np.allclose(expected, found, rtol=0, atol=tolerance)
