import copy

import pytest
from audit_toys import audit_of, images
from target_toys import Wrapped, labels, trained_a_little
from torch import nn

from amint.queries import Queries
from amint.targets import AuditedModel, ClassifierTarget

CHANGES = {
    "weight": lambda model: model.classifier.weight.data[0, 0].add_(1e-3),
    "buffer": lambda model: model.entry[1].running_mean.add_(1e-3),
    "activation": lambda model: setattr(model.middle, "1", nn.GELU()),
    "attribute": lambda model: setattr(model.entry[1], "eps", 1e-3),
    "precision": lambda model: model.double(),
    "order": lambda model: setattr(model, "last", nn.Sequential(*reversed(model.last))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_identity_changes_with_the_model(change):
    model = trained_a_little()
    target, before = ClassifierTarget(model), ClassifierTarget(copy.deepcopy(model)).identity()
    assert target.identity() == before
    CHANGES[change](model)
    assert target.identity() != before


def test_identity_changes_with_the_probes_and_the_code():
    model, audit = trained_a_little(), audit_of()
    once = Wrapped(lambda z: z)
    twice = Wrapped(lambda z: z * 2)
    twice.body = once.body
    variants = [
        ClassifierTarget(model),
        ClassifierTarget(model, taps="middle"),
        ClassifierTarget(model, taps="last"),
        ClassifierTarget(model, classes=4),
        ClassifierTarget(model, queries=Queries(count=3)),
        ClassifierTarget(model, queries=Queries(seed=1)),
        ClassifierTarget(audit.backbone, audit=audit),
        AuditedModel(audit),
        ClassifierTarget(once),
        ClassifierTarget(twice),
    ]
    assert len({target.identity() for target in variants}) == len(variants)


def test_identity_ignores_what_does_not_change_the_signals():
    model = trained_a_little()
    target = ClassifierTarget(model)
    before = target.identity()
    model.train(not model.training)
    model.classifier.register_forward_hook(lambda *_: None)
    model.requires_grad_(False)
    target.measure((images(2), labels(2)), {"logprob"})
    assert target.identity() == before
