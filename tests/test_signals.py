import numpy as np
import pytest
import torch
from audit_toys import audit_of, images

from amint.errors import UsageError
from amint.signals import Signals, extract
from amint.targets import AuditedModel


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
    expected = torch.cat([audit.score(x[:4]), audit.score(x[4:])])
    np.testing.assert_array_equal(signals["mint_logit"], expected.double())
    assert AuditedModel(audit).measure(x, frozenset()) == {}
