"""For tests of your own attacks: signals without any model, and the properties that every attack must have.

>>> import numpy as np
>>> from amint.testing import check_attack
>>> class Surprise:
...     name, needs = "surprise", frozenset({"logprob", "reference_logprob"})
...     def fit(self, known, is_member):
...         return self
...     def score(self, signals):
...         return signals["logprob"] - signals["reference_logprob"].min(axis=1)
>>> check_attack(Surprise())
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amint.arrays import Floats
from amint.attacks import Attack
from amint.errors import AmintError
from amint.posteriors import posterior_columns
from amint.ranksum import rank_sum_p
from amint.signals import Signals

__all__ = ["PropertyFailure", "check_attack", "fake_signals"]

Flags = NDArray[np.bool_]
World = Callable[[float, int], tuple[Signals, Flags]]

_FEATURES, _CHANNELS, _SIDE = 6, 8, 4
# A sound attack on signals without any trace of membership is this far from guessing once in ten thousand runs.
_BY_LUCK, _CLEARLY = 1e-4, 0.01


class PropertyFailure(AmintError, AssertionError):
    """An attack lacks a property that every attack must have.

    Attributes:
        property: its name: interface, scores, orientation, null, equivariance, batch, ties, inputs, repeatable, random.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.property = name


def fake_signals(
    n_members: int = 200,
    n_nonmembers: int = 200,
    k: int = 4,
    seed: int = 0,
    *,
    gain: float = 3.0,
    classes: int = 5,
    queries: int = 2,
) -> tuple[Signals, Flags]:
    """Every signal that targets and references have, of a make-believe classifier, and who is a member.

    Each sample has a difficulty of its own. A model that trained on it is surer of it, by ``gain`` on the scale of the
    logit; half of the ``k`` references trained on each sample. Activations shift a little, gradients are those of a
    linear layer. Members and non-members come in a random order.

    Args:
        n_members, n_nonmembers: how many.
        k: reference models, even.
        seed: of everything.
        gain: what training adds; 0 leaves no trace of membership at all.
        classes: of the make-believe task, at least 2.
        queries: augmented views of each sample.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    n = n_members + n_nonmembers
    is_member = generator.permutation(np.arange(n) < n_members)
    inside = generator.random((n, k)).argsort(axis=1) < k // 2
    label = generator.integers(classes, size=n)
    difficulty = generator.normal(1, 2, n)

    def outputs(trained: Flags) -> dict[str, NDArray[Any]]:
        found = [_posteriors(generator, difficulty + gain * trained, label, classes) for _ in range(queries)]
        views = {f"{name}_queries": np.stack([f[name] for f in found], 1) for name in ("logprob", "scaled_logit")}
        return found[0] | views

    columns = outputs(is_member) | _white_box(generator, is_member, gain)
    columns |= {"label": label, "mint_logit": generator.normal(gain * is_member, 1), "reference_in": inside}
    columns |= _gradients(columns, label)
    references = [outputs(inside[:, j]) for j in range(k)]
    for name in references[0] if references else ():
        columns[f"reference_{name}"] = np.stack([found[name] for found in references], axis=1)
    if references:
        columns |= {"shadow_top3": references[0]["top3"], "shadow_in": inside[:, 0]}
    return Signals({name: column for name, column in columns.items() if name != "posteriors"}), is_member


def check_attack(attack: Attack, world: World | None = None) -> None:
    """Check the properties of an attack on :func:`fake_signals`, or on signals of your own.

    Members score higher where there is something to find, and not where there is nothing; scores are finite numbers,
    one a sample, and a sample's score depends on neither its place nor its batch; equal samples have equal scores;
    inputs stay as they were; the same data give the same scores, and nobody else's random numbers are drawn.

    Args:
        attack: not fitted yet.
        world: (gain, seed) -> signals ``[n]`` and who is a member ``[n]``; gain 0 means no trace of membership.

    Raises:
        PropertyFailure: names the first property that does not hold.
    """
    make = world or (lambda gain, seed: fake_signals(gain=gain, seed=seed))
    known, known_flags = make(3.0, 1)
    fresh, fresh_flags = make(3.0, 2)
    _check_interface(attack, known)
    before = _random_states()
    fitted = _fitted(attack, known, known_flags)
    scores = _scored(fitted, fresh)
    if _random_states() != before:
        raise PropertyFailure("random", "it draws from a global generator; give the attack a generator of its own")
    _check_direction(scores, fresh_flags)
    again = _scored(_fitted(attack, known, known_flags), fresh)
    _same("repeatable", again, scores, "a second fit on the same samples gives other scores; fix its seed")
    _check_rows(fitted, fresh, scores)
    blank, blank_flags = make(0.0, 3)
    unknown, unknown_flags = make(0.0, 4)
    _check_null(_scored(_fitted(attack, blank, blank_flags), unknown), unknown_flags)


def _check_interface(attack: Attack, known: Signals) -> None:
    name, needs = getattr(attack, "name", None), getattr(attack, "needs", None)
    if not isinstance(name, str) or not name:
        raise PropertyFailure("interface", f"name must be a text, found {name!r}")
    if not isinstance(needs, frozenset) or not needs or not all(isinstance(one, str) for one in needs):
        raise PropertyFailure("interface", f"needs must be a frozenset of names of signals, found {needs!r}")
    for one in sorted(needs - set(known.columns)):
        near = difflib.get_close_matches(one, known.columns, n=3)
        raise PropertyFailure(
            "interface", f"there is no signal {one!r}; near names: {near}. Or pass a world of your own"
        )


def _check_direction(scores: Floats, flags: Flags) -> None:
    members, others = scores[flags], scores[~flags]
    if rank_sum_p(members, others) > _CLEARLY:
        turned = rank_sum_p(others, members) <= _CLEARLY
        hint = "they score lower: turn the sign" if turned else "they do not, where members are easy to tell"
        raise PropertyFailure("orientation", f"members must score higher than non-members; {hint}")


def _check_null(scores: Floats, flags: Flags) -> None:
    members, others = scores[flags], scores[~flags]
    if 2 * min(rank_sum_p(members, others), rank_sum_p(others, members)) <= _BY_LUCK:
        raise PropertyFailure("null", "it tells members from non-members in signals without any trace of membership")


def _check_rows(fitted: Attack, signals: Signals, scores: Floats) -> None:
    order = np.random.Generator(np.random.PCG64(5)).permutation(len(scores))
    moved = _scored(fitted, signals.rows(order))
    _same("equivariance", moved, scores[order], "scores change when the samples come in another order")
    for rows in (slice(0, 1), slice(3, 20)):
        some = _scored(fitted, signals.rows(np.arange(len(scores))[rows]))
        _same("batch", some, scores[rows], "a sample's score depends on the samples that come with it")
    doubled = _scored(fitted, signals.rows(np.repeat(order[:50], 2)))
    if not np.array_equal(doubled[::2], doubled[1::2]):
        raise PropertyFailure("ties", "equal samples must have exactly equal scores, or ROC curves invent an order")


def _fitted(attack: Attack, known: Signals, flags: Flags) -> Attack:
    kept, kept_flags = _copied(known, attack), flags.copy()
    given, given_flags = _copied(known, attack), flags.copy()
    fitted = attack.fit(given, given_flags)
    if not hasattr(fitted, "score"):
        raise PropertyFailure("interface", f"fit must return the fitted attack, it returned {type(fitted).__name__}")
    _unchanged(given, kept, "fit")
    if not np.array_equal(given_flags, kept_flags):
        raise PropertyFailure("inputs", "fit writes into is_member")
    return fitted


def _scored(fitted: Attack, signals: Signals) -> Floats:
    kept, given = _copied(signals, fitted), _copied(signals, fitted)
    scores = fitted.score(given)
    _unchanged(given, kept, "score")
    if not isinstance(scores, np.ndarray) or scores.shape != (len(signals),) or scores.dtype.kind not in "fiu":
        found = (scores.shape, scores.dtype) if isinstance(scores, np.ndarray) else type(scores).__name__
        raise PropertyFailure("scores", f"expected an array of {len(signals)} numbers, one a sample; found {found}")
    if not np.isfinite(scores).all():
        raise PropertyFailure("scores", f"{int((~np.isfinite(scores)).sum())} of {len(scores)} are NaN or infinite")
    return scores.astype(np.float64)


def _copied(signals: Signals, attack: Attack) -> Signals:
    return Signals({name: signals[name].copy() for name in attack.needs})


def _unchanged(given: Signals, kept: Signals, method: str) -> None:
    for name, column in kept.columns.items():
        if not np.array_equal(given[name], column):
            raise PropertyFailure("inputs", f"{method} writes into the signal {name!r}")


def _same(name: str, found: Floats, expected: Floats, message: str) -> None:
    if not np.allclose(found, expected, rtol=1e-5, atol=1e-8):
        raise PropertyFailure(name, f"{message} (by up to {np.abs(found - expected).max():.3g})")


def _random_states() -> tuple[Any, ...]:
    legacy: Any = np.random.get_state()  # noqa: NPY002  (the one that a careless attack would draw from)
    return legacy[1].tobytes(), legacy[2], torch.get_rng_state().numpy().tobytes()


def _posteriors(
    generator: np.random.Generator, phi: Floats, label: NDArray[np.int64], classes: int
) -> dict[str, NDArray[Any]]:
    """Columns of logits whose scaled logit is ``phi`` ``[n]`` and some noise."""
    z = generator.normal(size=(len(phi), classes))
    rows = np.arange(len(phi))
    z[rows, label] = -np.inf
    z[rows, label] = phi + generator.normal(0, 0.5, len(phi)) + np.logaddexp.reduce(z, axis=1)
    logits = torch.from_numpy(z)
    columns = {name: c.numpy() for name, c in posterior_columns(logits, torch.from_numpy(label)).items()}
    return columns | {"posteriors": logits.softmax(1).numpy()}


def _white_box(generator: np.random.Generator, flags: Flags, gain: float) -> dict[str, NDArray[Any]]:
    n = len(flags)
    activations = generator.normal(size=(n, _CHANNELS)) + 0.3 * gain * flags[:, None] * (np.arange(_CHANNELS) % 2)
    maps = activations[:, :, None, None] + 0.5 * generator.normal(size=(n, _CHANNELS, _SIDE, _SIDE))
    return {
        "activations": activations.astype(np.float32),
        "maps": maps.astype(np.float16),
        "features": generator.normal(size=(n, _FEATURES)).astype(np.float32),
    }


def _gradients(columns: dict[str, NDArray[Any]], label: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Of a linear layer that reads ``features``: weights row by row, then biases."""
    residual = columns["posteriors"] - np.eye(columns["posteriors"].shape[1])[label]
    weights = (residual[:, :, None] * columns["features"][:, None, :]).reshape(len(label), -1)
    gradient = np.hstack([weights, residual])
    norms = np.stack([np.linalg.norm(part, axis=1) for part in (weights, residual)], axis=1)
    total = np.linalg.norm(norms, axis=1)
    return {"gradient": gradient.astype(np.float16), "gradient_norm": total, "gradient_norms": norms}
