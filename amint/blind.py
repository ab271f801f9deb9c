"""What can be said of inputs without any model, and how well that tells two sets of them apart.

If light, contrast, sharpness or traces of compression are enough to tell them apart, then a membership score may
show nothing but that difference (:func:`amint.controls.blind_baseline`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special, stats

from amint.arrays import Floats
from amint.errors import NonFiniteError, UsageError
from amint.intervals import hoeffding_interval

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FEATURES", "Separation", "blind_features", "separation"]

_PARTS = 3
_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
_OF_VALUES = ("mean", "std", "min", "max", *_QUANTILES)
_THUMBNAIL = 4
# A block of JPEG has 8 x 8 pixels; these are the coefficients that it stores most coarsely.
_BLOCK = 8
_COSINES = fft.dct(np.eye(_BLOCK), axis=1, norm="ortho")
_DETAIL = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK)) >= _BLOCK
_ELEMENTS = 2**21
_LARGEST = float(np.finfo(np.float32).max)
_FOLDS = 5
_PERMUTATIONS = 999
# Penalty as a share of a feature's variance; from 0.01 to 0.1 the results hardly differ.
_RIDGE = 0.03
Images = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def blind_features(x: Tensor) -> Tensor:
    """Statistics of model inputs, one row each, that depend on no model and on no other row.

    Values and their quantiles by channel, a 4 x 4 thumbnail, the energy of gradients and of high frequencies,
    the edges and the detail of 8 x 8 blocks (traces of JPEG), the border, colour, and how many values repeat.
    What does not apply (a second channel of grey images, the blocks of small ones) is 0.

    Args:
        x: ``[n, channels, height, width]`` with any numbers; of more than three channels, neighbours are taken
            together. ``[n, height, width]`` counts as one channel, ``[n, d]`` and ``[n]`` as one line, whose
            thumbnail is 16 pieces; with five dimensions and more, all between channels and width is height.

    Returns:
        float32 ``[n, len(FEATURES)]`` on the CPU, finite; the same bits whatever the batch.

    Raises:
        UsageError: rows without a number in them, or complex ones.
        NonFiniteError: NaN or infinity.
    """
    if x.ndim == 0 or x.is_complex() or math.prod(x.shape[1:]) == 0:
        raise UsageError(f"inputs must be real numbers [n, ...], at least one a row; found {list(x.shape)} {x.dtype}")
    images = _as_images(x.detach())
    step = max(1, _ELEMENTS // math.prod(images.shape[1:]))
    rows = [_chunk(images[start : start + step]) for start in range(0, len(images), step)]
    # Telling two sets apart needs no torch.
    from torch import from_numpy

    return from_numpy(np.concatenate([np.empty((0, len(FEATURES)), np.float32), *rows]))


def _as_images(x: Tensor) -> Tensor:
    if x.ndim <= 2:
        return x.reshape(len(x), 1, 1, math.prod(x.shape[1:]))
    return x.unsqueeze(1) if x.ndim == 3 else x.flatten(2, -2)


def _chunk(images: Tensor) -> NDArray[np.float32]:
    # numpy sums along a row in an order that depends on the row's length alone; torch's may depend on the batch.
    x = np.ascontiguousarray(images.cpu().double().numpy())
    if not np.isfinite(x).all():
        raise NonFiniteError("inputs hold NaN or infinity; leave these rows out")
    # Squares of what float32 can hold do not overflow.
    x = np.clip(x, -_LARGEST, _LARGEST)
    parts = [part for part in np.array_split(x, min(_PARTS, x.shape[1]), axis=1) if part.shape[1]]
    values = [_of_values(_flat(part)) for part in parts]
    values += [np.zeros_like(values[0])] * (_PARTS - len(parts))
    grey = np.ascontiguousarray(x.mean(axis=1)) if x.shape[1] > 1 else x[:, 0]
    texture = np.stack(list(_texture(x, grey).values()), axis=1)
    features = np.concatenate([*values, _thumbnail(grey), texture], axis=1)
    return np.asarray(np.clip(features, -_LARGEST, _LARGEST), np.float32)


def _of_values(flat: Floats) -> Floats:
    ordered = np.sort(flat, axis=1)
    last = flat.shape[1] - 1
    quantiles = [ordered[:, round(share * last)] for share in _QUANTILES.values()]
    return np.stack([flat.mean(axis=1), flat.std(axis=1), ordered[:, 0], ordered[:, -1], *quantiles], axis=1)


def _thumbnail(grey: Images) -> Floats:
    if grey.shape[1] == 1:
        return np.asarray((grey @ _pooling(grey.shape[2], _THUMBNAIL**2))[:, 0])
    return _flat(_pooling(grey.shape[1], _THUMBNAIL).T @ (grey @ _pooling(grey.shape[2], _THUMBNAIL)))


def _pooling(size: int, pieces: int) -> Floats:
    """``[size, pieces]``: means over equal pieces of a line; a pixel on an edge is shared out."""
    edges = np.linspace(0, size, pieces + 1)
    pixel = np.arange(size)[:, None]
    covered = np.minimum(pixel + 1, edges[1:]) - np.maximum(pixel, edges[:-1])
    return np.asarray(np.clip(covered, 0, None) * (pieces / size))


def _texture(x: Images, grey: Images) -> dict[str, Floats]:
    dx, dy = np.diff(grey, axis=2), np.diff(grey, axis=1)
    colour = x - grey[:, None]
    border = _border(grey)
    ordered = np.sort(_flat(x), axis=1)
    return {
        "gradient_x": _energy(dx),
        "gradient_y": _energy(dy),
        "gradient_2x": _energy(grey[:, :, 2:] - grey[:, :, :-2]),
        "gradient_2y": _energy(grey[:, 2:] - grey[:, :-2]),
        "high_frequency": _energy(np.diff(dx, axis=2)) + _energy(np.diff(dy, axis=1)),
        "checkerboard": _energy(np.diff(dx, axis=1)),
        "equal_neighbours": _mean(np.concatenate([_flat(dx), _flat(dy)], axis=1) == 0),
        "block_edge_x": _block_edges(np.abs(dx)),
        "block_edge_y": _block_edges(np.abs(dy).transpose(0, 2, 1)),
        "block_detail": _block_detail(grey),
        "block_detail_shifted": _block_detail(grey[:, _BLOCK // 2 :, _BLOCK // 2 :]),
        "border_mean": border.mean(axis=1),
        "border_std": border.std(axis=1),
        "colour": _energy(colour),
        "colour_gradient": _energy(np.diff(colour, axis=3)) + _energy(np.diff(colour, axis=2)),
        "colour_pairs": _energy(np.diff(colour, axis=3)[..., 1::2]) - _energy(np.diff(colour, axis=3)[..., ::2]),
        "share_lowest": _mean(ordered == ordered[:, :1]),
        "share_highest": _mean(ordered == ordered[:, -1:]),
        "share_distinct": _mean(np.diff(ordered, axis=1) > 0),
    }


def _border(grey: Images) -> Floats:
    sides = [grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]]
    return np.ascontiguousarray(np.concatenate(sides, axis=1))


def _block_edges(steps: Images) -> Floats:
    """How much larger the steps across the edges of blocks are than the others, along the last axis."""
    is_edge = np.arange(1, steps.shape[2] + 1) % _BLOCK == 0
    return _mean(_flat(steps[:, :, is_edge])) - _mean(_flat(steps[:, :, ~is_edge]))


def _block_detail(grey: Images) -> Floats:
    """Mean magnitude of the finest cosine coefficients (DCT) of all whole blocks."""
    rows, columns = grey.shape[1] // _BLOCK, grey.shape[2] // _BLOCK
    n, width = len(grey), columns * _BLOCK
    lines = np.ascontiguousarray(grey[:, : rows * _BLOCK, :width]).reshape(n, -1, _BLOCK) @ _COSINES
    upright = np.ascontiguousarray(lines.reshape(n, rows, _BLOCK, width).swapaxes(2, 3))
    blocks = (upright.reshape(n, -1, _BLOCK) @ _COSINES).reshape(n, rows * columns, _BLOCK, _BLOCK)
    return _mean(_flat(np.abs(blocks[..., _DETAIL])))


def _energy(values: Images) -> Floats:
    """Root mean square of each row."""
    return np.sqrt(_mean(_flat(values) ** 2))


def _mean(flat: NDArray[np.generic]) -> Floats:
    return np.asarray(flat.mean(axis=1) if flat.shape[1] else np.zeros(len(flat)), np.float64)


def _flat(values: NDArray[np.float64]) -> Floats:
    return np.ascontiguousarray(values.reshape(len(values), -1))


FEATURES: tuple[str, ...] = (
    *(f"channel{part}_{name}" for part in range(_PARTS) for name in _OF_VALUES),
    *(f"thumbnail_{row}{column}" for row in range(_THUMBNAIL) for column in range(_THUMBNAIL)),
    *_texture(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1))),
)


@dataclass(frozen=True)
class Separation:
    """How well held-out scores tell two sets apart.

    ``low`` and ``high`` bound the ``auroc`` with 95 %; ``null_995`` is the one of the 999 AUROCs of permuted labels
    above which p <= 0.005; ``features`` are the columns that differ most, largest first, with the AUROC of each alone.
    """

    auroc: float
    low: float
    high: float
    p_value: float
    null_995: float
    features: dict[int, float]


def separation(features: Floats, is_own: Booleans, group: Integers, seed: int) -> Separation:
    """Tell apart by ridge regression of the label on normal scores of the features and their squares, in five folds.

    The AUROC is a mean over folds: held-out scores are compared within their fold and group. Its p-value comes from
    999 permutations of the labels within fold and group, each with all five fits done again: valid for every size
    and distribution, which tests that take cross-fitted scores for independent are not.

    Args:
        features: ``[n, f]``, finite.
        is_own: bool ``[n]``, which of the two sets; at least two of each.
        group: integers from 0, ``[n]``; both sets in every group.
        seed: of folds and permutations.

    Sources: Lopez-Paz and Oquab 2017 (classifier two-sample tests); Ojala and Garriga 2010 (permutation of a whole
    pipeline); LeDell et al. 2015 (interval of a cross-validated AUROC).
    """
    rng = np.random.default_rng(seed)
    z = _normal_scores(features, group)
    fold = _folds(is_own, group, rng)
    stratum = np.unique(np.stack([fold, group]), axis=1, return_inverse=True)[1].reshape(-1)
    strata = np.split(np.argsort(stratum, kind="stable"), np.cumsum(np.bincount(stratum))[:-1])
    labels = np.repeat(is_own[:, None].astype(np.float64), 1 + _PERMUTATIONS, axis=1)
    for rows in strata:
        labels[rows, 1:] = rng.permuted(labels[rows, 1:], axis=0)
    scores = _held_out(z, labels, fold, group)
    wins = np.zeros(1 + _PERMUTATIONS)
    # Of each sample: in how many of its pairs the submitted one scores higher, and how many pairs it has.
    won, met = np.zeros(len(z)), np.zeros(len(z))
    for rows in strata:
        own, first, ranks = is_own[rows], scores[rows, 0], stats.rankdata(scores[rows], axis=0)
        m = int(own.sum())
        wins += (ranks * labels[rows]).sum(axis=0) - m * (m + 1) / 2
        won[rows[own]] = ranks[own, 0] - stats.rankdata(first[own])
        won[rows[~own]] = m - ranks[~own, 0] + stats.rankdata(first[~own])
        met[rows] = np.where(own, len(rows) - m, m)
    pairs = met[is_own].sum()
    auroc, null = float(wins[0] / pairs), wins[1:] / pairs
    low, high = _interval(auroc, (won - auroc * met) / pairs, is_own)
    # Equal AUROCs may have been summed in another order.
    p_value = (1 + int((null >= auroc - 1e-9).sum())) / (1 + _PERMUTATIONS)
    differing = _differing(z[:, : features.shape[1]], is_own)
    return Separation(auroc, low, high, p_value, float(np.quantile(null, 0.995, method="higher")), differing)


def _normal_scores(features: Floats, group: Integers) -> Floats:
    """Normal scores of the features, then their squares, centred within groups; of variance 1, or all 0."""
    z = special.ndtri((stats.rankdata(features, axis=0) - 0.5) / len(features))
    z = np.concatenate([z, z**2], axis=1)
    total = np.zeros((int(group.max()) + 1, z.shape[1]))
    np.add.at(total, group, z)
    z -= (total / np.maximum(np.bincount(group), 1)[:, None])[group]
    spread = z.std(axis=0)
    return np.asarray(np.where(spread > 1e-6, z / np.maximum(spread, 1e-6), 0.0))


def _folds(is_own: Booleans, group: Integers, rng: np.random.Generator) -> Integers:
    """Both sides of each group are dealt out evenly, beginning with the same fold, so that they meet."""
    order = rng.permutation(len(group))
    cell = (2 * group + is_own)[order]
    order, cell = order[np.argsort(cell, kind="stable")], np.sort(cell)
    first = rng.integers(0, _FOLDS, int(group.max()) + 1)
    fold = np.empty(len(group), np.int64)
    fold[order] = (np.arange(len(cell)) - np.searchsorted(cell, cell) + first[cell // 2]) % _FOLDS
    return fold


def _held_out(z: Floats, labels: Floats, fold: Integers, group: Integers) -> Floats:
    """Each row's scores by the ridge regressions that were fitted to the other folds, one a column of labels."""
    share = np.bincount(group, labels[:, 0]) / np.maximum(np.bincount(group), 1)
    centred = labels - share[group][:, None]
    squares, products = z.T @ z, z.T @ centred
    scores = np.empty_like(labels)
    for k in range(_FOLDS):
        rows = fold == k
        held = z[rows]
        inner = squares - held.T @ held + _RIDGE * (~rows).sum() * np.eye(z.shape[1])
        scores[rows] = held @ (np.linalg.inv(inner) @ (products - held.T @ centred[rows]))
    return scores


def _interval(auroc: float, influence: Floats, is_own: Booleans) -> tuple[float, float]:
    """As :func:`amint.metrics.auroc_interval`, with the variance of a cross-validated AUROC."""
    own, other = influence[is_own], influence[~is_own]
    m = min(len(own), len(other))
    bound, spread = hoeffding_interval(auroc, m), auroc * (1 - auroc)
    if spread == 0:
        return bound.low, bound.high
    variance = sum(float((side**2).sum()) * len(side) / (len(side) - 1) for side in (own, other)) + spread / m**2
    reach = float(stats.t.isf(0.025, m - 1)) * math.sqrt(variance) / spread
    low, high = special.expit(special.logit(auroc) + np.array([-reach, reach]))
    return max(bound.low, float(low)), min(bound.high, float(high))


def _differing(z: Floats, is_own: Booleans) -> dict[int, float]:
    m, n = int(is_own.sum()), int((~is_own).sum())
    aurocs = (stats.rankdata(z, axis=0)[is_own].mean(axis=0) - (m + 1) / 2) / n
    return {int(i): float(aurocs[i]) for i in np.argsort(-np.abs(aurocs - 0.5), kind="stable")[:3]}
