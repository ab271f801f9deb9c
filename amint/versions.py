"""The versions that a result depends on, also where amint runs from a plain folder of its sources."""

from __future__ import annotations

from importlib import metadata

__all__ = ["VERSION", "versions"]

VERSION = "0.1.0"


def versions(*libraries: str) -> dict[str, str]:
    """Distribution name -> version, amint's own first; "unknown" of a library that was installed without saying it."""
    return {"amint-audit": VERSION} | {name: _version(name) for name in libraries}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
