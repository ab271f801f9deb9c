"""How a recipe is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cyclopts

import amint
from amint.errors import AmintError


def launch(main: Callable[..., Any]) -> None:
    """Run ``main`` with the command line's arguments; what cannot work is one line and exit status 1, no traceback."""
    try:
        app = cyclopts.App(version=amint.__version__)
        app.default(main)
        app()
    except AmintError as error:
        raise SystemExit(f"error: {error}") from error
