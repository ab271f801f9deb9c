import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images
from torch.utils.data import DataLoader, TensorDataset

from amint.errors import NonFiniteError, SplitError, UsageError
from amint.signals import Signals, extract
from amint.targets import AuditedModel, ClassifierTarget


class Counting:
    """A target without a model: signals are sums and maxima of the rows; it notes what it was asked."""

    provides = frozenset({"total", "largest", "per_pixel"})

    def __init__(self):
        self.asked = []

    def measure(self, x, needs):
        self.asked.append((len(x), set(needs)))
        columns = {"total": x.flatten(1).sum(1), "largest": x.flatten(1).amax(1), "per_pixel": x.flatten(1)}
        return {name: columns[name].double().numpy() for name in needs}


def test_all_needs_are_met_in_one_pass():
    x, target = images(10), Counting()
    signals = extract(target, iter(x.split(4)), {"total", "per_pixel"})
    assert target.asked == [(4, {"total", "per_pixel"}), (4, {"total", "per_pixel"}), (2, {"total", "per_pixel"})]
    assert set(signals.columns) == {"total", "per_pixel"}
    assert len(signals) == 10
    np.testing.assert_array_equal(signals["total"], x.flatten(1).sum(1).double())
    assert signals["per_pixel"].shape == (10, 3 * 16 * 16)


def test_batches_are_read_one_at_a_time():
    read = []

    def batches():
        for x in images(6).split(2):
            read.append(len(x))
            yield x
            # The batch is measured before the next one is asked for.
            assert len(target.asked) == len(read)

    target = Counting()
    extract(target, batches(), {"total"})
    assert read == [2, 2, 2]


class Failing(Counting):
    """Raises at a row with a first pixel of 1, as something that knows the batch alone."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def measure(self, x, needs):
        bad = x[:, 0, 0, 0] == 1
        if bad.any():
            raise self.error(f"{int(bad.sum())} of {len(x)} rows, first row {int(bad.int().argmax())}")
        return super().measure(x, needs)


@pytest.mark.parametrize("error", [NonFiniteError, UsageError])
@pytest.mark.parametrize("at, begins", [(4, 4), (7, 4), (8, 8), (9, 8)])
def test_an_error_in_a_later_batch_says_where_the_batch_begins(error, at, begins):
    x = torch.zeros(10, 3, 4, 4)
    x[at] = 1
    words = f"^in the batch that begins at row {begins}: 1 of {min(4, 10 - begins)} rows, first row "
    with pytest.raises(error, match=f"{words}{at - begins}$") as caught:
        extract(Failing(error), x.split(4), {"total"})
    assert type(caught.value) is error
    assert isinstance(caught.value.__cause__, error)


def test_an_error_in_the_first_batch_has_its_rows_right_already():
    x = torch.zeros(10, 3, 4, 4)
    x[3] = 1
    with pytest.raises(NonFiniteError, match=r"^1 of 4 rows, first row 3$"):
        extract(Failing(NonFiniteError), x.split(4), {"total"})


@pytest.mark.parametrize("error", [SplitError, RuntimeError])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(error, match=r"^4 of 4 rows, first row 0$") as caught:
        extract(Failing(error), [torch.zeros(4, 3, 4, 4), torch.ones(4, 3, 4, 4)], {"total"})
    assert type(caught.value) is error


def test_rows_of_logits_that_are_not_numbers_are_placed_in_the_pass():
    x, y = images(120), torch.arange(120) % 4
    x[110] = float("nan")
    with pytest.raises(
        NonFiniteError,
        match=r"begins at row 100: 1 of 20 rows of logits in this batch .* the first is row 10 of it",
    ):
        extract(ClassifierTarget(ToyNet()), DataLoader(TensorDataset(x, y), 20), {"logprob"})


def test_no_rows_give_empty_columns():
    signals = extract(Counting(), [], {"total", "largest"})
    assert len(signals) == 0
    assert {name: column.shape for name, column in signals.columns.items()} == {"total": (0,), "largest": (0,)}


def test_what_a_target_does_not_provide_is_refused_before_the_pass():
    target = Counting()
    with pytest.raises(UsageError, match=r"\['loss', 'mint_logit'\]; it provides \['largest', 'per_pixel'"):
        extract(target, [images(2)], {"total", "mint_logit", "loss"})
    assert target.asked == []


def test_columns_have_one_length():
    assert len(Signals({"a": np.zeros((4, 2)), "b": np.ones(4)})) == 4
    assert len(Signals({})) == 0
    with pytest.raises(UsageError, match=r"one length, got {'a': 3, 'b': 4}"):
        Signals({"a": np.zeros(3), "b": np.ones(4)})


def test_a_signal_that_is_not_there():
    with pytest.raises(UsageError, match=r"no signal 'loss' here; there are \['a', 'b'\]"):
        Signals({"b": np.zeros(1), "a": np.zeros(1)})["loss"]


def test_the_audited_model_provides_its_mint_logit():
    audit = audit_of()
    x = images(6)
    signals = extract(AuditedModel(audit), x.split(4), {"mint_logit"})
    assert signals["mint_logit"].dtype == np.float64
    np.testing.assert_array_equal(signals["mint_logit"], audit.read(x).scores)
    assert AuditedModel(audit).measure(x, frozenset()) == {}


def test_inputs_with_labels_reach_the_target():
    x, y = images(10), torch.arange(10) % 4
    loader = DataLoader(TensorDataset(x, y), 4)
    signals = extract(ClassifierTarget(ToyNet()), loader, {"label", "logprob", "features"})
    np.testing.assert_array_equal(signals["label"], y)
    assert {name: len(column) for name, column in signals.columns.items()} == {
        "label": 10,
        "logprob": 10,
        "features": 10,
    }


def test_any_number_of_signals_costs_one_pass_over_the_data_and_one_of_the_model():
    model, read, ran = ToyNet(), [], []
    model.register_forward_hook(lambda *_: ran.append(1))
    pairs = [(x, torch.arange(len(x)) % 4) for x in images(10).split(4)]
    target = ClassifierTarget(model, taps=["middle"])
    target.measure(pairs[0], {"maps"})
    ran.clear()
    plain = {n for n in target.provides if not n.endswith("_queries") and not n.startswith("gradient")}
    extract(target, (read.append(1) or pair for pair in pairs), plain)
    assert len(read) == len(ran) == 3


def test_audits_read_labelled_batches_too():
    audit, x = audit_of(), images(6)
    with_labels = extract(AuditedModel(audit), [(x, torch.zeros(6))], {"mint_logit"})
    np.testing.assert_array_equal(with_labels["mint_logit"], audit.read(x).scores)


@pytest.mark.parametrize("rows", [images(3), TensorDataset(images(3))], ids=["tensor", "dataset"])
def test_rows_are_no_batches(rows):
    with pytest.raises(UsageError, match="yields single rows; pass DataLoader"):
        extract(Counting(), rows, {"total"})


def test_rows_of_signals():
    signals = Signals({"a": np.arange(4), "b": np.arange(8).reshape(4, 2)})
    for which in (np.array([True, False, False, True]), np.array([0, 3])):
        chosen = signals.rows(which)
        assert chosen["a"].tolist() == [0, 3]
        assert chosen["b"].tolist() == [[0, 1], [6, 7]]


def test_signals_of_target_and_references_join():
    own, others = Signals({"a": np.arange(4)}), Signals({"b": np.ones((4, 2))})
    joined = own.joined(others)
    assert set(joined.columns) == {"a", "b"}
    assert len(joined) == 4
    with pytest.raises(UsageError, match=r"both sets of signals have \['a'\]"):
        own.joined(Signals({"a": np.zeros(4)}))
    with pytest.raises(UsageError, match="one length"):
        own.joined(Signals({"b": np.zeros(3)}))
