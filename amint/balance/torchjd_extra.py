"""torchjd, which is installed only on request."""

from __future__ import annotations

import importlib
from typing import Any

from amint.errors import UsageError

__all__ = ["missing", "torchjd_module"]


def torchjd_module(name: str, needed_by: str) -> Any:
    """The module ``torchjd.<name>``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(f"torchjd.{name}")
    except ImportError as error:
        raise missing(needed_by, error) from error


def missing(needed_by: str, error: ImportError) -> UsageError:
    """What to say when torchjd, or a solver that it calls, cannot be imported."""
    return UsageError(f'{needed_by} needs torchjd and its solvers: pip install "amint-audit[balance]" ({error})')
