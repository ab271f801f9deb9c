import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_toys import BENIGN, Plain, active_mint, loader, trainer
from sklearn.metrics import balanced_accuracy_score
from toys import Net, images, labels, train

import amint
from amint.bundle import read
from amint.errors import UsageError
from amint.history import Curves, History, balanced_accuracy

X, Y, EXTERNAL, UNSEEN = images(48), labels(48), images(64, seed=3), images(60, seed=5)
NAMES = ("mint_loss", "mint_accuracy", "task_loss")


def steps_of(n, seed=0):
    return np.random.default_rng(seed).exponential(size=(n, 3))


def record(history, rows):
    for row in rows:
        history.add(**dict(zip(NAMES, torch.from_numpy(row), strict=True)))
    return history


@pytest.mark.parametrize("n", [1, 2, 499, 500, 501, 999, 1000, 1001, 2500, 7777])
def test_points_are_the_means_of_equal_stretches_and_few(n):
    rows = steps_of(n)
    curves = record(History(), rows).curves()
    assert curves.steps == n
    stretches = [rows[start : start + curves.stride] for start in range(0, n, curves.stride)]
    assert min(n, 250) <= len(stretches) <= 500
    for column, name in enumerate(NAMES):
        expected = [stretch[:, column].mean() for stretch in stretches]
        np.testing.assert_allclose(getattr(curves, name), expected, rtol=1e-13)
    steps = np.arange(1, n + 1)
    middles = [steps[start : start + curves.stride].mean() for start in range(0, n, curves.stride)]
    np.testing.assert_allclose(curves.middles, middles)


@pytest.mark.parametrize("stop", [0, 1, 333, 500, 1001, 1499])
def test_stopping_anywhere_and_resuming_changes_not_one_bit(stop):
    rows = steps_of(1500)
    stopped = record(History(), rows[:stop])
    resumed = History()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert record(resumed, rows[stop:]).state_dict() == record(History(), rows).state_dict()
    assert record(stopped, rows[stop:]).curves() == resumed.curves()


def test_a_long_run_takes_no_more_room_than_a_short_one():
    short, long = (record(History(), steps_of(n)) for n in (499, 6000))
    for form in (lambda h: h.state_dict(), lambda h: h.facts()):
        assert len(json.dumps(form(long))) <= 1.1 * len(json.dumps(form(short))) < 50_000


def test_half_precision_and_gradients_are_taken_as_they_are():
    history = History()
    task = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    history.add(mint_loss=torch.tensor(2.0, dtype=torch.float16), mint_accuracy=torch.tensor(0.5), task_loss=task)
    assert history.curves() == Curves(1, 1, (2.0,), (0.5,), (1.0,))
    assert task.grad is None


def test_a_task_loss_that_a_balance_of_ones_own_lets_pass_is_left_out():
    history = record(History(), [np.array([0.5, 0.6, np.nan]), np.ones(3)])
    assert history.curves() == Curves(2, 1, (0.5, 1.0), (0.6, 1.0))


def test_nothing_before_the_first_step():
    assert History().curves() is None
    assert History().facts() == {}


@pytest.mark.parametrize("task", [True, False])
def test_curves_come_back_from_json(task):
    curves = Curves(5, 2, (1.0, 2.0, 3.0), (0.5, 0.6, 0.7), (1.0, 1.5, 0.0) if task else None)
    assert Curves.from_json(json.loads(json.dumps(curves.to_json()))) == curves


GOOD = {"steps": 3, "stride": 2, "mint_loss": [1.0, 0.5], "mint_accuracy": [0.5, 1.0]}


@pytest.mark.parametrize(
    "wrong",
    [
        None, 3, "curves", [], {}, GOOD | {"steps": 5}, GOOD | {"steps": 0}, GOOD | {"stride": 0},
        GOOD | {"steps": 3.0}, GOOD | {"steps": True}, GOOD | {"mint_loss": [1.0]},
        GOOD | {"steps": 10**400, "stride": 5 * 10**399},
        GOOD | {"mint_loss": [1.0, "x"]}, GOOD | {"mint_loss": [1.0, None]}, GOOD | {"mint_loss": None},
        GOOD | {"mint_loss": [1.0, float("nan")]}, GOOD | {"task_loss": []}, GOOD | {"other": [1.0, 2.0]},
        {name: value for name, value in GOOD.items() if name != "mint_loss"},
    ],
)  # fmt: skip
def test_anything_else_is_refused(wrong):
    assert Curves.from_json(GOOD).steps == 3
    with pytest.raises(UsageError):
        Curves.from_json(wrong)


def test_balanced_accuracy_is_the_usual_one():
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0))
    logits[3] = logits[20] = 0
    for members in (1, 7, 39):
        truth = np.arange(40) < members
        expected = balanced_accuracy_score(truth, logits.numpy() > 0)
        assert balanced_accuracy(logits, members).item() == pytest.approx(expected, abs=1e-15)


def attached(seed=0, **options):
    torch.manual_seed(seed)
    model = Net()
    audit = amint.attach(model, split="a", external=EXTERNAL, balance=amint.Weighted(mint=1), **options)
    return model, audit, torch.optim.Adam(model.parameters(), 0.01)


def test_a_training_run_records_the_losses_of_its_steps():
    model, audit, optimizer = attached()
    seen = []
    for step in range(5):
        train(model, optimizer, X, Y, 1, audit, start=step)
        seen.append((audit.last.mint.item(), audit.last.task.item()))
    curves = audit.history.curves()
    assert list(zip(curves.mint_loss, curves.task_loss, strict=True)) == seen
    assert all(0 <= value <= 1 for value in curves.mint_accuracy)
    assert (curves.steps, curves.stride) == (5, 1)


def test_the_accuracy_is_that_of_the_heads_own_logits():
    model, audit, optimizer = attached()
    train(model, optimizer, X, Y, 60, audit)
    assert np.mean(audit.history.curves().mint_accuracy[-5:]) > np.mean(audit.history.curves().mint_accuracy[:5]) + 0.1


def test_the_bundle_holds_the_curves_and_keeps_them_when_it_is_saved_again(tmp_path):
    model, audit, optimizer = attached()
    train(model, optimizer, X, Y, 7, audit)
    audit.calibrate(UNSEEN)
    first = audit.save(tmp_path / "a.amint")
    assert Curves.from_json(read(first).manifest["facts"]["history"]) == audit.history.curves()
    again = amint.load(first, model=Net()).save(tmp_path / "b.amint")
    assert read(again).manifest["facts"]["history"] == read(first).manifest["facts"]["history"]


def test_a_resumed_run_has_the_history_of_one_that_never_stopped():
    model, audit, optimizer = attached()
    train(model, optimizer, X, Y, 6, audit)
    stopped, first, its = attached()
    train(stopped, its, X, Y, 3, first)
    resumed, second, its_too = attached(seed=9)
    resumed.load_state_dict(stopped.state_dict())
    second.load_state_dict(first.state_dict())
    its_too.load_state_dict(its.state_dict())
    train(resumed, its_too, X, Y, 3, second, start=3)
    assert second.history.curves() == audit.history.curves()


def test_a_registration_records_the_mint_loss_only():
    means = []
    audit = amint.register(
        Net().eval(), X, EXTERNAL, split="a", epochs=4, batch_size=16, progress=lambda _, loss: means.append(loss)
    )
    curves = Curves.from_json(audit.facts["history"])
    assert (curves.steps, curves.task_loss) == (12, None)
    np.testing.assert_allclose(np.reshape(curves.mint_loss, (4, 3)).mean(1), means)


class TestLightning:
    pytestmark = BENIGN

    def test_the_bundle_of_a_fit_holds_its_curves(self, tmp_path):
        callback = active_mint(bundle=tmp_path / "model.amint")
        trainer(callback, max_epochs=2).fit(Plain(), loader())
        curves = Curves.from_json(read(tmp_path / "model.amint").manifest["facts"]["history"])
        assert curves == callback.audit.history.curves()
        assert curves.steps == callback.audit.facts["steps"] == 6


def test_what_was_trained_under_pause_is_no_step_of_it():
    model, audit, optimizer = attached()
    with audit.paused():
        F.cross_entropy(model(X[:8]), Y[:8]).backward()
    optimizer.zero_grad()
    train(model, optimizer, X, Y, 2, audit)
    assert audit.history.curves().steps == 2
