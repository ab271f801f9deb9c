"""One reference model on disk: its weights, and what tells whose they are and what they compute."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from amint.bundle import probe_input
from amint.errors import UsageError
from amint.rebuilding import alike, first_outputs
from amint.signal_cache import whole_file

__all__ = ["Tag", "probe_of", "read_model", "unusable", "write_model"]

# One entry: the order of several would differ from file to file.
_ENTRY = "amint"


@dataclass(frozen=True)
class Tag:
    """Whose weights a file holds.

    Attributes:
        number: of the model in its fleet.
        fleet: a hash of what the fleet was asked for.
    """

    number: int
    fleet: str


def probe_of(shape: list[int], dtype: str) -> Tensor:
    """Two fixed inputs of this shape: pseudo-random floating-point numbers, or zeros of any other type."""
    kind = getattr(torch, dtype)
    return probe_input(shape).to(kind) if kind.is_floating_point else torch.zeros(2, *shape, dtype=kind)


def write_model(path: Path, network: nn.Module, tag: Tag, probe: Tensor) -> None:
    """Write weights, tag and first outputs on the probe; a network that cannot take the probe has none of these."""
    try:
        outputs = first_outputs(network, probe)
    # A user's model may raise anything, and must not be lost for it after hours of training.
    except Exception:
        outputs = []
    known = json.dumps({**asdict(tag), "outputs": outputs if np.isfinite(outputs).all() else []})
    # Tied weights share memory, which the format does not allow.
    weights = {name: weight.detach().cpu().clone().contiguous() for name, weight in network.state_dict().items()}
    with whole_file(path) as file:
        file.write(safetensors.torch.save(weights, {_ENTRY: known}))


def unusable(path: Path, tag: Tag) -> str:
    """Why a file does not hold the weights of this tag, or an empty text; weights are not read."""
    if not path.is_file():
        return "it is not there"
    try:
        known = _known(path)
        found = Tag(known["number"], known["fleet"]) if known else None
    except Exception as error:
        return f"it is damaged: {error}"
    if not found:
        return "it does not say which model it holds, so that an older version of amint wrote it"
    if found.fleet != tag.fleet:
        return "it belongs to another fleet"
    return "" if found.number == tag.number else f"it holds model {found.number}, not model {tag.number}"


def read_model(path: Path, network: nn.Module, tag: Tag, probe: Tensor) -> None:
    """Fill a network with the weights of this tag.

    Raises:
        UsageError: the file holds other weights or is damaged, or the network is not the one that was trained.
    """
    reason = unusable(path, tag)
    if reason:
        raise UsageError(
            f"the weights in {path} cannot be used: {reason}; call train_references again with the same arguments, it "
            "trains such models anew"
        )
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
        expected = _known(path)["outputs"]
        found = first_outputs(network, probe) if expected else []
    except Exception as error:
        raise UsageError(
            f"the weights in {path} do not fit the network that make_module() makes, or are damaged: {error}"
        ) from error
    if expected and not alike(expected, found, network):
        raise UsageError(
            f"the network that make_module() makes does not compute what the trained one in {path} did ({found[:2]} "
            f"instead of {expected[:2]}), though the weights fit; pass the make_module that trained the references"
        )


def _known(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    # Opening compares the sizes in the header with that of the file.
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_ENTRY)
    return dict(json.loads(text or "{}"))
