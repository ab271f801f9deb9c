import gc
import random
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_toys import ROWS, Noisy, NoisyStream, drawn, stack
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from amint.external import ExternalStream


class Sized(NoisyStream):
    def __len__(self):
        return len(ROWS)


class Batches:
    """A plain iterable that can be iterated over again, shuffled anew each time."""

    def __iter__(self):
        for part in torch.randperm(len(ROWS)).split(4):
            yield torch.rand(len(part), 2).add(ROWS[part, :1])


SOURCES = {
    "tensor": lambda: ROWS,
    "dataset": Noisy,
    "loader": lambda: DataLoader(Noisy(), batch_size=5, collate_fn=stack),
    "iterable": Batches,
    "iterable dataset": NoisyStream,
    "loader over iterable dataset": lambda: DataLoader(NoisyStream(), batch_size=6),
    "loader over sized iterable dataset": lambda: DataLoader(Sized(), batch_size=6),
    "loader with its own sampler": lambda: DataLoader(Noisy(), batch_size=5, sampler=SubsetRandomSampler(range(20))),
    "loader without batches": lambda: DataLoader(TensorDataset(ROWS.view(-1, 1, 3)), batch_size=None),
}
shuffled = pytest.mark.parametrize("name", ["tensor", "dataset", "loader"])
each = pytest.mark.parametrize("name", SOURCES)


@each
def test_every_row_comes_once_a_pass(name):
    stream = ExternalStream(SOURCES[name]())
    n = 20 if "sampler" in name else 23
    passes = [drawn(stream, n // 2, n - n // 2) for _ in range(4)]
    assert all(sorted(a_pass) == list(range(n)) for a_pass in passes)
    reordered = {"tensor", "dataset", "loader", "iterable", "loader with its own sampler"}
    assert len(set(map(tuple, passes))) == (4 if name in reordered else 1)


@each
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_the_order_does_not_depend_on_the_step_sizes(name, sizes):
    one, other = ExternalStream(SOURCES[name](), seed=3), ExternalStream(SOURCES[name](), seed=3)
    assert torch.equal(one.take(sum(sizes)), torch.cat([other.take(k) for k in sizes]))


@shuffled
def test_the_seed_orders_the_passes(name):
    orders = [drawn(ExternalStream(SOURCES[name](), seed), 50) for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


@each
@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 120), k=st.integers(1, 60))
def test_a_resumed_stream_goes_on_identically(name, position, k):
    stream = ExternalStream(SOURCES[name](), seed=2)
    if position:
        stream.take(position)
    state = stream.state_dict()
    resumed = ExternalStream(SOURCES[name](), seed=2)
    resumed.take(7)
    resumed.load_state_dict(state)
    expected = stream.take(k)
    assert torch.equal(resumed.take(k), expected)
    resumed.load_state_dict(state)
    one = resumed.take(1)
    resumed.release()
    assert torch.equal(torch.cat([one, resumed.take(k)])[:k], expected)


@each
def test_nothing_of_a_stream_waits_for_the_garbage_collector(name):
    gc.disable()
    try:
        stream = ExternalStream(SOURCES[name]())
        stream.take(3)
        iterator = weakref.ref(stream._batches)
        del stream
        assert iterator() is None
    finally:
        gc.enable()


@each
def test_the_global_random_state_is_neither_changed_nor_read(name):
    taken = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
        stream = ExternalStream(SOURCES[name](), reserve=4)
        stream.example()
        taken.append(stream.take(90))
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1]
        assert np.array_equal(before[2], after[2])
    assert torch.equal(*taken)


@pytest.mark.parametrize("name", ["dataset", "iterable dataset"])
def test_random_transforms_are_drawn_anew(name):
    rows = ExternalStream(SOURCES[name]()).take(230)
    assert [len(column.unique()) for column in rows.T] == [23, 230, 230, 230]


@each
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_rank_shards_are_disjoint_and_cover_everything(name, world):
    n = 20 if "sampler" in name else 23
    shards = [ExternalStream(SOURCES[name](), 1, rank, world) for rank in range(world)]
    for _ in range(3):
        counts = Counter()
        for rank, shard in enumerate(shards):
            counts.update(drawn(shard, len(range(rank, n, world))))
        assert counts == dict.fromkeys(range(n), 1)


@shuffled
@pytest.mark.parametrize("world", [1, 2])
def test_reserved_rows_never_appear(name, world):
    shards = [ExternalStream(SOURCES[name](), 1, rank, world, reserve=8) for rank in range(world)]
    kept = {int(i) for batch in shards[0].reserved for i in (batch["image"] if name == "dataset" else batch[0])[:, 0]}
    assert len(kept) == shards[0].n_reserved == 8
    assert {i for shard in shards for i in drawn(shard, 100)} == set(range(23)) - kept
    assert ExternalStream(SOURCES[name](), reserve=1000).n_reserved == 11


def test_iterables_keep_no_rows_back():
    assert ExternalStream(Batches(), reserve=5).reserved is None


def test_a_sampler_that_shards_for_itself_is_not_sharded_twice():
    sampler = DistributedSampler(Noisy(), num_replicas=2, rank=1)
    stream = ExternalStream(DataLoader(Noisy(), batch_size=4, sampler=sampler), rank=1, world=2)
    assert len(set(drawn(stream, 11))) == 11


@pytest.mark.parametrize("k", [1, 2])
def test_an_example_does_not_advance_the_stream(k):
    stream = ExternalStream(ROWS)
    assert torch.equal(stream.example(k), ExternalStream(ROWS).take(k))
    assert stream.state_dict() == {"taken": 0}
    assert drawn(stream, 23) == drawn(ExternalStream(ROWS), 23)
