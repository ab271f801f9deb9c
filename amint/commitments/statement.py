"""The public part of a commitment: a root, how many samples of each role, and how the roles were drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from amint.errors import InputError, UsageError
from amint.regular_files import read_regular
from amint.roles import Roles, assign_roles, groups_digest

__all__ = [
    "ROLES",
    "check_drawn",
    "check_public",
    "check_roles",
    "draw_of",
    "parsed",
    "read_json",
    "read_public",
    "statement_of",
    "write_json",
]

ROLES = ("members", "external", "calibration")
_SCHEME = "amint-1: HMAC-SHA256 salts, SHA-256 leaves, RFC 6962 tree"
_FIELDS = {"format", "scheme", "counts", "tree", "draw", "root"}

T = TypeVar("T")


def statement_of(tree: bytes, counts: Mapping[str, int], draw: Mapping[str, Any] | None) -> dict[str, Any]:
    """The public part: what is stated, and under "root" the SHA-256 of the statement."""
    statement = {
        "format": "amint-commitment",
        "scheme": _SCHEME,
        "counts": dict(counts),
        "tree": tree.hex(),
        "draw": None if draw is None else dict(draw),
    }
    return statement | {"root": _root(statement)}


def check_public(data: Any) -> dict[str, Any]:
    """Check the public part of a commitment: format, counts, and that its root is the root of just this.

    Returns:
        The same values.

    Raises:
        InputError: damaged or edited.
    """

    def parse(data: Any) -> dict[str, Any]:
        counts, draw = data["counts"], data["draw"]
        if set(data) != _FIELDS or data["format"] != "amint-commitment" or data["scheme"] != _SCHEME:
            raise ValueError(f"expected the fields {sorted(_FIELDS)} and the scheme {_SCHEME!r}")
        if set(counts) != set(ROLES) or not all(type(n) is int and n >= 0 for n in counts.values()):
            raise ValueError(f"expected a count for each of {', '.join(ROLES)}, found {counts}")
        if len(bytes.fromhex(data["tree"])) != 32 or not (draw is None or isinstance(draw, dict)):
            raise ValueError("the root of its tree or its draw is malformed")
        if _root({name: value for name, value in data.items() if name != "root"}) != data["root"]:
            raise ValueError("it was edited or damaged: its root is the root of something else")
        return dict(data)

    return parsed(data, parse, "this is not the public part of a commitment")


def read_public(path: str | Path) -> dict[str, Any]:
    """Read what :meth:`Commitment.publish` wrote.

    Raises:
        InputError: not such a file, damaged or edited.
    """
    return check_public(read_json(path))


def check_roles(public: Mapping[str, Any] | str | Path, n: int, groups: Tensor | ArrayLike | None = None) -> Roles:
    """Draw the roles again from the recorded seed.

    Args:
        public: the commitment's public part, or the path of its file.
        n: how many samples there were to draw from.
        groups: ``[n]``, for roles that were drawn in groups: the owner's own column. The commitment holds its hash.

    Returns:
        Row numbers by role; the sample at place ``i`` of a role is row ``roles.members[i]`` of the ``n`` and so on.

    Raises:
        InputError: no draw is recorded, it was for another ``n`` or other groups, or the seed does not give it.
    """
    recorded = (read_public(public) if isinstance(public, str | Path) else check_public(public))["draw"]
    if recorded is None:
        raise InputError("this commitment records no draw of its roles: they were chosen in another way")
    if recorded.get("n") != n:
        raise InputError(f"the recorded draw is out of {recorded.get('n')} samples, not out of {n}")

    def parse(recorded: Any) -> Roles:
        asked = {role: recorded[role] for role in ROLES}
        again = _again(n, asked, recorded["seed"], groups, recorded.get("groups_sha256"))
        if draw_of(again) | {"numpy": recorded["numpy"]} != recorded:
            raise ValueError(f"its seed gives other rows with numpy {np.__version__}")
        return again

    return parsed(recorded, parse, "the recorded draw of the roles cannot be repeated")


def check_drawn(roles: Roles, groups: Tensor | ArrayLike | None = None) -> None:
    """Check that roles are what their seed gives, in the groups they were drawn in.

    Raises:
        UsageError: they were chosen or changed by hand, or the groups are missing or others.
    """
    asked = dict(zip(ROLES, roles.asked, strict=True))
    if _again(_rows(roles), asked, roles.seed, groups, roles.groups_sha256) != roles:
        raise UsageError(
            f"these roles are not what amint.assign_roles draws with seed {roles.seed}; pass its result as it is, or "
            "roles=None if they were chosen in another way"
        )


def draw_of(roles: Roles) -> dict[str, Any]:
    """How roles were drawn, as plain values: what was asked for, and hashes of the groups, if any, and of the rows."""
    rows = {role: list(getattr(roles, role)) for role in ROLES}
    drawn = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    asked = dict(zip(ROLES, roles.asked, strict=True))
    draw = {"n": _rows(roles), **asked, "seed": roles.seed, "rows_sha256": drawn, "numpy": np.__version__}
    return draw if roles.groups_sha256 is None else draw | {"groups_sha256": roles.groups_sha256}


def _again(
    n: int, asked: Mapping[str, int], seed: int, groups: Tensor | ArrayLike | None, groups_sha256: str | None
) -> Roles:
    """The draw repeated. Raises UsageError if ``groups`` are not those of this hash."""
    if groups is None and groups_sha256 is not None:
        raise UsageError(
            "these roles were drawn in groups, which are missing: pass groups= as it was given to amint.assign_roles"
        )
    if groups_digest(groups, n) != groups_sha256:
        without = "they were drawn without groups" if groups_sha256 is None else f"their SHA-256 is {groups_sha256}"
        raise UsageError(f"the groups given are not those in which these roles were drawn: {without}")
    return assign_roles(n, **asked, seed=seed, groups=groups)


def _rows(roles: Roles) -> int:
    return sum(len(getattr(roles, role)) for role in (*ROLES, "unseen"))


def parsed(data: Any, parse: Callable[[Any], T], otherwise: str) -> T:
    """What ``parse`` makes of data from outside; whatever is wrong with them is an InputError that says so."""
    try:
        return parse(data)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{otherwise}: {reason}") from error


def read_json(path: str | Path) -> Any:
    """The values in a JSON file.

    Raises:
        InputError: there is none, or something else than a regular file is in its place.
    """
    content = read_regular(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def write_json(path: str | Path, data: Any) -> Path:
    """Write values as a JSON file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
    return Path(path)


def _root(statement: Mapping[str, Any]) -> str:
    # One spelling for the same values, whatever the order they are stored in.
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(b"amint-commitment\n" + text.encode()).hexdigest()
