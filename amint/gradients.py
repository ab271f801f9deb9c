"""The gradient that each sample by itself would give the model, in evaluation mode.

Source: gMINT (in our reading, as no code was released): "weight modifiers" are per-sample gradients of the task loss
with the true label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from amint.errors import UsageError
from amint.probes import as_half

__all__ = ["sample_gradients"]

# Gradients held at once, as numbers: half a gigabyte of float32 at most, unless the model itself is larger.
_MOST_NUMBERS = 2**27
_MOST_SAMPLES = 64


def sample_gradients(
    model: nn.Module, x: Tensor, labels: Tensor, *, layer: str | None = None, norms: bool = True
) -> dict[str, Tensor]:
    """Per-sample gradients of the cross-entropy in nats; the caller sees to evaluation mode.

    Args:
        x, labels: inputs ``[n, ...]`` and classes ``[n]``, on the model's device.
        layer: the name of a layer whose gradient is wanted itself.
        norms: whether norms over all parameters, frozen ones too, are wanted.

    Returns:
        ``gradient`` float16 ``[n, d]``, the layer's parameters flattened one after the other in the order of
        ``named_parameters`` (for a linear layer the weight ``[c, f]`` row by row, then the bias);
        ``gradient_norm`` float64 ``[n]``, Euclidean; ``gradient_norms`` float64 ``[n, l]``, one a parameter tensor, in
        the order of ``named_parameters``.

    Raises:
        UsageError: the model cannot be vectorised, or has no parameters in this layer.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.is_floating_point()}
    of_layer = [] if layer is None else [name for name in parameters if name.startswith(f"{layer}." if layer else "")]
    if layer is not None and not of_layer:
        raise UsageError(f"the layer {layer!r} has no parameters of its own; leave out attacks that need 'gradient'")
    wanted = {name: p for name, p in parameters.items() if norms or name in of_layer}
    fixed = {name: p for name, p in parameters.items() if name not in wanted}
    fixed |= {name: b.detach() for name, b in model.named_buffers()}

    def loss(weights: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**weights, **fixed}, (row.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    def one(row: Tensor, label: Tensor) -> dict[str, Tensor]:
        gradients = grad(loss)(wanted, row, label)
        columns = {}
        if of_layer:
            columns["gradient"] = as_half(torch.cat([gradients[name].flatten() for name in of_layer]))
        if norms:
            # Squares of float32 gradients of very sure models underflow.
            squares = torch.stack([gradients[name].double().square().sum() for name in wanted])
            columns |= {"gradient_norm": squares.sum() ** 0.5, "gradient_norms": squares**0.5}
        return columns

    size = sum(p.numel() for p in wanted.values())
    chunk = max(1, min(_MOST_SAMPLES, _MOST_NUMBERS // max(size, 1)))
    try:
        # The fused kernels of attention cannot be vectorised.
        with sdpa_kernel(SDPBackend.MATH):
            found: dict[str, Tensor] = vmap(one, chunk_size=chunk)(x, labels)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise UsageError(
            "per-sample gradients need a model that torch.func.vmap can vectorise; leave out attacks that need "
            f"'gradient' or 'gradient_norm', or rewrite this: {error}"
        ) from error
    return found
