"""Augmented training: the task learns from augmented rows, the head from the plain ones."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toys import Net, images, labels

import amint
from amint.errors import StepError
from amint.losses import membership_loss

X, Y, EXTERNAL = images(48), labels(48), images(80, seed=3)


@pytest.mark.parametrize("trunk_gradient", [1, 0.3, 0])
@pytest.mark.parametrize("tolerance", [None, lambda x: x + 0.1])
@pytest.mark.parametrize("negatives", [None, amint.HardNegatives(lambda x: x.flip(-1), True)])
def test_gradients_are_the_tasks_on_augmented_and_the_heads_on_plain_rows(trunk_gradient, tolerance, negatives):
    model = Net().double()
    x, y, external = images(12, dtype=torch.float64), labels(12), images(40, seed=3, dtype=torch.float64)
    audit = amint.attach(
        model,
        external=external,
        split=["a", "b"],
        balance=amint.Weighted(),
        tolerance=tolerance,
        negatives=negatives,
        trunk_gradient=trunk_gradient,
    )
    twin = copy.deepcopy(audit.mixture)
    rows, views = twin.rows(x), twin.views(x)
    with audit.seen_as(x):
        audit.loss(F.cross_entropy(model(-2 * x), y)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    with audit.paused():
        F.cross_entropy(model(-2 * x), y).backward()
    task = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    known = torch.cat([x, views])
    maps = [model.a(torch.cat([known, *rows]))]
    maps.append(model.b(maps[0].clone()))
    membership_loss(audit.head.each(maps), len(known), 0.2).backward()
    for name, p in model.named_parameters():
        share = 1 if "mint_head" in name else trunk_gradient
        expected = (0 if p.grad is None else share * p.grad) + task.get(name, 0)
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9)


def test_the_model_gives_the_augmented_rows_output_and_the_roles_know_the_plain_rows():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, split="a")
    expected = copy.deepcopy(model).eval()(X[:16] + 1)
    with audit.seen_as(X[:16]):
        out = model(X[:16] + 1)
    torch.testing.assert_close(out, expected)
    assert audit.ledger.count("members") == 16
    with pytest.raises(amint.AmintError, match="already seen as members"):
        audit.ledger.add("calibration", X[:1])
    audit.ledger.add("calibration", X[:1] + 1)
    assert audit.facts["seen_as"] == "plain"


def test_afterwards_the_head_sees_what_the_model_is_called_with():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, split="a")
    with audit.seen_as(X[:4]):
        audit.loss(F.cross_entropy(model(X[4:8]), Y[:4]))
    audit.loss(F.cross_entropy(model(X[8:12]), Y[:4]))
    assert audit.ledger.count("members") == 8
    with pytest.raises(RuntimeError, match="mine"), audit.seen_as(X[:4]):
        raise RuntimeError("mine")
    audit.loss(F.cross_entropy(model(X[12:16]), Y[:4]))
    assert audit.ledger.count("members") == 12


@pytest.mark.parametrize("plain", [X[:3], X[:4, :1], torch.zeros(X[:4].shape, dtype=torch.int64)])
def test_other_rows_are_refused(plain):
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, split="a")
    with audit.seen_as(plain), pytest.raises(StepError, match="same samples in the same order"):
        model(X[:4])


def test_a_head_that_sees_plain_rows_knows_them_although_the_task_is_augmented():
    aurocs = {}
    for seen in (True, False):
        torch.manual_seed(0)
        model = Net(width=16)
        audit = amint.attach(model, external=EXTERNAL, split="a", balance=amint.Weighted(), seed=0)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(150):
            rows = torch.randperm(48)[:24]
            augmented = X[rows] + torch.randn_like(X[rows])
            if seen:
                with audit.seen_as(X[rows]):
                    loss = audit.loss(F.cross_entropy(model(augmented), Y[rows]))
            else:
                loss = audit.loss(F.cross_entropy(model(augmented), Y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        audit.calibrate(images(60, seed=7))
        aurocs[seen] = audit.evaluate(X, images(200, seed=8))["auroc"].value
    assert aurocs[True] > 0.8
    assert aurocs[True] > aurocs[False] + 0.05
