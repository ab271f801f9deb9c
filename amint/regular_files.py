"""Files whose paths somebody else may have chosen: a pipe there would be waited on for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from amint.errors import InputError

__all__ = ["read_regular"]


def read_regular(path: str | Path, called: str = "") -> bytes:
    """The bytes of a regular file, or of one that a link leads to.

    Args:
        path: of the file.
        called: what messages call it; its path without that.

    Raises:
        InputError: there is nothing, or something else than a regular file, or it may not be read.
    """
    called = called or str(path)
    try:
        # Opening a pipe would wait for ever, and opening a device can set it in motion.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(f"{called} cannot be read: it is not a regular file")
        # It may be exchanged for a pipe in between.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{called} cannot be read: {error.strerror}") from error
    # No path can hold a null character.
    except ValueError as error:
        raise InputError(f"{called} cannot be read: {error}") from error
