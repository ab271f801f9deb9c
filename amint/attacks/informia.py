"""InfoRMIA: how many bits more does the target know about the sample than about the population?

Source: "Information-Theoretic Membership Inference for Granular Quantification of Memorization" (arXiv 2510.05582):
the statistic of one sample or sequence, and its token-level form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from amint.arrays import Floats, score_array
from amint.attacks._masked import BLOCK, known_nonmembers, log_mean_exp, needs_of, one_of, referenced, require_inside
from amint.attacks.rmia import Mode, check_reference_options, fitted_a, log_ratio
from amint.errors import NonFiniteError, UsageError
from amint.signals import Signals

__all__ = ["Constant", "InfoRmia", "TokenScores", "max_k", "min_k", "span_sums", "token_informia"]


@dataclass(frozen=True)
class Constant:
    """What :meth:`InfoRmia.fit` learns.

    Attributes:
        a: the offline guess's parameter, None online.
        nats: C, the population's mean log ratio.
        note: that a could not be tuned, or empty.
    """

    a: float | None
    nats: float
    note: str = ""


@dataclass(frozen=True)
class InfoRmia:
    """Score = (log r_x - C) / ln 2, in bits, with r as in :class:`amint.attacks.rmia.Rmia`; C is the mean of log r_z.

    C is one number a target: it changes no ROC of one target, and makes scores of several targets, or a fixed
    threshold, comparable. Without RMIA's counting there are no ties, so low FPRs do not depend on the size of Z.

    Attributes:
        mode: ``"offline"`` needs OUT references only.
        a: 0 to 1; None tunes it in :meth:`fit`, with references in the place of the target, or takes
            :data:`amint.attacks.rmia.UNTUNED_A` where none can take it.
        weights: of the population in C. ``"uniform"`` takes z as samples of the population; ``"density"`` weighs
            them by p(z), the reading of C as minus the divergence of p(z | target) from p(z).
        constant: after :meth:`fit`, a and C.

    Raises UsageError for options out of range.
    """

    mode: Mode
    a: float | None = None
    weights: Literal["uniform", "density"] = "uniform"
    constant: Constant | None = field(default=None, compare=False)

    needs = needs_of("logprob")

    def __post_init__(self) -> None:
        check_reference_options(self.mode, self.a)
        one_of("weights", self.weights, ("uniform", "density"))

    @property
    def name(self) -> str:
        """``informia-online`` or ``informia-offline``."""
        return f"informia-{self.mode}"

    @property
    def note(self) -> str:
        """What to mind after :meth:`fit`, or empty."""
        return "" if self.constant is None else self.constant.note

    def fit(self, known: Signals, is_member: np.ndarray[Any, np.dtype[np.bool_]]) -> Self:
        """A new attack that holds C of the known non-members, and a tuned a if none was given.

        Raises UsageError where there is no known non-member, or where one has no OUT reference; NonFiniteError for NaN
        or infinity.
        """
        a, note = fitted_a(self.mode, self.a, known, "logprob")
        z = referenced(known_nonmembers(known, is_member, self.needs), "logprob")
        ratios = log_ratio(z, self.mode, a, "population samples (known non-members)")
        log_density = z.target - ratios
        weights = special.softmax(log_density) if self.weights == "density" else np.full(ratios.shape, 1 / len(ratios))
        return replace(self, constant=Constant(a, float((weights * ratios).sum()), note))

    def score(self, signals: Signals) -> Floats:
        """``[n]`` in bits, higher = more likely a member.

        Raises UsageError before :meth:`fit`, for a sample without the references that the mode needs, or columns
        that do not match; NonFiniteError for NaN or infinity.
        """
        if self.constant is None:
            raise UsageError("InfoRMIA has no population constant yet; call fit with known non-members first.")
        x = referenced(signals, "logprob")
        if self.mode == "online":
            require_inside(x.inside, "samples")
        ratios = log_ratio(x, self.mode, self.constant.a, "samples")[:, 0]
        return np.asarray((ratios - self.constant.nats) / math.log(2), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Token-level InfoRMIA of one sequence, in nats; the two terms apart, because their signs need checking.

    The divergence changes with the context, so unlike C it is not a shift: on pre-trained language models a third
    party found the sum lower for members. Check the direction on known members before relying on it.

    Attributes:
        log_ratio: log p_y - log q_y of the true token, float64 ``[t]``.
        divergence: KL(q || p) over the vocabulary, ``[t]``, at least 0 up to rounding.
        log_reference: log q_y, ``[t]``.
        excluding_truth: ``[t]``, the score if the expectation is over the vocabulary without the true token. In
            exact arithmetic :attr:`score` divided by 1 - q_y.
    """

    log_ratio: Floats
    divergence: Floats
    log_reference: Floats
    excluding_truth: Floats

    @property
    def score(self) -> Floats:
        """``[t]``: the log ratio less its own expectation under the reference, so that sum_v q_v s(v) = 0."""
        return self.log_ratio + self.divergence

    @property
    def bits(self) -> Floats:
        """:attr:`score` in bits, ``[t]``."""
        return self.score / math.log(2)


def token_informia(
    target_logits: ArrayLike, reference_logits: Sequence[ArrayLike], ids: ArrayLike, temperature: float = 1.0
) -> TokenScores:
    """Token-level InfoRMIA; a classifier is the case of one token.

    Args:
        target_logits: ``[t, v]``.
        reference_logits: one ``[t, v]`` a reference, on the same positions and the same vocabulary; their
            probabilities are averaged to q.
        ids: true tokens, integers ``[t]`` in 0 ... v - 1.
        temperature: divides the logits of both sides.

    Raises UsageError for shapes that do not match, ids out of range, fewer than two classes, no reference, or a
    temperature that is not positive; NonFiniteError for NaN or infinite logits.
    """
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature must be positive and finite, found {temperature}.")
    target = _logits(target_logits, "target_logits")
    references = [_logits(logits, f"reference_logits[{k}]") for k, logits in enumerate(reference_logits)]
    if not references or any(reference.shape != target.shape for reference in references):
        raise UsageError(
            f"Expected at least one reference with logits of the target's shape {target.shape}, found "
            f"{[reference.shape for reference in references]}. Positions and vocabularies must be the same ones."
        )
    truth = _token_ids(ids, target.shape)
    rows = max(1, BLOCK // target.shape[1])
    parts = [np.empty((4, 0))]
    for start in range(0, len(truth), rows):
        block = slice(start, start + rows)
        log_p = _log_softmax(target[block], temperature)
        log_qs = np.stack([_log_softmax(reference[block], temperature) for reference in references], axis=1)
        log_q = log_mean_exp(log_qs, np.ones(log_qs.shape[:2], dtype=bool))
        parts.append(_token_terms(log_p, log_q, truth[block]))
    return TokenScores(*np.concatenate(parts, axis=1))


def min_k(scores: ArrayLike, fraction: float) -> float:
    """Mean of the lowest ``fraction`` of token scores ``[t]``, of at least one; 1 is the plain mean.

    Raises UsageError for no scores or a fraction outside (0, 1], NonFiniteError for NaN or infinity.
    """
    ascending = np.sort(score_array(scores, "token scores"))
    if len(ascending) == 0 or not 0 < fraction <= 1:
        raise UsageError(
            f"min_k and max_k need at least one token score and a fraction in (0, 1]; found {len(ascending)} scores "
            f"and {fraction}."
        )
    return float(ascending[: max(1, int(len(ascending) * fraction))].mean())


def max_k(scores: ArrayLike, fraction: float) -> float:
    """Mean of the highest ``fraction`` of token scores. Raises as :func:`min_k`."""
    return -min_k(-score_array(scores, "token scores"), fraction)


def span_sums(scores: ArrayLike, spans: ArrayLike) -> Floats:
    """Sums of token scores ``[t]`` over the half-open ``spans``, integers ``[s, 2]`` with 0 <= start <= stop <= t.

    The sum of a span's bits says how much the target knows of it beyond the references. Raises UsageError for
    spans out of range.
    """
    values, edges = score_array(scores, "token scores"), np.asarray(spans)
    valid = edges.ndim == 2 and edges.shape[1] == 2 and edges.dtype.kind in "iu"
    if not valid or not ((edges[:, 0] >= 0) & (edges[:, 0] <= edges[:, 1]) & (edges[:, 1] <= len(values))).all():
        raise UsageError(f"spans must be integers [s, 2] with 0 <= start <= stop <= {len(values)}, found {edges}.")
    return np.asarray(np.diff(np.r_[0.0, np.cumsum(values)][edges], axis=1)[:, 0], dtype=np.float64)


def _logits(logits: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        raise UsageError(
            f"{name} must be numbers [t, v] with v >= 2 classes, found shape {array.shape} and dtype {array.dtype}."
        )
    if bad := int((~np.isfinite(array)).any(axis=1).sum()):
        raise NonFiniteError(
            f"{name}: {bad} of {len(array)} positions have NaN or infinite logits. Give the model's raw logits; a "
            f"token that is ruled out needs a large negative logit, the same in target and references."
        )
    return array


def _log_softmax(logits: NDArray[Any], temperature: float) -> Floats:
    return np.asarray(special.log_softmax(logits.astype(np.float64) / temperature, axis=1), dtype=np.float64)


def _token_terms(log_p: Floats, log_q: Floats, truth: NDArray[np.intp]) -> Floats:
    """The fields of :class:`TokenScores` from log-probabilities ``[t, v]``, stacked ``[4, t]``."""
    at_truth = (np.arange(len(truth)), truth)
    log_ratio, log_reference = log_p[at_truth] - log_q[at_truth], log_q[at_truth]
    gap = log_q - log_p
    divergence = (np.exp(log_q) * gap).sum(axis=1)
    # By weights that are normalised without the truth, since score / (1 - q_y) is 0 / 0 where q_y rounds to 1.
    others = log_q.copy()
    others[at_truth] = -np.inf
    excluding_truth = log_ratio + (special.softmax(others, axis=1) * gap).sum(axis=1)
    return np.stack([log_ratio, divergence, log_reference, excluding_truth])


def _token_ids(ids: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.intp]:
    truth = np.asarray(ids)
    if truth.shape != shape[:1] or truth.dtype.kind not in "iu" or not ((truth >= 0) & (truth < shape[1])).all():
        raise UsageError(
            f"ids must be {shape[0]} integers from 0 to {shape[1] - 1}, one a position; found shape {truth.shape}, "
            f"dtype {truth.dtype}, values {truth.ravel()[:5].tolist()}. Drop ignored positions (-100) on all sides."
        )
    return truth.astype(np.intp)
