import copy

import pytest
import torch
import torch.nn.functional as F
from toys import Net, images, labels, train

import amint
from amint.errors import UsageError

X, Y, EXTERNAL = images(32), labels(32), images(40, seed=3)


class Balance:
    """A user's balance, as wrong as the test needs it."""

    def __init__(self, combine):
        self.combine = combine


def attached(model, **options):
    return amint.attach(model, external=EXTERNAL, **{"balance": amint.Weighted(), **options})


def refused(model, audit, optimizer, message, at):
    train(model, optimizer, X, Y, 1, audit)
    with pytest.raises(UsageError, match=message):
        train(model, optimizer, X, Y, 1, audit) if at == "second step" else audit.calibrate(images(9, seed=4))


def optimizers(model):
    return [torch.optim.SGD(model.parameters(), 0.1), torch.optim.Adam(model.parameters(), 0.01, foreach=True)]


both = pytest.mark.parametrize("at", ["second step", "calibrate"])
OUTSIDE = r"moved the model but not {0} of {0} parameters of the MINT head.*attach before the opt.*add_param_group"


@both
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_an_optimizer_made_before_attaching_is_refused(at, which, trunk_gradient):
    model = Net()
    optimizer = optimizers(model)[which]
    audit = attached(model, trunk_gradient=trunk_gradient)
    refused(model, audit, optimizer, OUTSIDE.format(len(list(audit.head.parameters()))), at)


@both
def test_the_remedy_that_the_message_names_works(at):
    model = Net()
    optimizer = optimizers(model)[0]
    audit = attached(model)
    optimizer.add_param_group({"params": audit.head.parameters()})
    train(model, optimizer, X, Y, 3, audit)
    audit.calibrate(images(9, seed=4))


@both
def test_an_optimizer_with_part_of_the_head_is_refused(at):
    model = Net()
    audit = attached(model)
    left_out = list(audit.head.parameters())[-1]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p is not left_out], 0.1)
    count = len(list(audit.head.parameters()))
    refused(model, audit, optimizer, rf"but not 1 of {count} parameters of the MINT head \(join.2.bias\)", at)


@both
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    "combine",
    [lambda task, mint: task + 0 * mint, lambda task, mint: task + mint.detach(), lambda task, mint: task],
    ids=["times zero", "detached", "left out"],
)
def test_a_balance_without_the_mint_loss_is_refused(at, combine, optimizer):
    model = Net()
    audit = attached(model, balance=Balance(combine))
    message = r"did not reach the head: its gradient is zero or missing.*do not multiply the MINT loss by zero"
    refused(model, audit, optimizer(model.parameters(), 0.1), message, at)


@both
def test_backward_on_another_loss_is_refused(at):
    model = Net()
    audit = attached(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    task = F.cross_entropy(model(X), Y)
    audit.loss(task)
    task.backward()
    optimizer.step()
    message = r"did not reach the head.*Call backward\(\) on what audit.loss\(\) returned"
    with pytest.raises(UsageError, match=message):
        audit.loss(F.cross_entropy(model(X), Y)) if at == "second step" else audit.calibrate(images(9, seed=4))


@both
def test_a_frozen_trunk_is_refused_unless_its_gradient_is_zero(at):
    model = Net()
    model.a.requires_grad_(False)
    twin = copy.deepcopy(model)
    audit = attached(model, split="a", trunk_gradient=0.5)
    message = r"did not reach the audited model.*layers up to the tap are frozen. Use trunk_gradient=0"
    refused(model, audit, optimizers(model)[0], message, at)
    audit = attached(twin, split="a", trunk_gradient=0)
    train(twin, optimizers(twin)[0], X, Y, 3, audit)
    audit.calibrate(images(9, seed=4))


def test_accumulation_before_the_first_step_is_no_mistake():
    model = Net()
    audit = attached(model)
    optimizer = optimizers(model)[0]
    for _ in range(3):
        audit.loss(F.cross_entropy(model(X), Y)).backward()
    optimizer.step()
    audit.loss(F.cross_entropy(model(X), Y)).backward()


def test_after_one_right_step_nothing_is_watched_any_more():
    model = Net()
    audit = attached(model)
    hooked = [p for p in audit.head.parameters() if p._post_accumulate_grad_hooks]
    assert len(hooked) == len(list(audit.head.parameters()))
    train(model, optimizers(model)[0], X, Y, 2, audit)
    assert not any(p._post_accumulate_grad_hooks for p in audit.head.parameters())
    # Stopping to train the head later on is the user's decision.
    audit.head.requires_grad_(False)
    train(model, torch.optim.SGD(model.a.parameters(), 0.1), X, Y, 2, audit)


def test_optimizers_may_share_the_work():
    model = Net()
    audit = attached(model)
    head = {id(p) for p in audit.head.parameters()}
    both = [
        torch.optim.SGD([p for p in model.parameters() if id(p) not in head], 0.1),
        torch.optim.AdamW(audit.head.parameters(), 0.01),
    ]
    for _ in range(3):
        audit.loss(F.cross_entropy(model(X), Y)).backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    audit.calibrate(images(9, seed=4))
