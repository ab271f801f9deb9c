"""Reading inputs out of whatever a loader yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from amint.errors import UsageError

__all__ = ["Source", "batches_of", "input_batches", "inputs_of", "is_map_style", "refuse_generator"]

Source: TypeAlias = Tensor | Dataset[Any] | Iterable[Any]


def inputs_of(batch: Any) -> Tensor:
    """The input tensor ``[n, ...]`` of one batch: the batch itself, its first element, or its first tensor by name.

    Raises:
        UsageError: there is no tensor in it, or a single number.
    """
    if isinstance(batch, Tensor):
        return _with_rows(batch)
    if isinstance(batch, Mapping):
        values: list[Any] = list(batch.values())
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        values = list(batch[:1])
    else:
        values = []
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        raise UsageError(
            f"a loader yielded {type(batch).__name__}; expected a tensor of inputs, a tuple that starts with one, "
            "or a mapping that holds one"
        )
    return _with_rows(tensors[0])


def input_batches(source: Source, batch_size: int = 256) -> Iterator[Tensor]:
    """Input batches ``[n, ...]`` of a loader, a dataset or one tensor of rows, in order, labels dropped.

    Raises:
        UsageError: the source is nothing that yields batches of inputs.
    """
    for batch in batches_of(source, batch_size):
        yield inputs_of(batch)


def batches_of(source: Source, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Any]:
    """Loaders and other iterables of batches as they are; datasets and tensors of rows cut into batches.

    Args:
        source: a list or another sequence counts as a dataset of rows.
        batch_size: of the batches made here.
        shuffle_seed: shuffle what has an index anew each time it is iterated over.

    Raises:
        UsageError: the source is nothing that yields batches, or ``batch_size`` is below 1; while iterating: rows that
            are no numbers, or of different shapes.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number of at least 1, found {batch_size!r}")
    # Numbered rows under the keys 0, 1, ... are a dataset.
    if isinstance(source, Mapping) and 0 not in source:
        raise UsageError(
            f"expected a DataLoader, a dataset, a tensor of rows or an iterable of batches, found one "
            f"{type(source).__name__} with the keys {[*source][:5]}; pass the inputs in it, a tensor [n, ...]"
        )
    rows: Any = TensorDataset(_with_rows(source)) if isinstance(source, Tensor) else source
    if isinstance(rows, IterableDataset) or is_map_style(rows):
        # With a generator of its own a loader draws nothing from the global one.
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        shuffle = shuffle_seed is not None and is_map_style(rows) and len(rows) > 0
        return DataLoader(rows, batch_size, shuffle=shuffle, generator=generator, collate_fn=_joined)
    if isinstance(source, str) or not isinstance(source, Iterable):
        raise UsageError(
            f"expected a DataLoader, a dataset with a length, a tensor of rows or an iterable of batches, got "
            f"{type(source).__name__}; files are amint.ImageFiles(path, preprocessing)"
        )
    return source


def refuse_generator(role: str, source: Source) -> None:
    """Refuse data that must be read more than once and can be read only once.

    Raises:
        UsageError: it is a generator, or another iterator.
    """
    if isinstance(source, Iterator):
        raise UsageError(
            f"the {role} data is a generator, which gives its rows only once; pass a DataLoader or a dataset"
        )


def is_map_style(source: Any) -> bool:
    """A dataset that is indexed, as opposed to one that is only iterated over."""
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return indexed and not isinstance(source, DataLoader | IterableDataset | str)


def _with_rows(x: Tensor) -> Tensor:
    if x.ndim == 0:
        raise UsageError("expected inputs, a tensor [n, ...] of n rows, found a tensor that is a single number")
    return x


def _joined(rows: list[Any]) -> Any:
    try:
        return default_collate(rows)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"the rows do not make a batch: {error}. Expected preprocessed inputs, tensors of one shape; turn images "
            "into them with amint.Preprocessing, or submit image files by their path"
        ) from error
