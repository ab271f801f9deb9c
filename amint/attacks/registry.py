"""Every attack of the package by its name, loaded when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amint.attacks import Attack
from amint.errors import UsageError

__all__ = ["FAMILIES", "Entry", "about", "canonical", "entry", "family", "named", "names"]

FAMILIES = ("one model", "shadow model", "references", "white box", "trained in", "own")


@dataclass(frozen=True)
class Entry:
    """How an attack is made.

    Attributes:
        module: below :mod:`amint.attacks`.
        attribute: the class.
        family: one of ``FAMILIES``: what the attack can see.
        options: arguments of the class.
        default: part of "all"; variants of another attack are not.
    """

    module: str
    attribute: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    default: bool = True

    def make(self) -> Attack:
        """A new attack, not fitted."""
        made: Attack = getattr(importlib.import_module(f"amint.attacks.{self.module}"), self.attribute)(**self.options)
        return made


def _modes(name: str, attribute: str) -> dict[str, Entry]:
    modes = ("online", "offline")
    return {f"{name}-{mode}": Entry(name, attribute, "references", {"mode": mode}) for mode in modes}


def _variants(name: str, attribute: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    return {
        f"{base}-{suffix}": Entry(name, attribute, "references", {**made.options, **more}, default=False)
        for base, made in _modes(name, attribute).items()
        for suffix, more in options.items()
    }


_QUERIES: dict[str, dict[str, Any]] = {"queries": {"queries": True}}
_VARIANCES: dict[str, dict[str, Any]] = {
    kind.replace("_", "-"): {"variance": kind} for kind in ("per_example", "pooled", "shrunk")
}
_ALL = "all"
# The mode that works with every set of references.
_ALIASES = {name: f"{name}-offline" for name in ("lira", "rmia", "informia")}
_ENTRIES: dict[str, Entry] = {
    "correctness": Entry("correctness", "Correctness", "one model"),
    "confidence": Entry("confidence", "Confidence", "one model"),
    "loss": Entry("loss", "Loss", "one model"),
    "entropy": Entry("entropy", "Entropy", "one model"),
    "modified-entropy": Entry("modified_entropy", "ModifiedEntropy", "one model"),
    "modified-entropy-by-class": Entry("modified_entropy", "ModifiedEntropyByClass", "one model"),
    "margin": Entry("margin", "Margin", "one model"),
    "scaled-logit": Entry("scaled_logit", "ScaledLogit", "one model"),
    "salem-threshold": Entry("salem", "SalemThreshold", "one model"),
    "attack-p": Entry("attack_p", "AttackP", "one model"),
    "quantile": Entry("quantile", "GaussianQuantile", "one model"),
    "salem": Entry("salem", "SalemNet", "shadow model"),
    "watson": Entry("watson", "Watson", "references"),
    "attack-r": Entry("attack_r", "AttackR", "references"),
    **_modes("lira", "Lira"),
    **_modes("rmia", "Rmia"),
    **_modes("informia", "InfoRmia"),
    "gradient-norm": Entry("gradient_norm", "GradientNorm", "white box"),
    "passive-mint": Entry("passive_mint", "PassiveMint", "white box"),
    "passive-mint-cnn": Entry("passive_mint", "PassiveMintCNN", "white box"),
    "gmint": Entry("gmint", "GMint", "white box"),
    "mint": Entry("mint", "Mint", "trained in"),
    "quantile-heads": Entry("quantile", "QuantileHeads", "one model", default=False),
    **_variants("lira", "Lira", _VARIANCES | _QUERIES),
    **_variants("rmia", "Rmia", _QUERIES),
}


def names(*, variants: bool = False) -> tuple[str, ...]:
    """The names of all attacks, of the cheapest kind first; with their variants or without."""
    return tuple(name for name, made in _ENTRIES.items() if made.default or variants)


def canonical(name: str) -> str:
    """The attack's name as this package writes it: upper case, ``-`` and ``_`` make no difference, rmia is offline.

    Raises:
        UsageError: there is no such attack; the message says which names are near. "all" is no attack: it stands for
            the whole list.
    """
    plain = {known: known for known in _ENTRIES} | _ALIASES
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted]
    if wanted == _ALL:
        raise UsageError('"all" stands alone, in lower case: attacks="all" or --attacks all, without other names')
    near = [plain[key] for key in difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5)]
    hint = f"; near names: {', '.join(near)}" if near else ""
    raise UsageError(f"there is no attack {name!r}{hint}. There are: {', '.join(_ENTRIES)}")


def entry(name: str) -> Entry:
    """How the attack of this name is made. Raises UsageError as :func:`canonical`."""
    return _ENTRIES[canonical(name)]


def named(name: str) -> Attack:
    """A new attack by its name, not fitted. Raises UsageError as :func:`entry`."""
    return entry(name).make()


def family(attack: Attack) -> str:
    """What an attack can see, one of ``FAMILIES``; "own" for one that is not of this package."""
    home, kind = f"{__package__}.", type(attack)
    for made in _ENTRIES.values():
        if (home + made.module, made.attribute) == (kind.__module__, kind.__name__):
            return made.family
    return "own"


def about(attack: Attack) -> str:
    """One plain sentence on an attack: the first of its module for the package's own, else of its class."""
    kind = type(attack)
    source = inspect.getmodule(kind) if kind.__module__.startswith(f"{__package__}.") else kind
    text = " ".join(((getattr(source, "__doc__", None) or "").strip().split("\n\n")[0]).split())
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
