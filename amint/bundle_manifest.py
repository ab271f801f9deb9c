"""The manifest of a bundle as bytes: one spelling for the same values, and a checksum of them in it.

A manifest that was edited, damaged or written by another version is refused before any of its values is looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amint.errors import BundleError

__all__ = ["VERSION", "parse_manifest", "sealed"]

VERSION = 2
_FIELDS = {
    "format", "version", "created", "libraries", "architecture", "input_shape", "split", "head",
    "preprocessing", "facts", "probe", "files", "checksum",
}  # fmt: skip


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest of these values, with the checksum that fits them under "checksum", the last of them."""
    values = {name: value for name, value in manifest.items() if name != "checksum"}
    return _serialised({**values, "checksum": _checksum(values)})


def parse_manifest(source: Path, content: bytes) -> dict[str, Any]:
    """The values of a manifest, whole and as they were written; whether they make sense is not looked at.

    Args:
        source: the bundle, for messages.
        content: of the manifest's file.

    Raises:
        BundleError: it is none, of another version, edited or damaged.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the manifest of {source} is not JSON ({error}); the bundle is damaged") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "amint-bundle":
        raise BundleError(f"{source} is not an audit bundle: its manifest does not say so")
    if manifest.get("version") != VERSION:
        raise BundleError(
            f"{source} has bundle version {manifest.get('version')!r}, this amint reads version {VERSION}; "
            "use the amint that wrote it, or save it again"
        )
    if set(manifest) != _FIELDS or not isinstance(manifest["files"], dict):
        raise BundleError(f"the manifest of {source} lacks or adds fields: {sorted(set(manifest) ^ _FIELDS)}")
    try:
        # Other bytes can mean the same values; whoever compares two bundles by their bytes must not be misled.
        intact = sealed(manifest) == content
    except ValueError as error:
        raise BundleError(f"the manifest of {source} holds numbers that are not finite") from error
    except RecursionError as error:
        raise BundleError(f"the manifest of {source} is nested too deeply; the bundle is damaged") from error
    if not intact:
        raise BundleError(f"the manifest of {source} was edited or damaged: its checksum does not fit")
    return manifest


def _serialised(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, allow_nan=False).encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_serialised({**values, "checksum": ""})).hexdigest()
