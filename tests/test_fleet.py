import json

import numpy as np
import pytest
import torch
from fleet_toys import CLASSES, K, Module, Pool, train
from lightning_toys import BENIGN
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import Net, images, labels

from amint.errors import UsageError
from amint.fleet import Fleet
from amint.queries import Queries
from amint.reference_files import Tag, probe_of, read_model, write_model
from amint.roles import fingerprints
from amint.signals import extract
from amint.targets import ClassifierTarget

pytestmark = BENIGN


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    return train(tmp_path_factory.mktemp("fleet"))


def asked():
    """Rows of the pool and rows outside it, in no order."""
    x = torch.cat([Pool().x[[5, 0, 23]], images(4, seed=99), Pool().x[[11]]])
    return DataLoader(TensorDataset(x, labels(8)), 3)


def test_signals_are_those_of_each_model(fleet, tmp_path):
    queries = Queries(count=3)
    signals = fleet.signals(asked(), fleet.provides, queries=queries, cache=tmp_path)
    assert set(signals.columns) == fleet.provides
    needs = {name.removeprefix("reference_") for name in fleet.provides if name.startswith("reference_")} - {"in"}
    for number in range(K):
        alone = extract(ClassifierTarget(fleet.model(number), queries=queries), asked(), needs | {"top3"})
        for name in needs:
            np.testing.assert_array_equal(signals[f"reference_{name}"][:, number], alone[name])
        if number == 0:
            np.testing.assert_array_equal(signals["shadow_top3"], alone["top3"])
    assert signals["reference_logprob"].shape == (8, K)
    assert signals["reference_scaled_logit_queries"].shape == (8, K, 3)
    np.testing.assert_array_equal(signals["shadow_in"], signals["reference_in"][:, 0])


def test_membership_is_known_by_content(fleet):
    marks = fingerprints(torch.cat([batch[0] for batch in asked()])).numpy()
    inside = fleet.signals(asked(), {"reference_in"})["reference_in"]
    np.testing.assert_array_equal(inside, fleet.membership(marks))
    np.testing.assert_array_equal(inside[[0, 1, 2, 7]], fleet.members[[5, 0, 23, 11]])
    assert not inside[3:7].any()
    assert fleet.saw(marks).tolist() == [True] * 3 + [False] * 4 + [True]
    assert fleet.membership(np.empty(0, np.int64)).shape == (0, K)
    extremes = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    assert not fleet.saw(extremes).any()


def test_members_are_better_known_to_models_that_saw_them(tmp_path):
    known = train(tmp_path, max_epochs=60, make_module=Plainly, k=2)
    pool = DataLoader(Pool(), 8)
    signals = known.signals(pool, {"reference_logprob", "reference_in"})
    logprob, inside = signals["reference_logprob"], signals["reference_in"]
    assert logprob[inside].mean() > logprob[~inside].mean() + 0.5


class Plainly(Module):
    """Without what keeps a model from learning by heart."""

    def __init__(self):
        super().__init__(rate=0.03)
        self.model = Net(norm=False, width=24)


def test_a_second_call_does_not_run_a_model(tmp_path, monkeypatch):
    ran, measure = [], ClassifierTarget.measure
    monkeypatch.setattr(ClassifierTarget, "measure", lambda *call: ran.append(1) or measure(*call))
    counted = train(tmp_path)
    needs = {"reference_logprob", "shadow_top3"}
    first = counted.signals(asked(), needs)
    assert len(ran) == 3 * K
    second = counted.signals(asked(), needs)
    assert len(ran) == 3 * K
    np.testing.assert_array_equal(first["reference_logprob"], second["reference_logprob"])
    assert list((tmp_path / "signals").glob("*.npz"))


def test_only_the_models_that_are_needed_run(fleet, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Fleet, "model", lambda self, number: ran.append(number) or Module().model)
    fleet.signals(asked(), {"reference_in", "shadow_in"}, cache=tmp_path)
    assert ran == []
    fleet.signals(asked(), {"shadow_top3"}, cache=tmp_path)
    assert ran == [0]


def test_batches_must_come_again_in_the_same_order(fleet, tmp_path):
    rows = TensorDataset(Pool().x, Pool().y)
    for loader in (DataLoader(rows, 6, shuffle=True), DataLoader(Pool(noise=0.1), 6)):
        with pytest.raises(UsageError, match="batch 0 is not the same each time"):
            fleet.signals(loader, {"reference_logprob"}, cache=tmp_path)
    with pytest.raises(UsageError, match="can be read once only"):
        fleet.signals(iter(DataLoader(rows, 6)), {"reference_logprob"})

    class Shrinking:
        def __init__(self):
            self.left = 5

        def __iter__(self):
            self.left -= 1
            return iter(list(asked())[: self.left])

    with pytest.raises(UsageError, match="batch 2 is not the same each time"):
        fleet.signals(Shrinking(), {"reference_logprob"}, cache=tmp_path)


def test_what_references_cannot_give(fleet):
    with pytest.raises(UsageError, match=r"cannot provide \['logprob', 'reference_maps'\]"):
        fleet.signals(asked(), {"logprob", "reference_maps", "reference_in"})
    with pytest.raises(UsageError, match=f"tells {CLASSES} classes apart, 10 were expected"):
        fleet.signals(asked(), {"reference_logprob"}, classes=10)
    with pytest.raises(UsageError, match="need labels"):
        fleet.signals([batch[0] for batch in asked()], {"reference_logprob"})


def test_models_one_at_a_time_leave_random_numbers_alone(fleet):
    state = torch.get_rng_state()
    fleet.model(2)
    assert torch.equal(torch.get_rng_state(), state)


def damaged(tmp_path, change):
    train(tmp_path, k=2, max_epochs=1)
    change(tmp_path)
    return Fleet.load(tmp_path, Module)


def edited(**changes):
    def edit(path):
        facts = json.loads((path / "fleet.json").read_text())
        (path / "fleet.json").write_text(json.dumps({**facts, **changes}))

    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "fleet.json").write_text("{"),
        lambda path: (path / "fleet.json").write_text("[]"),
        lambda path: (path / "marks.npy").unlink(),
        lambda path: (path / "members.npy").write_bytes(b"text"),
        lambda path: np.save(path / "members.npy", np.ones((3, 2), bool)),
        lambda path: np.save(path / "marks.npy", np.arange(24.0)),
        lambda path: np.save(path / "marks.npy", np.array([{}] * 24, dtype=object)),
        edited(version=1),
        edited(design=None),
        lambda path: np.save(path / "members.npy", ~np.load(path / "members.npy")),
        lambda path: np.save(path / "marks.npy", np.load(path / "marks.npy") + 1),
        edited(k=4),
        edited(rows="many"),
        edited(backbone=None),
        edited(input_shape=None),
        edited(input_dtype="float33"),
    ],
)
def test_damaged_fleets_are_refused(tmp_path, change):
    with pytest.raises(UsageError, match="no readable fleet of references"):
        damaged(tmp_path, change)


def test_a_folder_without_a_fleet(tmp_path):
    with pytest.raises(UsageError, match="there is no fleet of references"):
        damaged(tmp_path, lambda path: (path / "fleet.json").unlink())
    with pytest.raises(UsageError, match=r"no fleet of references in .*nothing; amint.train_references.* makes one"):
        Fleet.load(tmp_path / "nothing", Module)


def test_weights_that_do_not_fit(fleet, tmp_path):
    other = Fleet.load(fleet.path, lambda: nn.ModuleDict({"model": nn.Linear(2, 2)}))
    with pytest.raises(UsageError, match="do not fit the network that make_module"):
        other.model(0)
    cut = train(tmp_path, k=2, max_epochs=1)
    cut.weights_path(1).write_bytes(b"1234567")
    with pytest.raises(UsageError, match="cannot be used: it is damaged"):
        cut.model(1)
    with pytest.raises(UsageError, match=r"1 of the 2 .* not trained yet, or .* no use \(model 1: it is damaged"):
        Fleet.load(tmp_path, Module)


class Tanh(Module):
    """The same weights, another function."""

    def __init__(self):
        super().__init__()
        self.model.a[2] = nn.Tanh()


def test_another_network_of_the_same_shapes_is_refused(fleet):
    with pytest.raises(UsageError, match=r"does not compute what the trained one in .* pass the make_module that"):
        Fleet.load(fleet.path, Tanh).signals(asked(), {"reference_logprob"})


def test_files_of_other_models_are_refused_and_trained_again(tmp_path):
    known = train(tmp_path / "a", max_epochs=1)
    whole = [known.weights_path(number).read_bytes() for number in range(K)]
    known.weights_path(0).write_bytes(whole[1])
    known.weights_path(1).write_bytes(whole[0])
    other = train(tmp_path / "b", max_epochs=1, seed=4)
    known.weights_path(2).write_bytes(other.weights_path(2).read_bytes())
    known.weights_path(3).write_bytes(whole[3][:100])
    with pytest.raises(UsageError, match=r"4 of the 4 .*\(model 0: it holds model 1, not model 0\)"):
        Fleet.load(known.path, Module)
    for number, reason in enumerate(("holds model 1", "holds model 0", "another fleet", "is damaged")):
        with pytest.raises(UsageError, match=f"cannot be used: it .*{reason}|cannot be used: it {reason}"):
            known.model(number)
    train(tmp_path / "a", max_epochs=1)
    assert [known.weights_path(number).read_bytes() for number in range(K)] == whole


def test_weights_of_older_versions_are_refused(tmp_path):
    known = train(tmp_path, k=2, max_epochs=1)
    save_file(load_file(known.weights_path(0)), known.weights_path(0))
    with pytest.raises(UsageError, match="does not say which model it holds"):
        Fleet.load(tmp_path, Module)


def test_a_model_that_cannot_take_the_probe_is_stored_all_the_same(tmp_path):
    class Picky(nn.Linear):
        def forward(self, x):
            raise KeyError("not this one")

    path, tag, probe = tmp_path / "model", Tag(0, "fleet"), probe_of([2], "float32")
    network = Picky(2, 2)
    write_model(path, network, tag, probe)
    again = Picky(2, 2)
    read_model(path, again, tag, probe)
    assert torch.equal(again.weight, network.weight)
    assert probe_of([3], "int64").tolist() == [[0] * 3] * 2
