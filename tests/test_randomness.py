import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from amint.randomness import Randomness


class Noisy(Dataset):
    """Rows with their number and one draw of each global generator."""

    def __len__(self):
        return 11

    def __getitem__(self, i):
        return torch.tensor([i, torch.rand(()), np.random.rand(), random.random()])  # noqa: NPY002


def generator():
    return torch.Generator().manual_seed(5)


def own_order():
    return RandomSampler(Noisy(), generator=generator())


LOADERS = {
    "in order": lambda: DataLoader(Noisy(), batch_size=3),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),
    "own generator": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True, generator=generator()),
    "own batches": lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(own_order(), 3, False)),
    "own sampler": lambda: DataLoader(Noisy(), batch_size=3, sampler=own_order()),
}
each = pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.normal(), random.random(), random.gauss(0, 1)  # noqa: NPY002


def kept(snapshot, path):
    torch.save(snapshot.to_state(), path)
    return Randomness.from_state(torch.load(path, weights_only=True))


def test_what_is_drawn_after_restoring_repeats_what_was_drawn_after_the_snapshot(tmp_path):
    seed_all(1)
    draws()
    snapshot = kept(Randomness.now([]), tmp_path / "state.pt")
    expected = draws()
    assert draws() != expected
    seed_all(2)
    snapshot.restore([])
    assert draws() == expected


@each
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_restarted_loop_sees_the_rows_of_an_uninterrupted_one(make, epochs, tmp_path):
    seed_all(3)
    loader = make()
    for _ in range(epochs):
        torch.cat(list(loader))
    snapshot = kept(Randomness.now(loader), tmp_path / "state.pt")
    expected = [torch.cat(list(loader)) for _ in range(2)]
    assert not torch.equal(*expected)

    seed_all(4)
    loader = make()
    snapshot.restore(loader)
    assert all(torch.equal(torch.cat(list(loader)), rows) for rows in expected)


def test_collections_of_loaders(tmp_path):
    def make():
        return {"a": LOADERS["own generator"](), "b": [LOADERS["shuffled"](), LOADERS["own sampler"]()]}

    def epoch(loaders):
        return [torch.cat(list(loader)) for loader in (loaders["a"], *loaders["b"])]

    seed_all(3)
    loaders = make()
    epoch(loaders)
    snapshot = kept(Randomness.now(loaders), tmp_path / "state.pt")
    assert len(snapshot.loaders) == 2
    expected = epoch(loaders)
    seed_all(4)
    loaders = make()
    snapshot.restore(loaders)
    assert all(map(torch.equal, epoch(loaders), expected))


def test_a_generator_shared_by_loader_and_sampler_is_kept_once():
    shared = generator()
    loader = DataLoader(Noisy(), sampler=RandomSampler(Noisy(), generator=shared), generator=shared)
    assert len(Randomness.now([loader, loader]).loaders) == 1
    assert Randomness.now(None).loaders == []
