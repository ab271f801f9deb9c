import copy
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import MetricCollection

from amint.calibration import Calibration
from amint.errors import AlphaError, NonFiniteError, UsageError
from amint.meters import CalibratedBalancedAccuracy, MembershipAUROC, TPRAtFPR, membership_metrics
from amint.metrics import auroc, balanced_accuracy, tpr_at_fpr

KNOWN = Calibration(np.linspace(-2, 2, 39))


def sample(n=120, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    scores = np.round(rng.normal(size=n) + labels, 1).astype(np.float32)
    return torch.tensor(scores), torch.tensor(labels)


METERS = {
    "auroc": (MembershipAUROC, auroc),
    "tpr": (lambda: TPRAtFPR(0.1), lambda s, m: tpr_at_fpr(s, m, 0.1)),
    "balanced": (
        lambda: CalibratedBalancedAccuracy(KNOWN),
        lambda s, m: balanced_accuracy(s, m, KNOWN.threshold(0.05)),
    ),
}
each = pytest.mark.parametrize("make, plain", METERS.values(), ids=METERS)


@each
@given(cuts=st.lists(st.integers(0, 120), max_size=6), seed=st.integers(0, 20))
def test_any_batching_equals_the_plain_function(make, plain, cuts, seed):
    scores, labels = sample(seed=seed)
    meter = make()
    ends = [0, *sorted(cuts), 120]
    for start, stop in pairwise(ends):
        meter.update(scores[start:stop], labels[start:stop])
    value = meter.compute()
    assert value.shape == ()
    assert value == torch.tensor(plain(scores.numpy(), labels.numpy()))


@each
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("precision", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype_is_understood(make, plain, dtype, precision):
    scores, labels = sample()
    scores = scores.to(precision).requires_grad_()
    meter = make()
    meter.update(scores[:60], labels[:60])
    meter.update(scores[60:], labels[60:].to(dtype))
    assert meter.compute() == torch.tensor(plain(scores.detach().double().numpy(), labels.numpy()))


@each
def test_forward_gives_the_batch_and_keeps_the_total(make, plain):
    scores, labels = sample()
    meter = make()
    for part in (slice(0, 50), slice(50, 120)):
        assert meter(scores[part], labels[part]) == torch.tensor(plain(scores[part].numpy(), labels[part].numpy()))
    assert meter.compute() == torch.tensor(plain(scores.numpy(), labels.numpy()))


@each
def test_reset_forgets_and_copies_and_files_remember(make, plain):
    scores, labels = sample()
    meter = make()
    meter.update(scores, labels)
    buffer = io.BytesIO()
    torch.save(meter, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(meter), torch.load(buffer, weights_only=False)):
        assert twin.compute() == meter.compute()
    meter.reset()
    meter.update(-scores, labels)
    assert meter.compute() == torch.tensor(plain(-scores.numpy(), labels.numpy()))


@each
def test_one_class_is_an_error_and_not_a_number(make, plain):
    scores, _ = sample()
    meter = make()
    meter.update(scores, torch.ones(120))
    with pytest.raises(UsageError, match="120 members and 0 non-members"):
        meter.compute()
    meter.update(scores, torch.zeros(120))
    assert meter.compute() == torch.tensor(plain(np.tile(scores.numpy(), 2), np.arange(240) < 120))


@each
def test_before_the_first_batch_there_is_nothing_to_compute(make, plain):
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(UsageError, match="0 members"):
        make().compute()


@each
def test_wrong_input_is_refused(make, plain):
    meter = make()
    for scores, labels in [
        (torch.zeros(3), torch.zeros(2)),
        (torch.zeros(3, 1), torch.zeros(3, 1)),
        (torch.tensor(1.0),) * 2,
    ]:
        with pytest.raises(UsageError, match=r"both have shape \[n\]"):
            meter.update(scores, labels)
    meter.update(torch.tensor([0.1, torch.nan]), torch.tensor([0, 1]))
    with pytest.raises(NonFiniteError, match="1 of 2"):
        meter.compute()
    meter.reset()
    meter.update(torch.zeros(2), torch.tensor([0.5, 1]))
    with pytest.raises(UsageError, match="0/1"):
        meter.compute()


@each
def test_states_gathered_from_other_processes_are_understood(make, plain):
    scores, labels = sample()
    meter = make()
    meter.update(scores, labels)
    # What a distributed gather leaves behind: one tensor where there was a list.
    meter.scores, meter.is_member = torch.cat([scores, scores]), torch.cat([labels, ~labels])
    expected = plain(np.tile(scores.numpy(), 2), np.r_[labels.numpy(), ~labels.numpy()])
    assert meter.compute() == torch.tensor(expected)


@pytest.mark.parametrize("known", [KNOWN, KNOWN.scores, KNOWN.scores.tolist(), torch.tensor(KNOWN.scores)])
def test_the_threshold_comes_from_calibration_non_members(known):
    meter = CalibratedBalancedAccuracy(known, alpha=0.1)
    assert meter.threshold == KNOWN.threshold(0.1)
    assert meter.half().threshold == KNOWN.threshold(0.1)
    # A non-member that equals the cut-off calibration score is not called a member, not even in float32.
    meter.update(torch.tensor([9, np.nextafter(meter.threshold, -9)]), torch.tensor([1, 0]))
    assert meter.compute() == 1


def test_constructors_refuse_what_cannot_work():
    with pytest.raises(AlphaError, match="at least 99 calibration samples"):
        CalibratedBalancedAccuracy(KNOWN, alpha=0.01)
    with pytest.raises(NonFiniteError, match="calibration scores"):
        CalibratedBalancedAccuracy([0.0, np.nan])
    with pytest.raises(UsageError, match=r"fpr must lie between 0 and 1, found 1.5"):
        TPRAtFPR(1.5)


def test_the_collection_has_every_number_under_its_name():
    meters = membership_metrics()
    assert isinstance(meters, MetricCollection)
    scores, labels = sample(300)
    for start in range(0, 300, 50):
        meters.update(scores[start : start + 50], labels[start : start + 50])
    found = meters.compute()
    assert set(found) == {"auroc", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}
    assert found["auroc"] == torch.tensor(auroc(scores, labels))
    for fpr in (0.1, 0.01, 0.001):
        assert found[f"tpr_at_fpr_{fpr}"] == torch.tensor(tpr_at_fpr(scores, labels, fpr))
    # One copy of the scores for all of them.
    assert len(meters.compute_groups) == 1
    assert list(meters) == list(found) == [name for name, _ in meters.items()]
    assert meters["tpr_at_fpr_0.1"].fpr == 0.1


def test_the_collection_resets_clones_and_runs_forward():
    scores, labels = sample()
    meters = membership_metrics(fprs=[0.2]).clone(prefix="val_")
    batch = meters(scores, labels)
    total = meters.compute()
    assert batch == total == {"val_auroc": total["val_auroc"], "val_tpr_at_fpr_0.2": total["val_tpr_at_fpr_0.2"]}
    meters.reset()
    meters.update(-scores, labels)
    assert meters.compute()["val_auroc"] == torch.tensor(auroc(-scores.numpy(), labels.numpy()))


def gathering_process(rank, address, ends):
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        scores, labels = sample()
        meters = membership_metrics()
        # Each process alone holds one class only, and not the same number of samples.
        mine = labels if rank == 0 else ~labels
        for part in scores[mine].split(31):
            meters.update(part, torch.full_like(part, rank == 0, dtype=torch.bool))
        found = meters.compute()
        ends.put({name: float(value) for name, value in found.items()})
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_two_processes_compute_on_all_scores(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    ends = context.SimpleQueue()
    address = (tmp_path / "meet").as_uri()
    torch.multiprocessing.spawn(gathering_process, args=(address, ends), nprocs=2)
    scores, labels = (values.numpy() for values in sample())
    for found in (ends.get(), ends.get()):
        assert found["auroc"] == pytest.approx(auroc(scores, labels))
        assert found["tpr_at_fpr_0.01"] == pytest.approx(tpr_at_fpr(scores, labels, 0.01))
