import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images

from amint import signal_cache
from amint.errors import UsageError
from amint.queries import Queries
from amint.signal_cache import extract_cached, whole_file
from amint.signals import extract
from amint.targets import AuditedModel, ClassifierTarget

NEEDS = {"label", "logprob", "top3", "features", "gradient"}


class Forwards:
    """How often a model ran, counted from outside."""

    def __init__(self, model):
        self.count = 0
        model.register_forward_hook(self)

    def __call__(self, *_):
        self.count += 1

    def since(self):
        count, self.count = self.count, 0
        return count


def model_of(seed=0):
    torch.manual_seed(seed)
    return ToyNet()


def batches(n=10, size=4, seed=1):
    x, y = images(n, seed=seed), torch.arange(n) % 4
    return list(zip(x.split(size), y.split(size), strict=True))


def same(a, b):
    return set(a.columns) == set(b.columns) and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a.columns
    )


def test_a_second_call_does_not_run_the_model(tmp_path):
    model = model_of()
    forwards, target = Forwards(model), ClassifierTarget(model)
    plain = extract(target, batches(), NEEDS)
    assert forwards.since() > 0
    first = extract_cached(target, batches(), NEEDS, tmp_path / "new" / "folder")
    assert forwards.since() > 0
    again = extract_cached(ClassifierTarget(model), iter(batches()), NEEDS, tmp_path / "new" / "folder")
    assert forwards.since() == 0
    assert same(plain, first)
    assert same(plain, again)


def test_an_interrupted_pass_goes_on(tmp_path):
    model = model_of()
    forwards, target = Forwards(model), ClassifierTarget(model)

    def failing():
        yield from batches()[:2]
        raise OSError("the disk was pulled out")

    with pytest.raises(OSError, match="pulled out"):
        extract_cached(target, failing(), {"logprob"}, tmp_path)
    assert forwards.since() == 2
    extract_cached(target, batches(), {"logprob"}, tmp_path)
    assert forwards.since() == 1


def changed_weight(model, data):
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    return {}


def changed_behind_the_version_counter(model, data):
    model.classifier.bias.data[0] += 1e-6
    return {}


def changed_buffer(model, data):
    model.entry[1].running_var += 1e-3
    return {}


def changed_activation(model, data):
    model.middle[1] = torch.nn.GELU()
    return {}


def changed_hook(model, data):
    model.register_forward_hook(lambda _module, _arguments, output: output * 2)
    return {}


def changed_array(model, data):
    model.by[1] += 1
    return {}


def changed_captured_value(model, data):
    model.shifted = shifted_by(2.0)
    return {}


def changed_pixel(model, data):
    data[1][0][0, 0, 0, 0] += 1e-6
    return {}


def changed_label(model, data):
    data[1][1][0] += 1
    return {}


def changed_precision(model, data):
    data[1] = (data[1][0].double(), data[1][1])
    return {}


def changed_needs(model, data):
    return {"needs": {"logprob", "entropy"}}


def changed_queries(model, data):
    return {"queries": Queries(count=4, seed=1)}


CHANGES = [value for name, value in sorted(globals().items()) if name.startswith("changed_")]


def shifted_by(by):
    return lambda logits: logits + by * torch.arange(4)


class Scaled(ToyNet):
    """It reads an array and calls a function, which no weight shows."""

    def __init__(self):
        super().__init__()
        self.by, self.shifted = np.ones(4, np.float32), shifted_by(1.0)

    def forward(self, x):
        return self.shifted(super().forward(x) * torch.from_numpy(self.by))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_changes_is_measured_anew(tmp_path, change):
    model, data = Scaled(), batches()
    forwards, options = Forwards(model), {"queries": Queries(count=4), "needs": {"logprob", "logprob_queries"}}
    for _ in range(2):
        settings = dict(options)
        needs = settings.pop("needs")
        found = extract_cached(ClassifierTarget(model, **settings), data, needs, tmp_path)
        assert forwards.since() > 0
        assert same(found, extract(ClassifierTarget(model, **settings), data, needs))
        forwards.since()
        options |= change(model, data)


def test_other_versions_of_the_signals_do_not_count(tmp_path, monkeypatch):
    model = model_of()
    forwards = Forwards(model)
    extract_cached(ClassifierTarget(model), batches(), {"logprob"}, tmp_path)
    monkeypatch.setattr(signal_cache, "VERSION", 0)
    forwards.since()
    extract_cached(ClassifierTarget(model), batches(), {"logprob"}, tmp_path)
    assert forwards.since() == 3


def test_models_with_equal_weights_share_and_others_do_not(tmp_path):
    first, twin, other = model_of(0), model_of(0), model_of(1)
    forwards = [Forwards(model) for model in (first, twin, other)]
    extract_cached(ClassifierTarget(first), batches(), {"logprob"}, tmp_path)
    assert forwards.pop(0).since() == 3
    extract_cached(ClassifierTarget(twin), batches(), {"logprob"}, tmp_path)
    extract_cached(ClassifierTarget(other), batches(), {"logprob"}, tmp_path)
    assert [f.since() for f in forwards] == [0, 3]


def test_a_model_that_cannot_be_told_works_and_is_measured_each_time(tmp_path):
    model = model_of()
    model.lock = threading.Lock()
    forwards = Forwards(model)
    plain = extract(ClassifierTarget(model), batches(), {"logprob"})
    for _ in range(2):
        forwards.since()
        assert same(plain, extract_cached(ClassifierTarget(model), batches(), {"logprob"}, tmp_path / "kept"))
        assert forwards.since() == 3
    # Nothing could ever be found again.
    assert list(tmp_path.iterdir()) == []


def test_audits_are_cached_by_their_head(tmp_path):
    audit, other = audit_of(), audit_of()
    with torch.no_grad():
        next(other.head.parameters()).add_(0.5)
    found = [extract_cached(AuditedModel(a), [images(4)], {"mint_logit"}, tmp_path) for a in (audit, other, audit)]
    assert same(found[0], found[2])
    assert not same(found[0], found[1])


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


def damage(path, kind):
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        start = content.index(b"\x93NUMPY")
        path.write_bytes(flipped(content, start + 10 + int.from_bytes(content[start + 8 : start + 10], "little")))
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        np.savez(path, **dict.fromkeys(NEEDS, np.array([{}] * 4, dtype=object)))
    elif kind == "shorter":
        with np.load(path) as file:
            columns = {name: file[name][1:] for name in file.files}
        np.savez(path, **columns)
    else:
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files if name != "top3"}
        np.savez(path, **columns)


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped", "text", "pickle", "shorter", "column missing"])
def test_damaged_files_are_made_again(tmp_path, kind):
    model = model_of()
    forwards, target = Forwards(model), ClassifierTarget(model)
    first = extract_cached(target, batches(), NEEDS, tmp_path)
    for path in tmp_path.iterdir():
        damage(path, kind)
    forwards.since()
    assert same(first, extract_cached(target, batches(), NEEDS, tmp_path))
    assert forwards.since() > 0
    extract_cached(target, batches(), NEEDS, tmp_path)
    assert forwards.since() == 0


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    # Some bytes, such as the time in a zip header, change nothing; no other may get through.
    target = ClassifierTarget(model_of())
    first = extract_cached(target, batches(), NEEDS, tmp_path)
    path = min(tmp_path.iterdir())
    content = path.read_bytes()
    remade, places = 0, range(0, len(content), 5)
    for at in places:
        path.write_bytes(flipped(content, at))
        assert same(first, extract_cached(target, batches(), NEEDS, tmp_path))
        remade += path.read_bytes() == content
    assert remade > len(places) // 2


def test_what_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(UsageError, match="lie outside"):
        extract_cached(ClassifierTarget(model_of()), [(images(2), torch.tensor([0, 9]))], {"logprob"}, tmp_path)
    assert list(tmp_path.iterdir()) == []

    def half_written():
        with whole_file(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        extract_cached(ClassifierTarget(model_of()), batches(), {"logprob"}, tmp_path / "file")


def test_no_batches_give_empty_columns(tmp_path):
    signals = extract_cached(ClassifierTarget(model_of()), [], {"logprob"}, tmp_path)
    assert signals["logprob"].shape == (0,)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np, torch
from test_signal_cache import NEEDS, batches, model_of
from amint.signal_cache import extract_cached
from amint.targets import ClassifierTarget
torch.set_num_threads(1)
folder, result = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for seed in range(12):
    signals = extract_cached(ClassifierTarget(model_of(seed % 3)), batches(40, 2), NEEDS, folder)
    np.savez(f"{{result}}_{{seed % 3}}.npz", **signals.columns)
"""


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path):
    folder, script = tmp_path / "shared", SCRIPT.format(tests=str(Path(__file__).parent))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder), str(tmp_path / f"worker{number}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate(timeout=100)
        assert worker.returncode == 0
    assert len(list(folder.iterdir())) == 3 * 20
    assert {path.suffix for path in folder.iterdir()} == {".npz"}
    for seed in range(3):
        expected = extract(ClassifierTarget(model_of(seed)), batches(40, 2), NEEDS)
        for number in range(2):
            with np.load(tmp_path / f"worker{number}_{seed}.npz") as found:
                for name, column in expected.columns.items():
                    np.testing.assert_array_equal(found[name], column)


class Tempered(ClassifierTarget):
    """A target with an attribute of its own."""

    def __init__(self, model, temperature):
        super().__init__(model)
        self.temperature = temperature

    def measure(self, batch, needs):
        return {name: column / self.temperature for name, column in super().measure(batch, needs).items()}


class Negated(ClassifierTarget):
    """A target with code of its own."""

    def measure(self, batch, needs):
        return {name: -column for name, column in super().measure(batch, needs).items()}


class Multiplied(AuditedModel):
    """The same of an audited model."""

    def __init__(self, audit, factor):
        super().__init__(audit)
        self.factor = factor

    def measure(self, batch, needs):
        return {name: column * self.factor for name, column in super().measure(batch, needs).items()}


def test_targets_of_other_classes_or_attributes_do_not_share_files(tmp_path):
    model, audit = model_of(), audit_of()
    kinds = [
        lambda: ClassifierTarget(model),
        lambda: Tempered(model, 1.0),
        lambda: Tempered(model, 5.0),
        lambda: Negated(model),
        lambda: Multiplied(audit, 1.0),
        lambda: Multiplied(audit, 5.0),
    ]
    for make in kinds:
        needs = {"mint_logit"} if isinstance(make(), AuditedModel) else {"logprob"}
        assert same(extract_cached(make(), batches(), needs, tmp_path), extract(make(), batches(), needs))
        assert make().identity() == make().identity()
    assert len({make().identity() for make in kinds}) == len(kinds)
    # What is kept is found again.
    forwards = Forwards(model)
    before = ClassifierTarget(model).identity()
    extract_cached(Tempered(model, 2.0), batches(), {"logprob"}, tmp_path / "own")
    assert forwards.since() > 0
    extract_cached(Tempered(model, 2.0), batches(), {"logprob"}, tmp_path / "own")
    assert forwards.since() == 0
    assert ClassifierTarget(model).identity() == before


def test_what_a_target_resolves_while_it_measures_does_not_change_what_it_is():
    target = ClassifierTarget(model_of(), taps="middle")
    before = target.identity()
    target.measure(batches()[0], {"activations"})
    assert target.identity() == before
