import copy
import logging
import re

import numpy as np
import pytest
import torch
from audit_toys import SHAPE, ToyNet, audit_of, images
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from amint.errors import AlphaError, NonFiniteError, RoleOverlapError, SplitError, UsageError
from amint.loading import load
from amint.verification import verify


def slow_scores(audit, x):
    """The whole network runs, plain hooks pick up the maps, the head reads them."""
    maps = {}
    modules = dict(audit.backbone.named_modules())
    handles = [
        modules[point.name].register_forward_hook(lambda _m, _i, out, name=point.name: maps.update({name: out.clone()}))
        for point in audit.points
    ]
    with torch.no_grad():
        audit.backbone.eval()(x)
        for handle in handles:
            handle.remove()
        return audit.head.eval()([maps[point.name] for point in audit.points])


def test_score_is_the_head_on_the_taps():
    audit = audit_of()
    x = images(7)
    torch.testing.assert_close(audit.score(x), slow_scores(audit, x), rtol=0, atol=0)
    assert audit.score(x).dtype == torch.float32
    assert audit.score(x).std() > 0


def test_score_runs_no_further_than_the_deepest_tap():
    audit = audit_of()
    before = audit.score(images(3))
    audit.backbone.last = audit.backbone.classifier = None
    assert torch.equal(audit.score(images(3)), before)


def test_score_leaves_the_model_as_it_was():
    audit = audit_of()
    audit.backbone.train()
    audit.backbone.middle.eval()
    audit.head.train()
    modes = [m.training for m in audit.backbone.modules()]
    weights = copy.deepcopy(audit.backbone.state_dict())
    scores = audit.score(images(4))
    assert not scores.requires_grad
    assert [m.training for m in audit.backbone.modules()] == modes
    assert audit.head.training
    assert all(torch.equal(value, weights[name]) for name, value in audit.backbone.state_dict().items())
    assert all(p.grad is None for p in audit.backbone.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in audit.backbone.modules())


def test_one_row_or_many_gives_the_same_scores():
    audit = audit_of()
    x = images(9)
    together = audit.scores(x)
    one_by_one = np.concatenate([audit.score(row[None]).numpy() for row in x])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_every_kind_of_source_gives_the_same_scores():
    audit = audit_of()
    x, y = images(10), torch.arange(10)
    expected = audit.score(x).double().numpy()
    sources = [
        x,
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=4),
        [(row, label) for row, label in zip(x, y, strict=True)],
        ({"pixels": rows, "label": 0} for rows in x.split(3)),
    ]
    for source in sources:
        found = audit.scores(source)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("of_model, of_input", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_inputs_take_the_model_s_precision(of_model, of_input):
    audit = audit_of(ToyNet().to(of_model))
    x = images(4)
    expected = audit.score(x.to(of_model))
    assert torch.equal(audit.score(x.to(of_input)), expected)


def test_an_empty_source_is_refused():
    audit = audit_of(calibration=0)
    with pytest.raises(UsageError, match="nothing to score"):
        audit.scores([])
    with pytest.raises(UsageError, match=r"calibration data is empty; pass known non-members"):
        audit.calibrate(images(0))
    assert audit.calibration is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_name_their_rows(value):
    audit = audit_of()
    x = images(6)
    x[2, 0, 3, 3] = x[5, 1, 0, 0] = value
    with pytest.raises(NonFiniteError, match=r"2 of 6 scores are not finite \(rows \[2, 5\]\)"):
        audit.score(x)


def test_inputs_of_another_shape_name_both():
    with pytest.raises(UsageError, match=r"not take inputs of shape \(1, 16, 16\); .* inputs of shape \(3, 16, 16\)"):
        audit_of().score(images(2, shape=(1, 16, 16)))


def test_a_tap_that_the_model_lacks_is_refused():
    audit = audit_of()
    with pytest.raises(SplitError, match="no module 'entry'"):
        type(audit)(nn.Linear(2, 2), audit.points, audit.head, SHAPE)


def test_calibrate_keeps_the_scores_of_the_non_members():
    audit = audit_of(calibration=0)
    with pytest.raises(UsageError, match=r"not calibrated; call audit.calibrate"):
        audit.calibrated()
    calibration = audit.calibrate(DataLoader(TensorDataset(images(30, seed=8)), batch_size=7))
    assert calibration == audit.calibrated()
    np.testing.assert_allclose(calibration.scores, np.sort(audit.scores(images(30, seed=8))), atol=1e-5)


@pytest.mark.parametrize("role", ["members", "external"])
def test_rows_seen_in_training_cannot_calibrate(role):
    audit = audit_of(calibration=0)
    audit.ledger.add(role, images(5))
    with pytest.raises(RoleOverlapError, match=f"1 of 4 rows given as calibration were already seen as {role}"):
        audit.calibrate(torch.cat([images(3, seed=2), images(1)]))
    assert audit.calibration is None


def test_rows_that_repeat_lend_no_smaller_false_alarm_rate(tmp_path, caplog):
    audit = audit_of(calibration=0)
    x = images(20, seed=8)
    with caplog.at_level(logging.WARNING, "amint"):
        audit.calibrate(DataLoader(TensorDataset(x.repeat(50, 1, 1, 1)), batch_size=64))
    assert len(audit.calibrated().scores) == 20
    assert audit.facts["calibration_copies"] == 980
    assert "980 of 1000 calibration rows are exact copies of others" in caplog.text
    for judge in (audit, load(audit.save(tmp_path / "a"), model=ToyNet())):
        with pytest.raises(AlphaError, match="with 20 calibration samples"):
            verify(judge, images(3, seed=9), alpha=0.01)
        assert verify(judge, images(3, seed=9), alpha=0.05).calibration_n == 20


def test_a_few_copies_are_left_out_where_they_stand_again(caplog):
    audit, other = audit_of(calibration=0), audit_of(calibration=0)
    x = images(30, seed=8)
    with caplog.at_level(logging.WARNING, "amint"):
        other.calibrate(x)
    assert "copies" not in caplog.text
    audit.calibrate(torch.cat([x[:10], x[3:4], x[10:], x[:1], x[29:]]))
    assert other.facts["calibration_copies"] == 0
    assert audit.facts["calibration_copies"] == 3
    for name, column in vars(other.records).items():
        assert column is None or np.array_equal(column, getattr(audit.records, name)), name
    audit.calibrate(x)
    assert audit.facts["calibration_copies"] == 0


def test_evaluate_against_plain_formulas():
    audit = audit_of()
    members, others = images(40, seed=4, level=0.3), images(60, seed=5)
    measured = audit.evaluate(members, others, alpha=0.1)
    inside, outside = audit.scores(members), audit.scores(others)
    labels = np.r_[np.ones(40), np.zeros(60)]
    assert measured["auroc"].value == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]))
    calibration = audit.calibrated()
    flagged = [(calibration.p_values(scores) <= 0.1).mean() for scores in (inside, outside)]
    assert measured["balanced_accuracy"].value == pytest.approx((flagged[0] + 1 - flagged[1]) / 2)
    assert set(measured) == {"auroc", "balanced_accuracy", *(f"tpr_at_fpr_{rate}" for rate in (0.1, 0.01, 0.001))}


def test_evaluate_needs_calibration():
    with pytest.raises(UsageError, match="not calibrated"):
        audit_of(calibration=0).evaluate(images(2), images(2))


def test_evaluate_refuses_the_threshold_of_another_head():
    audit = audit_of()
    with torch.no_grad():
        next(audit.head.parameters()).add_(1)
    with pytest.raises(UsageError, match=r"changed after audit.calibrate\(\); calibrate again"):
        audit.evaluate(images(20, seed=4), images(20, seed=5))
    audit.calibrate(images(30, seed=6))
    audit.evaluate(images(20, seed=4), images(20, seed=5))


def test_parameter_share():
    audit = audit_of()
    head = sum(p.numel() for p in audit.head.parameters())
    backbone = sum(p.numel() for p in ToyNet().parameters())
    assert audit.parameter_share == head / backbone


def test_save_needs_calibration(tmp_path):
    with pytest.raises(UsageError, match="not calibrated"):
        audit_of(calibration=0).save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


CHANGES = {
    "in place": lambda audit: audit.backbone.entry[0].weight.detach().mul_(2),
    "behind autograd's back": lambda audit: audit.backbone.entry[0].weight.data.mul_(2),
    "a new parameter": lambda audit: setattr(audit.backbone.classifier, "bias", nn.Parameter(torch.ones(4))),
    "batch statistics": lambda audit: audit.backbone.train()(images(4)),
    "the head": lambda audit: nn.init.normal_(audit.head.join[2].weight),
    "precision": lambda audit: audit.backbone.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loaded", [False, True])
def test_save_refuses_a_model_that_changed_after_calibration(tmp_path, change, loaded):
    audit = audit_of()
    if loaded:
        audit = load(audit.save(tmp_path / "first"), model=ToyNet())
    CHANGES[change](audit)
    with pytest.raises(UsageError, match=r"changed after audit\.calibrate"):
        audit.save(tmp_path / "second")
    assert not (tmp_path / "second").exists()
    audit.calibrate(images(20, seed=7))
    audit.save(tmp_path / "second")


def test_moving_the_model_to_and_fro_changes_nothing(tmp_path):
    audit = audit_of()
    audit.backbone.double().float()
    audit.save(tmp_path / "a")


def test_what_is_known_of_the_training_survives_saving_twice(tmp_path):
    audit = audit_of()
    audit.ledger.add("members", images(6))
    once = load(audit.save(tmp_path / "once"), model=ToyNet())
    twice = load(once.save(tmp_path / "twice"), model=ToyNet())
    told = {"method": "toy", "members_seen": 6, "by_class": False, "calibration_copies": 0, "controls": []}
    assert once.facts == twice.facts == told


def test_batches_without_rows_are_read_as_nothing_and_left_out_of_the_calibration():
    audit, plain = audit_of(calibration=0), audit_of(calibration=0)
    nothing = audit.read(images(0))
    assert (len(nothing.scores), len(nothing.confidence), len(nothing.classes)) == (0, 0, 0)
    assert audit.score(images(0)).shape == (0,)
    x = images(30, seed=8)
    assert audit.calibrate(iter([x[:0], x[:20], x[:0], x[20:]])) == plain.calibrate(x)
    with pytest.raises(UsageError, match="calibration data is empty"):
        audit.calibrate(iter([x[:0]]))


@pytest.mark.parametrize("split", ["entry", "middle", "last", ("entry", "middle"), ("entry", "last")])
def test_the_whole_pass_scores_as_the_pass_up_to_the_taps_to_the_bit(split):
    audit = audit_of(calibration=0, split=split)
    x = images(40)
    padded = torch.cat([x[32:], x[39:].expand(8, *SHAPE)])
    expected = torch.cat([audit.score(x[:16]), audit.score(x[16:32]), audit.score(padded)[:8]]).double().numpy()
    read = audit.read(x)
    assert np.array_equal(read.scores, expected)
    with torch.no_grad():
        logits = torch.cat([audit.backbone(x[:16]), audit.backbone(x[16:32]), audit.backbone(padded)[:8]]).double()
    assert np.array_equal(read.confidence, torch.log_softmax(logits, 1).max(1).values.numpy())
    assert np.array_equal(read.classes, logits.argmax(1).numpy())


def test_reading_runs_every_layer_once():
    audit = audit_of(calibration=0)
    count = []
    for module in audit.backbone.children():
        module.register_forward_hook(lambda module, *_: count.append(module))
    audit.read(images(16))
    assert count == list(audit.backbone.children())


def test_the_calibration_is_sorted_once_for_all_calls():
    audit = audit_of()
    assert audit.calibrated() is audit.calibrated() is audit.calibration
    before = audit.calibrated()
    assert audit.calibrate(images(20, seed=77)) is audit.calibrated()
    assert audit.calibrated() != before


@pytest.mark.parametrize("wrong", ["pictures/", None, [1.0]])
def test_only_tensors_are_read(wrong):
    with pytest.raises(UsageError, match="a tensor"):
        audit_of().read(wrong)


@pytest.mark.parametrize("seen", [0, 3])
def test_a_head_that_has_seen_no_member_is_remarked_on(caplog, seen):
    audit = audit_of(calibration=0)
    audit.ledger.add("members", images(seen, seed=4))
    audit.calibrate(images(30, seed=8))
    assert ("has seen no member" in caplog.text) == (seen == 0)


def test_an_audit_says_in_short_what_it_is():
    audit = audit_of(ToyNet())
    assert re.fullmatch(r"<Audit: ToyNet, tapped at \w+(, \w+)*; calibrated on \d+>", repr(audit))


@pytest.mark.parametrize(
    "rows, error, match",
    [
        (torch.cat([images(3), torch.full((1, *SHAPE), float("nan"))]), NonFiniteError, "NaN or infinity, .3. among"),
        (images(3)[:, :1], UsageError, "does not take inputs of shape"),
        ((images(3) * 50).to(torch.uint8), UsageError, "does not take inputs of torch.uint8"),
    ],
    ids=["nan", "channels", "bytes"],
)
def test_rows_that_cannot_be_scored_are_refused_before_training_as_after_it(rows, error, match):
    audit = audit_of()
    audit.check_calibration(images(4, seed=9))
    with pytest.raises(error, match=match):
        audit.check_calibration(rows)
    with pytest.raises(error):
        audit.calibrate(rows)
