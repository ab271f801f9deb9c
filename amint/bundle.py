"""The audit bundle on disk: safetensors weights and JSON, nothing that runs code when it is loaded.

A bundle is a folder (or a .zip of it)::

    manifest.json             what it is, how to build the model, taps, head, preprocessing, facts, hashes
    model.safetensors         the audited model's weights, state-dict keys as without amint
    head.safetensors          the MINT head's weights
    calibration.safetensors   the calibration non-members' scores, float64

The manifest holds the SHA-256 of every other file and of its own content, so damage is noticed. It is no signature:
whoever may write the bundle can make another one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from amint import signing
from amint.architecture import Architecture
from amint.branches import fits
from amint.bundle_files import MANIFEST, SIGNATURE, WEIGHTS, check_replaceable, read_files, write_files
from amint.bundle_manifest import VERSION, parse_manifest, sealed
from amint.calibration import Calibration
from amint.errors import AmintError, BundleError, UsageError
from amint.facts import check_facts
from amint.heads import HeadConfig, MintHead, head_weights
from amint.preprocessing import Preprocessing
from amint.records import CalibrationRecords, TrainingRecords, without_copies
from amint.split import TapPoint
from amint.versions import versions

__all__ = ["Bundle", "add_signature", "digests", "probe_input", "read", "save"]

# A bundle that anyone may edit must not be able to ask for any amount of memory.
_MOST_INPUT = 2**26


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds, read and checked, the model not yet built.

    Attributes:
        path: where it was read from.
        sha256: of the manifest, which pins every other file: the bundle's identity.
        manifest: the manifest as plain values.
        architecture: how to build the model, or None.
        points: the taps.
        head: the head's configuration.
        preprocessing: how image files become inputs, or None.
        model_weights, head_weights: tensors by name.
        calibration: the calibration scores.
        records: what else is known of the calibration samples, row by row.
        training: what is kept of training, for the controls.
        input_shape: one input without the batch dimension.
        signature: whose it is, as far as it can be told.
    """

    path: Path
    sha256: str
    manifest: Mapping[str, Any]
    architecture: Architecture | None
    points: tuple[TapPoint, ...]
    head: HeadConfig
    preprocessing: Preprocessing | None
    model_weights: Mapping[str, Tensor]
    head_weights: Mapping[str, Tensor]
    calibration: Calibration
    records: CalibrationRecords
    training: TrainingRecords
    input_shape: tuple[int, ...]
    signature: signing.SignatureStatus


def probe_input(shape: Sequence[int]) -> Tensor:
    """Two fixed pseudo-random inputs ``[2, *shape]``, on which a rebuilt model must score as the saved one did."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def digests(backbone: nn.Module, head: MintHead) -> dict[str, str]:
    """SHA-256 of the two weight files that a bundle of these would hold."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in _weight_files(backbone, head).items()}


def save(
    path: str | Path,
    *,
    backbone: nn.Module,
    head: MintHead,
    points: Sequence[TapPoint],
    records: CalibrationRecords,
    training: TrainingRecords,
    input_shape: Sequence[int],
    facts: Mapping[str, Any],
    preprocessing: Preprocessing | None,
    architecture: Architecture | None,
    measure: Callable[[Tensor], Mapping[str, Sequence[float]]],
) -> Path:
    """Write a bundle; see :meth:`amint.audit.Audit.save`.

    Raises:
        UsageError: the preprocessing does not make the model's inputs, or something else than a bundle is in the way.
    """
    target = Path(path)
    check_replaceable(target)
    check_preprocessing(preprocessing, input_shape)
    files = _weight_files(backbone, head)
    files["calibration.safetensors"] = _packed(records.to_tensors())
    files["training.safetensors"] = _packed(training.to_tensors())
    manifest: dict[str, Any] = {
        "format": "amint-bundle",
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "libraries": versions("torch", "torchvision", "timm"),
        "architecture": None if architecture is None else architecture.to_json(),
        "input_shape": list(input_shape),
        "split": [asdict(point) for point in points],
        "head": head.config.to_json(),
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "facts": dict(facts),
        "probe": {name: list(values) for name, values in measure(probe_input(input_shape)).items()},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    write_files(target, {MANIFEST: sealed(manifest), **files})
    return target


def read(path: str | Path, *, public_key: str | None = None) -> Bundle:
    """Read and check a bundle.

    Args:
        path: a bundle's folder or .zip.
        public_key: 64 hexadecimal digits: refuse a bundle that is not signed with this key.

    Raises:
        BundleError: it is not there, truncated, edited, of another version, not a bundle, or not signed as it should.
    """
    source = Path(path)
    files = read_files(source)
    manifest = parse_manifest(source, files[MANIFEST])
    for name in WEIGHTS:
        if manifest["files"].get(name) != hashlib.sha256(files[name]).hexdigest():
            raise BundleError(f"{name} in {source} is damaged or was exchanged: its SHA-256 is not the manifest's")
    signature = _signature(source, files, public_key)
    try:
        tensors = {name: safetensors.torch.load(files[name]) for name in WEIGHTS}
        architecture = manifest["architecture"]
        preprocessing = manifest["preprocessing"]
        records = without_copies(CalibrationRecords.from_tensors(tensors["calibration.safetensors"]))
        bundle = Bundle(
            path=source,
            sha256=hashlib.sha256(files[MANIFEST]).hexdigest(),
            manifest=manifest,
            architecture=None if architecture is None else Architecture.from_json(architecture),
            points=tuple(_point(data) for data in manifest["split"]),
            head=HeadConfig.from_json(manifest["head"]),
            preprocessing=None if preprocessing is None else Preprocessing.from_json(preprocessing),
            model_weights=tensors["model.safetensors"],
            head_weights=tensors["head.safetensors"],
            calibration=records.calibration,
            records=records,
            training=TrainingRecords.from_tensors(tensors["training.safetensors"]),
            input_shape=tuple(manifest["input_shape"]),
            signature=signature,
        )
        _check_values(bundle)
    except AmintError as error:
        raise BundleError(f"{source} is not a usable audit bundle: {error}") from error
    # An edited manifest can hold any value in any place, and so raise nearly anything.
    except Exception as error:
        raise BundleError(f"{source} is not a usable audit bundle: {error!r}") from error
    return bundle


def add_signature(path: str | Path, private_key: str | Path) -> str:
    """Sign a bundle in place, replacing a signature it has.

    Args:
        path: a bundle's folder or .zip.
        private_key: a file from :func:`amint.signing.new_key`.

    Returns:
        The public key, 64 hexadecimal digits.

    Raises:
        BundleError: not a sound bundle.
        InputError: not a private key.
        UsageError: the package ``cryptography`` is missing.
    """
    source = Path(path)
    files = {name: content for name, content in read_files(source).items() if name != SIGNATURE}
    parse_manifest(source, files[MANIFEST])
    key = signing.read_private_key(private_key)
    write_files(source, files | {SIGNATURE: json.dumps(signing.sign(files[MANIFEST], key), indent=1).encode()})
    return signing.public_key(key)


def _signature(source: Path, files: Mapping[str, bytes], public_key: str | None) -> signing.SignatureStatus:
    try:
        held = json.loads(files[SIGNATURE]) if SIGNATURE in files else None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the signature of {source} is not JSON; the bundle is damaged") from error
    if held is not None and not isinstance(held, dict):
        raise BundleError(f"the signature of {source} is not one; the bundle is damaged")
    return signing.check(files[MANIFEST], held, public_key)


def _point(data: Mapping[str, Any]) -> TapPoint:
    return TapPoint(str(data["name"]), tuple(data["shape"]), data["layout"], float(data["cost"]), tuple(data["setups"]))


def _check_values(bundle: Bundle) -> None:
    manifest, shape = bundle.manifest, bundle.input_shape
    if not all(type(side) is int and side > 0 for side in shape) or math.prod(shape) > _MOST_INPUT:
        raise UsageError(f"the shape of an input is {list(shape)}")
    taps, points = bundle.head.taps, bundle.points
    if len(taps) != len(points) or not all(map(fits, taps, points)):
        raise UsageError("its MINT head does not read what its taps give")
    check_preprocessing(bundle.preprocessing, shape)
    facts, libraries = manifest["facts"], manifest["libraries"]
    if not isinstance(facts, dict) or not isinstance(libraries, dict):
        raise UsageError("its facts or libraries are not named values")
    if not all(isinstance(text, str) for text in (manifest["created"], *libraries.values())):
        raise UsageError("the time it was made at, or the version of a library, is not a text")
    check_facts(facts)
    if facts.get("by_class") and bundle.records.classes is None:
        raise UsageError("the fact 'by_class' asks for classes, which its calibration records lack")
    if set(manifest["probe"]) != {"scores", "outputs"}:
        raise UsageError(f"its probe holds {sorted(manifest['probe'])} instead of scores and outputs")
    for name, values in manifest["probe"].items():
        if not values or not all(type(value) is float for value in values):
            raise UsageError(f"the {name} of its probe are not numbers")


def check_preprocessing(preprocessing: Preprocessing | None, shape: Sequence[int]) -> None:
    """Raise UsageError if a preprocessing does not make inputs of this shape, without the batch dimension."""
    if preprocessing is None:
        return
    channels, size = preprocessing.channels, preprocessing.size
    if len(shape) != 3 or channels != shape[0] or size not in (None, tuple(shape[1:])):
        made = f"{channels} x any size" if size is None else " x ".join(map(str, (channels, *size)))
        raise UsageError(
            f"the preprocessing makes inputs of {made}, but the model takes {' x '.join(map(str, shape))}; "
            "give Preprocessing the model's size=(height, width) and channels="
        )


def _weight_files(backbone: nn.Module, head: MintHead) -> dict[str, bytes]:
    return {"model.safetensors": _packed(backbone.state_dict()), "head.safetensors": _packed(head_weights(head))}


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    # Tied weights share memory, which the format does not allow.
    content: bytes = safetensors.torch.save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
    return content
