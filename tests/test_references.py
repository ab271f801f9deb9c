import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from fleet_toys import ON_CPU, K, Module, N, Pool, train
from hypothesis import given
from hypothesis import strategies as st
from lightning_toys import BENIGN
from torch.utils.data import TensorDataset, default_collate
from toys import images, labels

import amint.fleet
from amint.errors import NonFiniteError, UsageError
from amint.fleet import Fleet
from amint.references import random_halves
from amint.roles import fingerprints
from amint.signal_cache import whole_file

pytestmark = BENIGN


def weights(path):
    return {file.name: file.read_bytes() for file in Path(path).glob("model_*.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fleet trained without interruption."""
    return train(tmp_path_factory.mktemp("whole") / "fleet")


@given(st.integers(2, 60), st.integers(1, 6), st.integers(-5, 2**40))
def test_each_row_is_in_exactly_half_of_the_models(n, pairs, seed):
    marks = np.arange(n, dtype=np.int64) * 7 - 3
    halves = random_halves(marks, 2 * pairs, seed)
    assert halves.shape == (n, 2 * pairs)
    assert halves.dtype == np.bool_
    assert (halves.sum(1) == pairs).all()
    assert set(halves.sum(0)) <= {n // 2, n - n // 2}
    assert (halves[:, ::2] != halves[:, 1::2]).all()
    np.testing.assert_array_equal(halves, random_halves(marks, 2 * pairs, seed))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 100))
def test_copies_go_into_the_same_half(marks, seed):
    halves = random_halves(np.array(marks, np.int64), 4, seed)
    for mark in set(marks):
        assert len(np.unique(halves[np.array(marks) == mark], axis=0)) == 1
    assert (halves.sum(1) == 2).all()


def test_halves_are_random():
    marks = np.arange(2000, dtype=np.int64)
    halves = random_halves(marks, 8, seed=1)
    together = np.corrcoef(halves.T)
    others = [together[i, j] for i in range(8) for j in range(i) if i // 2 != j // 2]
    # A standard error is 0.022; six of them once in 10**9.
    assert np.abs(others).max() < 0.134
    assert abs(halves[:1000].mean(0) - 0.5).max() < 0.1
    assert (random_halves(marks, 8, seed=2) != halves).mean() == pytest.approx(0.5, abs=0.05)


def test_a_module_in_place_of_what_makes_one_is_refused(whole, tmp_path):
    for call in (lambda module: train(tmp_path, make_module=module), lambda module: Fleet.load(whole.path, module)):
        with pytest.raises(UsageError, match=r"as lambda: Module\(\.\.\.\); found a Module"):
            call(Module())


def test_models_are_trained_on_their_halves_alone(tmp_path):
    class Noting(Module):
        def on_fit_start(self):
            seen.append(set())

        def training_step(self, batch, batch_idx):
            seen[-1] |= set(fingerprints(batch[0]).tolist())
            return super().training_step(batch, batch_idx)

    seen = []
    fleet = train(tmp_path, make_module=Noting)
    assert [sorted(rows) for rows in seen] == [sorted({*fleet.marks[fleet.members[:, i]].tolist()}) for i in range(K)]


def test_a_fleet_on_disk_says_who_was_trained_on_what(whole):
    again = Fleet.load(whole.path, Module)
    assert again.facts["seed"] == 3
    assert again.k == whole.k == K
    np.testing.assert_array_equal(again.marks, fingerprints(Pool().x))
    np.testing.assert_array_equal(again.members, whole.members)
    assert again.members.shape == (N, K)
    assert (again.members.sum(1) == K // 2).all()
    np.testing.assert_array_equal(again.members[0], again.members[-1])
    assert not list(whole.path.glob(".*"))


def test_models_differ_and_learned(whole):
    assert len(set(weights(whole.path).values())) == K
    fresh = [p.detach() for p in Module().model.parameters()]
    for number in range(K):
        trained = whole.model(number)
        assert trained.a[1].num_batches_tracked == 2 * 2
        assert not any(torch.equal(a, b) for a, b in zip(fresh, trained.parameters(), strict=True) if b.ndim > 1)


def test_the_same_call_gives_the_same_weights_and_another_seed_others(whole, tmp_path):
    torch.rand(17)
    assert weights(train(tmp_path / "same").path) == weights(whole.path)
    other = train(tmp_path / "other", seed=4)
    assert not set(weights(other.path).values()) & set(weights(whole.path).values())


def test_training_leaves_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    train(tmp_path, k=2, max_epochs=1)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


@pytest.mark.parametrize("missing", [[1], [0, 3], [0, 1, 2, 3]])
def test_finished_models_stay_and_missing_ones_come_out_the_same(whole, tmp_path, missing):
    fleet = train(tmp_path)
    for number in missing:
        fleet.weights_path(number).unlink()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("model_*")}
    with pytest.raises(UsageError, match=rf"{len(missing)} of the 4 reference models .* not trained yet"):
        Fleet.load(tmp_path, Module)
    train(tmp_path)
    assert weights(tmp_path) == weights(whole.path)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_a_failed_training_is_not_taken_for_a_finished_one(whole, tmp_path):
    class Failing(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise OSError("out of electricity")

    with pytest.raises(OSError, match="out of electricity"):
        train(tmp_path, trainer_arguments={**ON_CPU, "callbacks": [Failing()]})
    assert weights(tmp_path) == {}


def test_a_stopped_training_is_not_taken_for_a_finished_one(tmp_path):
    class Stopped(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            raise KeyboardInterrupt

    with pytest.raises((UsageError, SystemExit, KeyboardInterrupt)):
        train(tmp_path, trainer_arguments={**ON_CPU, "callbacks": [Stopped()]})
    assert weights(tmp_path) == {}


def test_other_settings_do_not_mix_with_a_fleet_that_is_there(whole):
    shuffled = Pool()
    shuffled.x = shuffled.x.flip(0)
    for options, differing in [
        ({"seed": 4}, r"\['seed'\]"),
        ({"k": 6}, r"\['k'\]"),
        ({"max_epochs": 3}, r"\['recipe'\]"),
        ({"batch_size": 5}, r"\['recipe'\]"),
        ({"make_module": lambda: Module(rate=0.1)}, r"\['recipe'\]"),
        ({"dataset": Pool(30)}, r"\['labels', 'rows'\]"),
        ({"dataset": Relabelled()}, r"\['labels'\] \(labels: what the samples hold beside their inputs\); .* another "),
        ({"dataset": Relabelled(), "plain": Pool()}, r"\['labels'\]"),
        ({"dataset": shuffled}, r"\['dataset'\]"),
    ]:
        with pytest.raises(UsageError, match=f"differs in {differing}"):
            train(whole.path, **options)


class Relabelled(Pool):
    """The pool with another label in its last row but one."""

    def __init__(self):
        super().__init__()
        self.y[-2] = (self.y[-2] + 1) % 3


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), np.random.rand, random.random])
def test_another_augmentation_is_refused_and_the_same_is_gone_on_with(tmp_path, draw):
    class Noisy(Pool):
        def __init__(self, noise):
            super().__init__()
            self.much = noise

        def __getitem__(self, i):
            return self.x[i] + self.much * float(draw()), self.y[i]

    options = {"plain": Pool(), "k": 2, "max_epochs": 1}
    fleet = train(tmp_path, dataset=Noisy(0.1), **options)
    fleet.weights_path(1).unlink()
    for other in (Noisy(0.5), Pool()):
        with pytest.raises(UsageError, match=r"\['augmented'\] \(augmented: what augmentation makes of the samples\)"):
            train(tmp_path, dataset=other, **options)
    torch.rand(3)
    train(tmp_path, dataset=Noisy(0.1), **options)


def test_augmentation_drawn_anew_each_time_can_be_gone_on_with(tmp_path):
    class Noisy(Pool):
        def __init__(self):
            super().__init__()
            self.dice = np.random.default_rng()

        def __getitem__(self, i):
            return self.x[i] + 0.1 * self.dice.random(dtype=np.float32), self.y[i]

    options = {"dataset": Noisy(), "plain": Pool(), "k": 2, "max_epochs": 1}
    fleet = train(tmp_path, **options)
    assert fleet.facts["augmented"] is None
    fleet.weights_path(0).unlink()
    train(tmp_path, **options)


@pytest.mark.parametrize("row", [lambda x, y: {"x": x, "y": int(y)}, lambda x, y: (x, 0, "a" * int(y))])
def test_whatever_stands_beside_the_inputs_is_compared(tmp_path, row):
    def rows_of(pool):
        return [row(*pool[i]) for i in range(N)]

    class Any(Module):
        def training_step(self, batch, batch_idx):
            x = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
            return self.model(x).square().mean()

    options = {"make_module": Any, "k": 2, "max_epochs": 1}
    fleet = train(tmp_path, dataset=rows_of(Pool()), **options)
    fleet.weights_path(1).unlink()
    with pytest.raises(UsageError, match=r"differs in \['labels'\]"):
        train(tmp_path, dataset=rows_of(Relabelled()), **options)
    assert not fleet.weights_path(1).exists()
    train(tmp_path, dataset=rows_of(Pool()), **options)


def test_labels_drawn_anew_each_time_can_be_gone_on_with(tmp_path):
    class Smoothed(Pool):
        def __getitem__(self, i):
            return self.x[i], self.y[i], torch.rand(())

    options = {"dataset": Smoothed(), "k": 2, "max_epochs": 1}
    fleet = train(tmp_path, **options)
    assert fleet.facts["labels"] is None
    fleet.weights_path(0).unlink()
    train(tmp_path, **options)


def test_halves_that_the_seed_does_not_draw_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("amint.references.random_halves", lambda *drawn: ~random_halves(*drawn))
    train(tmp_path, k=2, max_epochs=1)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"differs in \['members'\] \(members: the halves that the seed draws\)"):
        train(tmp_path, k=2, max_epochs=1)


def interrupted_start(path, seed, monkeypatch, call):
    """A start that another process overtakes: ``call`` happens when it has seen that the folder is empty."""

    def whole_file_later(part):
        if calls:
            calls.pop()()
        return whole_file(part)

    calls = [call]
    monkeypatch.setattr(amint.fleet, "whole_file", whole_file_later)
    return train(path, seed=seed, k=2, max_epochs=1)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_start_in_one_folder_with_other_seeds_one_gives_way(tmp_path, monkeypatch, links):
    def first():
        train(tmp_path, seed=8, k=2, max_epochs=1)

    def no_link(*_):
        raise PermissionError("this file system has no links")

    if not links:
        monkeypatch.setattr("os.link", no_link)
    with pytest.raises(UsageError, match=r"differs in \['seed'\]"):
        interrupted_start(tmp_path, 9, monkeypatch, first)
    fleet = Fleet.load(tmp_path, Module)
    assert fleet.facts["seed"] == 8
    np.testing.assert_array_equal(fleet.members, random_halves(fleet.marks, 2, 8))
    assert not list(tmp_path.glob(".*"))


def test_a_start_that_was_killed_goes_on(whole, tmp_path):
    shutil.copy(whole.path / "fleet.json", tmp_path)
    with pytest.raises(UsageError, match="no readable fleet"):
        train(tmp_path, seed=8)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]
    np.testing.assert_array_equal(train(tmp_path).members, whole.members)


def doubled(rows, by=2.0):
    return default_collate([(by * x, y) for x, y in rows])


@pytest.mark.parametrize("other", [partial(doubled, by=3.0), default_collate])
def test_the_way_samples_are_put_together_is_part_of_the_recipe(tmp_path, other):
    options = {"k": 2, "max_epochs": 1}
    train(tmp_path, loader_arguments={"collate_fn": partial(doubled, by=2.0)}, **options)
    with pytest.raises(UsageError, match=r"differs in \['recipe'\]"):
        train(tmp_path, loader_arguments={"collate_fn": other}, **options)
    train(tmp_path, loader_arguments={"collate_fn": partial(doubled, by=2.0)}, **options)


class WithArray(Module):
    def __init__(self, by=1.0, secret=None):
        super().__init__()
        self.by, self.secret = np.full(3, by), secret


def test_a_module_is_compared_by_the_content_of_its_attributes(tmp_path):
    options = {"k": 2, "max_epochs": 1}
    train(tmp_path, make_module=WithArray, **options)
    with pytest.raises(UsageError, match=r"differs in \['recipe'\]"):
        train(tmp_path, make_module=lambda: WithArray(2.0), **options)


def test_a_module_with_content_that_cannot_be_told_can_be_gone_on_with(tmp_path):
    options = {"k": 2, "max_epochs": 1, "make_module": lambda: WithArray(secret=threading.Lock())}
    train(tmp_path, **options).weights_path(0).unlink()
    train(tmp_path, **options)


@pytest.mark.parametrize("k", [0, 1, 3, -2, 7])
def test_an_odd_number_of_models_has_no_pairs(tmp_path, k):
    with pytest.raises(UsageError, match="k must be even and at least 2"):
        train(tmp_path, k=k)


def test_data_that_cannot_be_used(tmp_path):
    with pytest.raises(UsageError, match="reading the dataset twice gives different samples"):
        train(tmp_path, dataset=Pool(noise=0.1))
    with pytest.raises(UsageError, match="an index and a length"):
        train(tmp_path, dataset=iter(Pool()))
    with pytest.raises(UsageError, match="as many plain samples as samples"):
        train(tmp_path, plain=Pool(10))
    with pytest.raises(UsageError, match="has no halves"):
        train(tmp_path, dataset=TensorDataset(images(1), labels(1)))
    with pytest.raises(UsageError, match=r"no submodule 'net', it has \['model'\]"):
        train(tmp_path, backbone="net")
    assert list(tmp_path.iterdir()) == []


def test_augmented_data_is_known_by_its_plain_samples(tmp_path):
    fleet = train(tmp_path, dataset=Pool(noise=0.1), plain=Pool(), k=2, max_epochs=1)
    np.testing.assert_array_equal(fleet.marks, fingerprints(Pool().x))


def test_a_model_that_diverges_is_said(tmp_path):
    with pytest.raises(NonFiniteError, match="reference 0 diverged"):
        train(tmp_path, make_module=lambda: Module(rate=float("inf")))


def test_the_module_itself_can_be_the_network(tmp_path):
    fleet = train(tmp_path, backbone="", k=2, max_epochs=1)
    assert isinstance(fleet.model(1), Module)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(whole, tmp_path):
    """Killed hard again and again, each time a little later, until it is finished."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from fleet_toys import train; "
    # Slower than usual, so that kills also fall into the middle of a training.
    script += "import fleet_toys, time; row = fleet_toys.Pool.__getitem__; "
    script += "fleet_toys.Pool.__getitem__ = lambda self, i: (time.sleep(0.004), row(self, i))[1]; "
    script += "print('go', flush=True); train(sys.argv[1])"
    kills = 0
    for attempt in range(60):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "fleet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        process.stdout.readline()
        before = len(weights(tmp_path / "fleet"))
        while process.poll() is None and len(weights(tmp_path / "fleet")) == before:
            time.sleep(0.002)
        time.sleep(0.02 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if len(weights(tmp_path / "fleet")) == K:
            break
    assert kills >= 2
    assert weights(tmp_path / "fleet") == weights(whole.path)
    assert weights(train(tmp_path / "fleet").path) == weights(whole.path)


@pytest.mark.slow
def test_two_workers_train_the_same_models_as_one(whole, tmp_path):
    fleet = train(tmp_path, workers=2)
    assert weights(fleet.path) == weights(whole.path)


def test_workers_need_a_module_that_they_can_import(tmp_path):
    with pytest.raises(UsageError, match="not a lambda or a local function"):
        train(tmp_path, make_module=lambda: Module(), workers=2)
