"""A CycloneDX ML-BOM (JSON, version 1.6) of an audit bundle, for those who keep inventories of models.

Everything in it comes from the bundle, so that the same bundle gives the same bytes. Source: ECMA-424 (CycloneDX 1.6),
``machine-learning-model`` components and their ``modelCard``.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from amint.bundle import Bundle
from amint.errors import BundleError
from amint.signing import SignatureStatus

__all__ = ["ml_bom"]

_ROLES = {
    "members": "samples the model was trained on",
    "external": "samples like the members but other ones, shown to the MINT head and the layers before it",
    "calibration": "samples nothing was trained on, whose scores turn the score of any sample into a p-value",
}


def ml_bom(bundle: Bundle, signature: SignatureStatus | None = None) -> dict[str, Any]:
    """Describe the model of a bundle, the roles of its data, its audit figures and libraries.

    Args:
        bundle: from :func:`amint.bundle.read`.
        signature: from :func:`amint.signing.check`, or None if it was not looked at.

    Returns:
        Plain JSON values, valid against the schema of CycloneDX 1.6.

    Raises:
        BundleError: the facts of the bundle are not what amint writes.
    """
    manifest = bundle.manifest
    libraries = [_library(name, version) for name, version in sorted(manifest["libraries"].items())]
    model, head = _model(bundle, signature), _head(bundle)
    parts = [head["bom-ref"], *(library["bom-ref"] for library in libraries)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'amint-bundle:{bundle.sha256}')}",
        "version": 1,
        "metadata": {
            "timestamp": str(manifest["created"]),
            "tools": {"components": [_tool(str(manifest["libraries"].get("amint-audit", "unknown")))]},
            "component": model,
        },
        "components": [head, *libraries],
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": parts}, *({"ref": part} for part in parts)],
    }


def _model(bundle: Bundle, signature: SignatureStatus | None) -> dict[str, Any]:
    digest, architecture = bundle.manifest["files"]["model.safetensors"], bundle.architecture
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model-{digest}",
        "name": "audited model" if architecture is None else architecture.name,
        "version": digest[:12],
        "description": "A model with a MINT head, by which one can ask whether data was used to train it.",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "modelCard": {
            "modelParameters": _parameters(bundle),
            "quantitativeAnalysis": {"performanceMetrics": _figures(bundle.manifest["facts"])},
            "considerations": {"technicalLimitations": _limitations(bundle)},
        },
        "properties": _properties(_details(bundle, signature)),
    }


def _head(bundle: Bundle) -> dict[str, Any]:
    digest = bundle.manifest["files"]["head.safetensors"]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"mint-head-{digest}",
        "name": "MINT head",
        "version": digest[:12],
        "description": "Reads activations of the model; its output is higher for samples more likely trained on.",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "properties": _properties({"parameters": _size(bundle.head_weights), "reads": [p.name for p in bundle.points]}),
    }


def _library(name: str, version: Any) -> dict[str, Any]:
    purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='')}@{quote(str(version), safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": str(version), "purl": purl}


def _tool(version: str) -> dict[str, Any]:
    return {"type": "application", "name": "amint-audit", "version": version}


def _parameters(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = {
        "datasets": _datasets(bundle),
        "inputs": [{"format": f"tensor of {' x '.join(map(str, bundle.input_shape))} numbers"}],
    }
    if bundle.architecture is not None:
        found["architectureFamily"] = bundle.architecture.library
        found["modelArchitecture"] = bundle.architecture.name
    return found


def _datasets(bundle: Bundle) -> list[dict[str, Any]]:
    facts = bundle.manifest["facts"]
    committed = _commitment(facts).get("counts", {})
    counted = {
        "members": facts.get("members_seen"),
        "external": bundle.training.external,
        "calibration": len(bundle.calibration.scores),
    }
    return [
        {
            "type": "dataset",
            "bom-ref": f"data-{role}",
            "name": f"{role}: {purpose}",
            "contents": {"properties": _properties({"count": counted.get(role), "committed": committed.get(role)})},
        }
        for role, purpose in _ROLES.items()
    ]


def _figures(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    evaluation = facts.get("evaluation", {})
    try:
        figures = {name: found for name, found in evaluation.items() if name != "alpha"}
        return [
            {
                "type": f"MINT {name}",
                "value": _number(found["value"]),
                "slice": "{} members, {} unseen non-members".format(*found["n"]),
                "confidenceInterval": {"lowerBound": _number(found["low"]), "upperBound": _number(found["high"])},
            }
            for name, found in figures.items()
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the evaluation among the facts of the bundle is not what amint writes: {error!r}"
        ) from error


def _number(value: Any) -> str:
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value} is not a number")
    return format(value, ".6g")


def _limitations(bundle: Bundle) -> list[str]:
    known, facts = bundle.calibration, bundle.manifest["facts"]
    found = [
        f"{len(known.scores)} calibration samples: the smallest p-value of one sample is {known.smallest_p:.3g}.",
        "The MINT head knows the samples it was shown as members; training past it is not its to find.",
    ]
    if facts.get("unaccounted_updates"):
        found.append(f"{facts['unaccounted_updates']} updates of the weights followed no pass that the head saw.")
    if not facts.get("evaluation"):
        found.append("The bundle holds no figures of how well members are found.")
    return found


def _details(bundle: Bundle, signature: SignatureStatus | None) -> dict[str, Any]:
    facts = bundle.manifest["facts"]
    commitment = _commitment(facts)
    plain = {f"fact:{k}": v for k, v in facts.items() if k not in ("commitment", "evaluation", "history")}
    return {
        "bundle:sha256": bundle.sha256,
        "parameters": _size(bundle.model_weights),
        "commitment:root": commitment.get("root", "none"),
        "signature:state": "not checked" if signature is None else signature.state,
        "signature:key": None if signature is None else signature.public_key,
        **plain,
    }


def _commitment(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    found = facts.get("commitment") or {}
    if not isinstance(found, Mapping) or not isinstance(found.get("counts", {}), Mapping):
        raise BundleError("the commitment among the facts of the bundle is not what amint writes")
    return found


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": f"amint:{name}", "value": value if isinstance(value, str) else json.dumps(value)}
        for name, value in values.items()
        if value is not None
    ]


def _size(weights: Mapping[str, Any]) -> int:
    return sum(tensor.numel() for tensor in weights.values())
