import numpy as np
import pytest
import torch
from audit_toys import ToyNet, images
from comparison_toys import TableFleet, TableTarget, table

from amint.comparison import compare
from amint.errors import NonFiniteError, UsageError
from amint.gathering import gather
from amint.labelled import read_labelled

N = 600
OWN = ("loss", "margin", "entropy")


class FailingLate(TableTarget):
    """Measures everything on the first rows, and raises for signals of a batch with their row of the table."""

    def __init__(self, signals, names, failing, error=None):
        super().__init__(signals, names)
        self.failing, self.error = failing, error or RuntimeError("out of luck")

    def measure(self, batch, needs):
        if any(self.failing.get(name, -1) in batch[0][:, 0] for name in needs):
            raise self.error
        return super().measure(batch, needs)


class FailingFleet(TableFleet):
    def __init__(self, signals, error):
        super().__init__(signals)
        self.error = error

    def signals(self, batches, needs, **arguments):
        for _ in batches:
            raise self.error


def late(*failing, error=None):
    """Signals and the rows where they fail; batches begin at the rows 0, 256, 300 and 556."""
    signals, members, nonmembers = table(N // 2, N // 2)
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    at = torch.cat([members[0], nonmembers[0]])[:, 0].tolist()
    return FailingLate(signals, own, {name: at[row] for name, row in failing}, error), members, nonmembers


def test_a_signal_that_fails_on_a_later_batch_costs_its_own_attacks_only():
    target, members, nonmembers = late(("hinge", 290))
    found = compare(target, members, nonmembers, attacks=OWN)
    assert [result.name for result in found.not_run] == ["margin"]
    assert found["margin"].reason == ("needs hinge: in the batch that begins at row 256: RuntimeError: out of luck")
    assert found["margin"].failed
    whole = compare(TableTarget(target.signals, target.provides), members, nonmembers, attacks=["loss", "entropy"])
    for name in ("loss", "entropy"):
        assert found[name].measurements == whole[name].measurements


def test_signals_that_fail_on_different_batches_are_all_left_out():
    target, members, nonmembers = late(("hinge", 290), ("entropy", 599))
    found = compare(target, members, nonmembers, attacks=OWN)
    assert [result.name for result in found.not_run] == ["margin", "entropy"]
    assert "begins at row 556: RuntimeError" in found["entropy"].reason


def test_a_signal_that_fails_late_is_left_out_of_a_cached_pass_too(tmp_path):
    target, members, nonmembers = late(("hinge", 290))
    found = compare(target, members, nonmembers, attacks=OWN, cache=tmp_path)
    assert [result.name for result in found.not_run] == ["margin"]


@pytest.mark.parametrize("error", [NonFiniteError("3 of 256 samples"), UsageError("labels lie outside 0..3")])
def test_what_fails_for_every_signal_ends_the_comparison(error):
    target, members, nonmembers = late(("logprob", 290), ("hinge", 290), ("entropy", 290), error=error)
    with pytest.raises(type(error), match=str(error)):
        compare(target, members, nonmembers, attacks=OWN)


def test_the_head_alone_does_not_make_a_comparison():
    target, members, nonmembers = late(("logprob", 290))
    with pytest.raises(RuntimeError, match="out of luck"):
        compare(target, members, nonmembers, attacks=["loss", "mint"])


def test_nan_outputs_on_a_later_batch_end_the_comparison_of_a_network():
    class NanLate(ToyNet):
        def forward(self, x):
            return super().forward(x) / (x.mean((1, 2, 3)) < 50).float()[:, None]

    y = torch.arange(40) % 4
    outside = images(40, seed=2)
    outside[-1] += 100
    with pytest.raises(NonFiniteError, match="begins at row 72: 1 of 8 rows of logits in this batch hold NaN"):
        compare(NanLate().eval(), (images(40, seed=1), y), (outside, y), attacks=["loss", "gmint"], batch_size=16)


def test_a_failure_that_no_single_signal_causes_is_raised():
    class Together(TableTarget):
        def measure(self, batch, needs):
            if len(needs) > 1 and members[0][290, 0] in batch[0][:, 0]:
                raise MemoryError("too much at once")
            return super().measure(batch, needs)

    signals, members, nonmembers = table(N // 2, N // 2)
    with pytest.raises(MemoryError, match="too much at once"):
        compare(Together(signals, signals.columns), members, nonmembers, attacks=OWN)


def test_an_interruption_ends_everything():
    target, members, nonmembers = late(("hinge", 290), error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compare(target, members, nonmembers, attacks=OWN)
    signals, members, nonmembers = table()
    with pytest.raises(KeyboardInterrupt):
        compare(
            TableTarget(signals, signals.columns), members, nonmembers,
            attacks=["loss", "watson"], fleet=FailingFleet(signals, KeyboardInterrupt()),
        )  # fmt: skip


@pytest.mark.parametrize(
    "error, said",
    [
        (NonFiniteError("2 of 256 samples have NaN logits"), "2 of 256 samples have NaN logits"),
        (UsageError("this model tells 5 classes apart"), "this model tells 5 classes apart"),
        (OSError("the disk is gone"), "OSError: the disk is gone"),
    ],
)
def test_references_that_fail_cost_their_own_attacks_only(error, said):
    signals, members, nonmembers = table()
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    attacks = ["loss", "watson", "salem"]
    found = compare(TableTarget(signals, own), members, nonmembers, attacks=attacks, fleet=FailingFleet(signals, error))
    assert found["watson"].reason == f"needs reference_in, reference_logprob: the reference models: {said}"
    assert found["salem"].reason.endswith(f"the reference models: {said}")
    assert found["loss"]["auroc"].value > 0.6


def test_references_whose_columns_do_not_fit_cost_their_own_attacks_only():
    class Short(TableFleet):
        def signals(self, batches, needs, **arguments):
            return super().signals(batches, needs).rows(np.arange(7))

    signals, members, nonmembers = table()
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    found = compare(TableTarget(signals, own), members, nonmembers, attacks=["loss", "watson"], fleet=Short(signals))
    assert "the reference models: signals must have one length" in found["watson"].reason
    assert not found["loss"].reason


@pytest.mark.parametrize("stage", ["target", "references"])
def test_what_the_caller_raises_is_no_failure_of_the_models(stage):
    signals, members, nonmembers = table()
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}

    def stop(now, done, of):
        if now == stage:
            raise LookupError("stopped by the caller")

    with pytest.raises(LookupError, match="stopped by the caller"):
        compare(
            TableTarget(signals, own), members, nonmembers, attacks=["loss", "watson"], fleet=TableFleet(signals),
            progress=stop,
        )  # fmt: skip


def test_refused_references_are_not_asked():
    signals, members, nonmembers = table()
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    rows = read_labelled(members, nonmembers)
    fleet = FailingFleet(signals, AssertionError("they were asked"))
    found = gather(TableTarget(signals, own), fleet, rows, {"logprob", "shadow_in"}, refused="not these")
    assert (set(found.signals.columns), dict(found.missing)) == ({"logprob"}, {"shadow_in": "not these"})
    assert found.references == fleet.k
