"""Heads that learn apart, from attaching to a verdict."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amint
from amint.errors import NonFiniteError
from amint.metrics import auroc

TWO = amint.HeadSize(hidden=16, ensemble=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


def rows(n, seed):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def external():
    return DataLoader(TensorDataset(rows(64, 1)), batch_size=16)


def attached(size=TWO, **options):
    model = network()
    return model, amint.attach(model, split=["1"], external=external(), head=size, seed=3, **options)


def step(model, audit, x):
    audit.loss(F.cross_entropy(model(x), torch.arange(len(x)) % 3)).backward()


def test_a_step_teaches_every_head_and_the_network_the_mean_of_their_gradients():
    x = rows(12, 0)
    model, audit = attached(balance=amint.Weighted(mint=1))
    step(model, audit, x)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in audit.head.parameters())
    # Each head by itself, on the same network and rows.
    model, pair = attached(balance=amint.Weighted(mint=1))
    singles = []
    for which in range(2):
        alone, one = attached(amint.HeadSize(hidden=16), balance=amint.Weighted(mint=1))
        source = pair.head if which == 0 else pair.head.others[0]
        own = dict(source.named_parameters())
        for name, p in one.head.named_parameters():
            p.data.copy_(own[name].data)
        step(alone, one, x)
        singles.append([alone[0].weight.grad, alone[0].bias.grad])
    step(model, pair, x)
    for p, first, second in zip([model[0].weight, model[0].bias], *singles, strict=True):
        torch.testing.assert_close(p.grad, (first + second) / 2)


def test_an_ensemble_is_trained_saved_and_loaded_whole(tmp_path):
    model, audit = attached()
    before = copy.deepcopy(audit.head.state_dict())
    step(model, audit, rows(12, 0))
    audit.train_head(rows(12, 0), epochs=2, batch_size=4)
    changed = {name for name, value in audit.head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)
    audit.calibrate(rows(40, 2))
    audit.save(tmp_path / "model.amint", architecture=amint.Architecture("import", f"{__name__}:network"))
    loaded = amint.load(tmp_path / "model.amint", model=network())
    assert loaded.head.config.ensemble == 2
    np.testing.assert_allclose(loaded.scores(rows(9, 4)), audit.scores(rows(9, 4)), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_ensemble_knows_strangers_better_than_one_head(seed):
    """Members and strangers are of one kind, and few: what a head makes of those it has not seen is half chance."""
    members, others, unseen = rows(120, 10 * seed + 10), rows(120, 10 * seed + 11), rows(400, 10 * seed + 12)
    labels, found = np.arange(520) < 120, {}
    for ensemble in (1, 8):
        size = amint.HeadSize(hidden=32, ensemble=ensemble)
        loader = DataLoader(TensorDataset(others), batch_size=30)
        audit = amint.register(network(), members, loader, split=["1"], epochs=30, lr=3e-3, head=size, seed=seed)
        found[ensemble] = auroc(np.r_[audit.scores(members), audit.scores(unseen)], labels)
    assert found[8] > found[1] + 0.015


def test_the_row_that_broke_an_ensemble_is_named():
    model, audit = attached()
    x = rows(12, 0)
    with torch.no_grad():
        audit.head.others[0].join[2].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="member row 0, member row 1, member row 2"):
        step(model, audit, x)
