import copy
import math

import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images
from target_toys import TOLERANCE, Wrapped, labels, trained_a_little

from amint.errors import NonFiniteError, UsageError
from amint.queries import Queries
from amint.signals import extract
from amint.targets import AuditedModel, ClassifierTarget

SCALARS = {"logprob", "max_logprob", "correct", "entropy", "modified_entropy", "hinge", "scaled_logit"}


def everything(model=None, **options):
    audit = audit_of(model or trained_a_little())
    return ClassifierTarget(audit.backbone, audit=audit, **options)


def test_every_column_has_its_shape_and_type():
    target, x, y = everything(queries=Queries(count=5)), images(6), labels(6)
    columns = target.measure((x, y), target.provides)
    assert set(columns) == target.provides
    shapes = {name: (column.dtype.name, column.shape) for name, column in columns.items()}
    assert shapes == {
        **dict.fromkeys(SCALARS | {"mint_logit", "gradient_norm"}, ("float64", (6,))),
        **dict.fromkeys(("logprob_queries", "scaled_logit_queries"), ("float64", (6, 5))),
        "top3": ("float64", (6, 3)),
        "label": ("int64", (6,)),
        "features": ("float32", (6, 16)),
        "activations": ("float32", (6, 8 + 16)),
        "maps": ("float16", (6, 16, 4, 4)),
        "gradient": ("float16", (6, 4 * 16 + 4)),
        "gradient_norms": ("float64", (6, len(list(target._model.parameters())))),
    }


def test_posteriors_against_torch():
    model, x, y = trained_a_little().eval(), images(9), labels(9)
    columns = ClassifierTarget(model).measure((x, y), SCALARS | {"label", "top3"})
    logp = model(x).detach().double().log_softmax(1)
    rest = torch.tensor([[math.log(1 - p) for p in row] for row in logp.exp().tolist()])
    picked = torch.arange(9), y
    np.testing.assert_array_equal(columns["label"], y)
    np.testing.assert_allclose(columns["logprob"], logp[picked], **TOLERANCE)
    np.testing.assert_allclose(columns["scaled_logit"], (logp - rest)[picked], **TOLERANCE)
    np.testing.assert_allclose(columns["entropy"], -(logp.exp() * logp).sum(1), **TOLERANCE)
    np.testing.assert_array_equal(columns["correct"], logp.argmax(1) == y)
    np.testing.assert_allclose(columns["top3"], logp.exp().sort(descending=True).values[:, :3], **TOLERANCE)


def test_the_model_is_left_as_it_was():
    model = trained_a_little().train()
    model.middle.eval()
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    target, state = everything(model), torch.get_rng_state()
    model.train()
    model.middle.eval()
    target.measure((images(6), labels(6)), target.provides)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    grads = {name for name, p in model.named_parameters() if p.grad is not None}
    assert grads == {"classifier.weight"}
    assert (model.classifier.weight.grad == 1).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_hooks_are_gone_after_an_error():
    model = Wrapped(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ClassifierTarget(model).measure((images(2), labels(2)), {"features"})
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_that_draws_random_numbers_leaves_the_generator_alone():
    model, state = Wrapped(lambda z: z + torch.rand_like(z)), torch.get_rng_state()
    ClassifierTarget(model).measure((images(2), labels(2)), {"logprob"})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch", [1, 4, 23])
def test_batch_size_and_order_do_not_matter(batch):
    target, x, y = everything(), images(23), labels(23)
    whole = extract(target, [(x, y)], target.provides)
    order = torch.randperm(23)
    parts = extract(target, zip(x[order].split(batch), y[order].split(batch), strict=True), target.provides)
    for name, column in whole.columns.items():
        half = {"rtol": 2e-3, "atol": 1e-4} if column.dtype == np.float16 else TOLERANCE
        np.testing.assert_allclose(parts[name], column[order], err_msg=name, **half)


def test_target_and_reference_see_the_same_views():
    x, y, queries = images(8), labels(8), Queries(count=4)
    model = trained_a_little().eval()
    columns = ClassifierTarget(model, queries=queries).measure((x, y), {"logprob", "logprob_queries"})
    for number, view in enumerate(queries.views(x)):
        logp = model(view).detach().double().log_softmax(1)[torch.arange(8), y]
        np.testing.assert_allclose(columns["logprob_queries"][:, number], logp, **TOLERANCE)
    np.testing.assert_array_equal(columns["logprob_queries"][:, 0], columns["logprob"])


def test_the_mint_logit_is_the_audits_to_the_bit():
    audit, x = audit_of(), images(6)
    found = [t.measure((x, labels(6)), {"mint_logit"}) for t in (AuditedModel(audit), everything(audit.backbone))]
    np.testing.assert_array_equal(found[0]["mint_logit"], audit.read(x).scores)
    target = ClassifierTarget(audit.backbone, audit=audit)
    np.testing.assert_array_equal(target.measure(x, {"mint_logit", "entropy"})["mint_logit"], audit.read(x).scores)


def test_what_reads_no_label_needs_none():
    target, x = everything(), images(5)
    free = {"max_logprob", "entropy", "top3", "features", "activations", "maps", "mint_logit"}
    with_labels = target.measure((x, labels(5)), free)
    for name, column in target.measure(x, free).items():
        np.testing.assert_array_equal(column, with_labels[name])
    for name in target.provides - free:
        with pytest.raises(UsageError, match=rf"\['{name}'\] need labels, but the loader yielded inputs only"):
            target.measure([x], {name})


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_inputs_follow_the_models_precision(precision):
    model = trained_a_little().to(precision)
    columns = ClassifierTarget(model).measure((images(4), labels(4).int()), {"logprob", "label", "features"})
    assert [columns[name].dtype for name in ("logprob", "label", "features")] == [np.float64, np.int64, np.float32]


@pytest.mark.parametrize(
    "function, found",
    [
        (lambda z: (z, z), "tuple"),
        (lambda z: {"logits": z}, "dict"),
        (lambda z: z.sum(1), r"\(3,\)"),
        (lambda z: z[:, :, None], r"\(3, 4, 1\)"),
        (lambda z: z[:2], r"\(2, 4\)"),
    ],
)
def test_what_is_no_logits(function, found):
    with pytest.raises(UsageError, match=rf"must give logits \[3, classes\] for 3 inputs, it gave {found}"):
        ClassifierTarget(Wrapped(function)).measure((images(3), labels(3)), {"logprob"})


def test_probabilities_one_class_and_nan():
    def measure(function):
        torch.manual_seed(1)
        return ClassifierTarget(Wrapped(function)).measure((images(3), labels(3)), {"entropy"})

    with pytest.raises(UsageError, match="found what looks like probabilities"):
        measure(lambda z: z.softmax(1))
    with pytest.raises(UsageError, match="at least 2 classes, found 1"):
        measure(lambda z: z[:, :1])
    with pytest.raises(NonFiniteError, match="1 of 3 rows of logits"):
        measure(lambda z: z.index_fill(0, torch.tensor([1]), float("nan")))
    log_probabilities, plain = measure(lambda z: z.log_softmax(1)), measure(lambda z: z)
    np.testing.assert_allclose(log_probabilities["entropy"], plain["entropy"], **TOLERANCE)


def test_labels_that_do_not_fit():
    def measure(y):
        ClassifierTarget(ToyNet()).measure((images(3), y), {"logprob"})

    with pytest.raises(UsageError, match=r"1 of 3 labels lie outside 0..3"):
        measure(torch.tensor([0, 4, 1]))
    with pytest.raises(UsageError, match="labels must be integers"):
        measure(torch.zeros(3))
    with pytest.raises(UsageError, match="labels must be integers"):
        measure(torch.zeros(3, 4, dtype=torch.int64))


def test_another_number_of_classes_than_expected():
    target = ClassifierTarget(ToyNet(), classes=10)
    with pytest.raises(UsageError, match=r"4 classes apart, 10 were expected \(found on 3 samples\)"):
        target.measure((images(3), labels(3)), {"logprob"})
    assert ClassifierTarget(ToyNet()).count_classes((images(3), labels(3))) == 4
    assert ClassifierTarget(ToyNet()).count_classes(images(1)) == 4


def test_an_audit_of_another_model():
    with pytest.raises(UsageError, match="audit is of another model"):
        ClassifierTarget(ToyNet(), audit=audit_of())


def test_audits_and_taps_add_what_they_can_show():
    plain = ClassifierTarget(ToyNet()).provides
    assert ClassifierTarget(ToyNet(), taps="middle").provides - plain == {"activations", "maps"}
    assert everything().provides - plain == {"activations", "maps", "mint_logit"}


def test_a_target_shows_its_model_and_audit_and_nobody_can_exchange_them():
    audit = audit_of()
    target = ClassifierTarget(audit.backbone, audit=audit)
    assert (target.model, target.audit) == (audit.backbone, audit)
    assert ClassifierTarget(audit.backbone).audit is None
    for name in ("model", "audit"):
        with pytest.raises(AttributeError):
            setattr(target, name, None)


def test_a_target_on_another_network_reads_that_one_and_stays_as_it_is():
    class Mine(ClassifierTarget):
        pass

    torch.manual_seed(0)
    first, other = ToyNet().eval(), ToyNet().eval()
    target = Mine(first, taps="middle", classes=4, queries=Queries(count=3))
    moved = target.on(other)
    assert (type(moved), moved.model, target.model, moved.queries) == (Mine, other, first, target.queries)
    batch = (images(3), torch.zeros(3, dtype=torch.int64))
    expected = ClassifierTarget(other, taps="middle").measure(batch, {"activations", "logprob"})
    found = moved.measure(batch, {"activations", "logprob"})
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_target_with_an_audit_moves_with_an_audit_only():
    audit, other = audit_of(), audit_of(seed=4)
    target = ClassifierTarget(audit.backbone, audit=audit)
    assert target.on(other.backbone, other).audit is other
    for moved in (target, ClassifierTarget(audit.backbone)):
        given = () if moved is target else (other,)
        with pytest.raises(UsageError, match="needs an audit of the other model"):
            moved.on(other.backbone, *given)
    with pytest.raises(UsageError, match="needs an audit of the other model"):
        target.on(other.backbone, audit)
