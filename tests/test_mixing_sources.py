"""Sources that fail, and sources in worker processes."""

import multiprocessing

import pytest
import torch
from stream_toys import ROWS, Noisy, NoisyStream, drawn, stack
from torch.utils.data import DataLoader, Dataset, TensorDataset

import amint
from amint.errors import UsageError
from amint.external import ExternalStream

WORKERS = {
    "indexed": lambda: DataLoader(Noisy(), batch_size=5, collate_fn=stack, num_workers=2),
    "streamed": lambda: DataLoader(NoisyStream(), batch_size=5, num_workers=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
def test_detaching_ends_the_worker_processes(name):
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    collate = (lambda items: torch.stack([item["image"] for item in items])) if name == "indexed" else None
    source = Noisy() if name == "indexed" else NoisyStream()
    audit = amint.attach(model, external=DataLoader(source, num_workers=2, collate_fn=collate), split="0")
    model(torch.randn(5, 4))
    assert len(multiprocessing.active_children()) == 2
    audit.detach()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
@pytest.mark.parametrize("position", [0, 13, 57])
def test_a_resumed_stream_with_worker_processes_goes_on_identically(name, position):
    stream = ExternalStream(WORKERS[name](), seed=2)
    if position:
        stream.take(position)
    resumed = ExternalStream(WORKERS[name](), seed=2)
    resumed.load_state_dict(stream.state_dict())
    assert torch.equal(resumed.take(40), stream.take(40))


@pytest.mark.slow
def test_worker_processes_change_nothing():
    here = DataLoader(Noisy(), batch_size=5, collate_fn=stack)
    assert torch.equal(ExternalStream(here).take(60), ExternalStream(WORKERS["indexed"]()).take(60))


@pytest.mark.parametrize(
    "source, message",
    [
        (torch.empty(0, 3), "external data is empty.*0 rows for 1"),
        (TensorDataset(torch.empty(0, 3)), "external data is empty"),
        (DataLoader(TensorDataset(torch.empty(0, 3))), "external data is empty"),
        ((batch for batch in [ROWS]), "generator, which gives its rows only once; pass a DataLoader or a dataset"),
        (iter(DataLoader(TensorDataset(ROWS))), "only once"),
        (None, "expected a DataLoader, a dataset .* got NoneType"),
        (map, "expected a DataLoader, a dataset .* got type"),
        ([["no", "tensor"]], "yielded list; expected a tensor of inputs"),
        (DataLoader(NoisyStream(), batch_sampler=None, batch_size=None, collate_fn=lambda item: 5), "yielded int"),
        (
            [torch.zeros(3), torch.zeros(4)],
            "reading the external data failed: stack expects each tensor.* of one shape",
        ),
        ([None, None], "reading the external data failed: .*found <class 'NoneType'>"),
    ],
)
def test_unusable_sources(source, message):
    with pytest.raises(UsageError, match=message):
        ExternalStream(source).take(3)


class Emptied:
    """Yields its rows in the first pass only."""

    def __init__(self):
        self.batches = [ROWS]

    def __iter__(self):
        while self.batches:
            yield self.batches.pop()


@pytest.mark.parametrize("source, k", [(Emptied(), 24), (DataLoader(NoisyStream(), batch_size=30, drop_last=True), 1)])
def test_a_source_that_runs_dry(source, k):
    with pytest.raises(UsageError, match=r"yielded nothing; it must give rows each time .*pass a DataLoader or a data"):
        ExternalStream(source).take(k)


def test_rows_of_different_shapes():
    class Ragged:
        def __iter__(self):
            yield from (torch.zeros(2, 3), torch.zeros(2, 4))

    with pytest.raises(UsageError, match=r"rows of different shapes \[\(3,\), \(4,\)\]; resize them alike"):
        ExternalStream(Ragged()).take(3)


class Flaky(Dataset):
    """The first attempt to read row 3 fails."""

    failures = 1

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 3 and self.failures:
            self.failures -= 1
            raise OSError("disk busy")
        return ROWS[i]


def test_a_failure_is_explained_and_can_be_tried_again():
    stream = ExternalStream(DataLoader(Flaky(), batch_size=2))
    expected = drawn(ExternalStream(ROWS[:8]), 8)
    before = expected.index(3) // 2 * 2
    found = drawn(stream, *([before] if before else []))
    with pytest.raises(UsageError, match="reading the external data failed: disk busy"):
        stream.take(8 - before)
    assert found + drawn(stream, 8 - before) == expected


@pytest.mark.parametrize("rank, world, reserve", [(2, 2, 0), (-1, 2, 0), (0, 0, 0), (0, 1, -3)])
def test_ranks_out_of_range(rank, world, reserve):
    with pytest.raises(UsageError, match=f"0 <= rank < world.*rank={rank}, world={world}, reserve={reserve}"):
        ExternalStream(ROWS, 0, rank, world, reserve)


def test_fewer_rows_than_processes():
    with pytest.raises(UsageError, match="fewer rows than there are processes: 2 rows for 3"):
        ExternalStream(ROWS[:2], rank=0, world=3)
