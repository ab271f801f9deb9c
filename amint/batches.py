"""Reading inputs out of whatever a loader yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from amint.errors import UsageError

__all__ = ["Source", "batches_of", "input_batches", "inputs_of", "is_map_style", "refuse_generator"]

Source: TypeAlias = Tensor | Dataset[Any] | Iterable[Any]


def inputs_of(batch: Any) -> Tensor:
    """The input tensor ``[n, ...]`` of one batch: the batch itself, its first element, or its first tensor by name.

    Raises:
        UsageError: there is no tensor in it.
    """
    if isinstance(batch, Tensor):
        return batch
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
    return tensors[0]


def input_batches(source: Source, batch_size: int = 256) -> Iterator[Tensor]:
    """Input batches ``[n, ...]`` of a loader, a dataset or one tensor of rows, in order, labels dropped.

    Raises:
        UsageError: the source is nothing that yields batches.
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
        UsageError: the source is nothing that yields batches.
    """
    rows: Any = TensorDataset(source) if isinstance(source, Tensor) else source
    if isinstance(rows, IterableDataset) or is_map_style(rows):
        # With a generator of its own a loader draws nothing from the global one.
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        shuffle = shuffle_seed is not None and is_map_style(rows) and len(rows) > 0
        return DataLoader(rows, batch_size, shuffle=shuffle, generator=generator)
    if not isinstance(source, Iterable):
        raise UsageError(
            f"expected a DataLoader, a dataset with a length, a tensor of rows or an iterable of batches, got "
            f"{type(source).__name__}"
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
    return indexed and not isinstance(source, DataLoader | IterableDataset)
