from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from amint.batches import batches_of, input_batches, inputs_of, is_map_style
from amint.errors import UsageError

X = torch.arange(14.0).view(7, 2)


class Named(Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, i):
        return {"name": f"row {i}", "image": X[i], "label": i}


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(X)


class SizedStream(Streamed):
    def __len__(self):
        return 7


class Endless:
    def __getitem__(self, i):
        return X[i]


SOURCES = {
    "tensor": X,
    "labelled dataset": TensorDataset(X, torch.arange(7)),
    "named dataset": Named(),
    "loader": DataLoader(TensorDataset(X, torch.arange(7)), batch_size=3),
    "iterable dataset": Streamed(),
    "sized iterable dataset": SizedStream(),
    "loader over iterable dataset": DataLoader(SizedStream(), batch_size=3),
    "list of rows": list(X),
    "array of rows": X.numpy(),
    "batches": (X[i : i + 3] for i in (0, 3, 6)),
}


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, 1),
        [X],
        (X, X + 1),
        {"label": 3, "image": X, "more": X + 1},
        UserDict(image=X),
    ],
)
def test_the_inputs_of_a_batch(batch):
    assert torch.equal(inputs_of(batch), X)


@pytest.mark.parametrize("batch", [None, 3, "text", [], ("a", X), {}, {"label": 3}, np.zeros(3), [np.zeros(3)]])
def test_a_batch_without_inputs(batch):
    with pytest.raises(UsageError, match=f"a loader yielded {type(batch).__name__}; expected a tensor of inputs"):
        inputs_of(batch)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_its_rows_in_order_and_no_random_number_is_drawn(source):
    before = torch.get_rng_state()
    rows = torch.cat(list(input_batches(source, batch_size=4)))
    assert torch.equal(rows, X)
    if not isinstance(source, DataLoader):
        assert torch.equal(before, torch.get_rng_state())


@settings(deadline=None)
@given(n=st.integers(0, 30), size=st.integers(1, 40))
def test_batches_have_the_size_asked_for(n, size):
    sizes = [len(batch) for batch in input_batches(torch.zeros(n, 2), size)]
    assert sizes == [size] * (n // size) + ([n % size] if n % size else [])


@pytest.mark.parametrize("source", [X, TensorDataset(X), Named()])
def test_shuffled_anew_each_time_and_by_its_seed(source):
    def orders(seed):
        batches = batches_of(source, 3, shuffle_seed=seed)
        return [[int(i) for batch in batches for i in inputs_of(batch)[:, 0]] for _ in range(3)]

    before = torch.get_rng_state()
    first = orders(1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(sorted(order) == X[:, 0].tolist() for order in first)
    assert len(set(map(tuple, first))) == 3
    assert first == orders(1) != orders(2)


def test_what_is_iterated_over_is_not_shuffled():
    assert torch.equal(torch.cat(list(batches_of(Streamed(), 2, shuffle_seed=1))), X)


@pytest.mark.parametrize("source", [None, 5, object(), Endless(), "some/folder", Path("some/folder")])
def test_what_yields_no_batches(source):
    message = f"expected a DataLoader, a dataset with a length, a tensor of rows or .* got {type(source).__name__}"
    with pytest.raises(UsageError, match=message):
        list(input_batches(source))


def test_map_style():
    styles = {name: is_map_style(source) for name, source in SOURCES.items() if name != "tensor"}
    assert [name for name, indexed in styles.items() if indexed] == [
        "labelled dataset",
        "named dataset",
        "list of rows",
        "array of rows",
    ]
