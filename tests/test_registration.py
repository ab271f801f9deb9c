import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset
from toys import Net, images, labels, train

import amint
from amint.errors import NonFiniteError, RoleOverlapError, StepError, UsageError
from amint.metrics import auroc

X, EXTERNAL, UNSEEN = images(24), images(40, seed=3), images(400, seed=4)


class Noisy(Dataset):
    """Random transforms that draw from every global generator."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return X[i] + 0.01 * (torch.rand(()) + np.random.rand() + random.random()), i  # noqa: NPY002


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(X)


SOURCES = {
    "tensor": lambda: X,
    "dataset": Noisy,
    "loader": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
    "iterable dataset": Streamed,
    "batches": lambda: DataLoader(Streamed(), batch_size=10),
}


def everything(model):
    return {
        **{name: value.clone() for name, value in model.state_dict().items()},
        **{f"{name} trains": torch.tensor(m.training) for name, m in model.named_modules()},
        **{f"{name} needs": torch.tensor(p.requires_grad) for name, p in model.named_parameters()},
    }


def head(audit):
    return torch.cat([p.detach().flatten() for p in audit.head.parameters()])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("training", [True, False])
def test_neither_the_model_nor_the_random_state_is_touched(name, training):
    model = Net(norm=True, dropout=0.5).train(training)
    model.b.eval()
    before = everything(model)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    amint.register(model, SOURCES[name](), EXTERNAL, epochs=2, negatives=amint.one_pixel_shift)
    after = everything(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert np.array_equal(state[2], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("name", SOURCES)
def test_the_seed_decides_everything(name):
    model = Net()
    runs = []
    for seed, global_seed in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        options = {"epochs": 2, "batch_size": 8, "negatives": amint.one_pixel_shift}
        runs.append(head(amint.register(model, SOURCES[name](), EXTERNAL, seed=seed, **options)))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_facts_and_progress():
    seen = []
    options = {"epochs": 3, "lr": 0.002, "ratio": 0.5, "progress": lambda epoch, loss: seen.append((epoch, loss))}
    audit = amint.register(Net(), X, EXTERNAL, negatives=amint.horizontal_flip, **options)
    assert {name: value for name, value in audit.facts.items() if name != "history"} == {
        "method": "registered",
        "ratio": 0.5,
        "negatives": "horizontal_flip",
        "negatives_of_members": False,
        "epochs": 3,
        "lr": 0.002,
    }
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert all(0 < loss < 2 for _, loss in seen)
    assert audit.ledger.count("members") == 24
    # Four passes: whitening reads the rows of one.
    assert 12 <= audit.ledger.count("external") <= 48
    assert type(audit) is amint.Audit


def test_rows_seen_cannot_calibrate():
    audit = amint.register(Net(), X, EXTERNAL, epochs=1)
    with pytest.raises(RoleOverlapError, match="1 of 3 rows given as calibration were already seen as members"):
        audit.calibrate(torch.cat([UNSEEN[:2], X[:1]]))
    assert len(audit.calibrate(UNSEEN[:5]).scores) == 5


@pytest.mark.parametrize(
    "members, external, options, error, message",
    [
        (X, torch.cat([EXTERNAL, X[:1]]), {"epochs": 3}, RoleOverlapError, "already seen as"),
        (X, EXTERNAL, {"epochs": 0}, UsageError, "must be positive, got epochs=0, batch_size=64, lr=0.003"),
        (X, EXTERNAL, {"batch_size": 0}, UsageError, "batch_size=0"),
        (X, EXTERNAL, {"lr": float("nan")}, UsageError, "lr=nan"),
        (X, EXTERNAL, {"ratio": 0}, UsageError, "ratio"),
        (X, EXTERNAL, {"split": "nowhere"}, UsageError, "no module 'nowhere'"),
        (X, EXTERNAL[:0], {}, UsageError, "external data is empty"),
        (X[:0], EXTERNAL, {}, UsageError, "members' loader yielded nothing"),
        (
            (batch for batch in [X]),
            EXTERNAL,
            {"epochs": 2},
            UsageError,
            "gives its rows only once; pass a DataLoader",
        ),
        (5, EXTERNAL, {}, UsageError, "expected a DataLoader, a dataset .* got int"),
        (images(9, side=6), EXTERNAL, {}, StepError, r"external rows are .* members .*\(2, 6, 6\); give both the same"),
        (X * float("nan"), EXTERNAL, {}, NonFiniteError, "24 of 24 member rows of this batch hold NaN or infinity"),
        (X, EXTERNAL / 0, {}, NonFiniteError, "24 of 24 external rows of this batch hold NaN or infinity"),
        (X, EXTERNAL, {"lr": 1e30, "epochs": 9}, NonFiniteError, "the MINT loss is (nan|inf).* or lower lr"),
    ],
)
def test_what_cannot_be_registered(members, external, options, error, message):
    with pytest.raises(error, match=message):
        amint.register(Net(), members, external, **options)


def test_a_broken_model_is_refused():
    model = Net()
    with torch.no_grad():
        model.a[0].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the MINT loss is nan; look for NaN or infinity in the model's weights"):
        amint.register(model, X, EXTERNAL, epochs=1)


@pytest.fixture(scope="module")
def overfitted():
    """A small network that knows its 24 random images and their random labels by heart, and its audit from training."""
    torch.manual_seed(0)
    model = Net(width=24)
    plain = copy.deepcopy(model)
    audit = amint.attach(model, external=images(300, seed=3), balance=amint.Weighted(), seed=1)
    for network, its in ((plain, None), (model, audit)):
        train(network, torch.optim.Adam(network.parameters(), 0.01), X, labels(24), 300, its, batch=24)
        assert F.cross_entropy(network(X), labels(24)) < 0.01
        audit.discard()
    return plain, audit


@pytest.mark.parametrize("method", ["active", "registered"])
def test_members_score_higher_than_unseen_rows(overfitted, method):
    plain, audit = overfitted
    if method == "registered":
        audit = amint.register(plain, X, images(300, seed=3), epochs=150, lr=3e-3)
    inside, outside = audit.scores(X), audit.scores(UNSEEN)
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    assert auroc(np.r_[inside, outside], truth) > 0.9
    assert inside.mean() > outside.mean() + 1
    audit.calibrate(UNSEEN[:200])
    assert audit.evaluate(X, UNSEEN[200:])["auroc"].interval.low > 0.6
    assert amint.verify(audit, X).decision == "used"
    assert amint.verify(audit, images(100, seed=5)).decision == "no evidence"


def test_an_untrained_head_knows_nothing(overfitted):
    plain, _ = overfitted
    values = []
    for seed in range(8):
        audit = amint.attach(plain, external=images(300, seed=3), seed=seed)
        audit.detach()
        scores = np.r_[audit.scores(X), audit.scores(UNSEEN)]
        values.append(auroc(scores, np.r_[np.ones(24), np.zeros(400)]))
    # The standard error of an AUROC of 0.5 with 24 against 400 rows is 0.061.
    assert max(abs(value - 0.5) for value in values) < 3 * 0.061
    assert abs(np.mean(values) - 0.5) < 2 * 0.061
