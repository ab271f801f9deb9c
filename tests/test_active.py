import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Net, images, labels, same, train

import amint
from amint.losses import membership_loss

X, Y, EXTERNAL = images(48), labels(48), images(80, seed=3)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("trunk_gradient", [1, 0.3, 0])
@pytest.mark.parametrize(
    "split, negatives", [("a", None), (["a", "b"], amint.HardNegatives(lambda x: x.flip(-1), True))]
)
@pytest.mark.parametrize("ratio", [1, 0.4, 2.5])
def test_one_mixed_pass_has_the_gradients_of_two_separate_ones(trunk_gradient, split, negatives, ratio):
    model = Net().double()
    x, y, external = images(12, dtype=torch.float64), labels(12), images(40, seed=3, dtype=torch.float64)
    audit = amint.attach(
        model,
        external=external,
        split=split,
        balance=amint.Weighted(task=0.7, mint=3),
        ratio=ratio,
        negatives=negatives,
        trunk_gradient=trunk_gradient,
    )
    rows = copy.deepcopy(audit.mixture).rows(x)
    audit.loss(F.cross_entropy(model(x), y)).backward()
    mixed = gradients(model)

    model.zero_grad()
    with audit.paused():
        (0.7 * F.cross_entropy(model(x), y)).backward()
    task_only = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert not any("mint_head" in name for name in task_only)
    task_only = {name: grad.clone() for name, grad in task_only.items()}
    model.zero_grad()
    maps, h = [], torch.cat([x, *rows])
    for stage in [model.a, model.b][: len(audit.points)]:
        h = stage(h)
        maps.append(h)
        h = h.clone()
    (3 * membership_loss(audit.head.each(maps), 12, 0.2)).backward()
    for name, p in model.named_parameters():
        share = 1 if "mint_head" in name else trunk_gradient
        expected = (0 if p.grad is None else share * p.grad) + task_only.get(name, 0)
        torch.testing.assert_close(mixed[name], expected, rtol=1e-9, atol=1e-9)
    assert torch.any(mixed["a.0.weight"] != task_only["a.0.weight"]) == (trunk_gradient > 0)


@pytest.mark.parametrize(
    "optimizer", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.01)]
)
def test_without_trunk_gradient_the_model_trains_as_if_alone(optimizer):
    torch.manual_seed(5)
    plain = Net(norm=True, dropout=0.5)
    audited = copy.deepcopy(plain)
    audit = amint.attach(audited, external=EXTERNAL, trunk_gradient=0, negatives=amint.one_pixel_shift, monitor=20)
    states = []
    for model, its in ((plain, None), (audited, audit)):
        torch.manual_seed(6)
        train(model, optimizer(model.parameters()), X, Y, 9, its)
        if its is not None:
            its.monitor()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert same(plain.state_dict(), audited.state_dict())
    assert audit.facts["steps"] == 9


def test_the_mint_loss_changes_the_trunk_when_it_may():
    plain = Net()
    audited = copy.deepcopy(plain)
    audit = amint.attach(audited, external=EXTERNAL, balance=amint.Weighted())
    train(plain, torch.optim.SGD(plain.parameters(), 0.1), X, Y, 2)
    train(audited, torch.optim.SGD(audited.parameters(), 0.1), X, Y, 2, audit)
    assert not torch.equal(plain.a[0].weight, audited.a[0].weight)


@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_training_gives_members_rows_and_evaluation_the_plain_output(trunk_gradient):
    model = Net(norm=True, dropout=0.3)
    plain = copy.deepcopy(model)
    audit = amint.attach(model, external=EXTERNAL, trunk_gradient=trunk_gradient, ratio=3)
    assert model(X[:5]).shape == (5, 3)
    audit.discard()
    plain.load_state_dict(model.state_dict())
    model.eval()
    plain.eval()
    assert torch.equal(model(X), plain(X))
    with torch.no_grad():
        assert torch.equal(model(x=X), plain(x=X))


def test_scores_are_the_heads_and_the_pass_ends_at_the_deepest_tap():
    model = Net(norm=True, dropout=0.3)
    audit = amint.attach(model, external=EXTERNAL, split="a")
    later = []
    handles = [m.register_forward_hook(lambda *_: later.append(1)) for m in (model.b, model.c)]
    modes = [m.training for m in model.modules()]
    scores = audit.score(X)
    assert later == []
    assert modes == [m.training for m in model.modules()]
    for handle in handles:
        handle.remove()
    model.eval()
    with torch.no_grad():
        assert torch.equal(scores, audit.head([model.a(X)]))
    assert scores.shape == (48,)
    assert audit.scores(torch.utils.data.TensorDataset(X)).tolist() == pytest.approx(scores.tolist(), abs=1e-6)


@settings(deadline=None)
@given(n=st.integers(1, 20), k=st.integers(1, 20), seed=st.integers(0, 99), smoothing=st.sampled_from([0.0, 0.1, 0.8]))
def test_membership_loss_weighs_members_and_others_alike(n, k, seed, smoothing):
    logits = 5 * torch.randn(n + k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    truth = torch.cat([torch.ones(n), torch.zeros(k)]).double() * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    whole, guessing = (each[:n].mean() + each[n:].mean()) / 2, math.log(2)
    least = float(torch.distributions.Bernoulli(torch.tensor(smoothing / 2, dtype=torch.float64)).entropy())
    expected = (whole - least) * guessing / (guessing - least)
    torch.testing.assert_close(membership_loss(logits, n, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.2, 0.9])
def test_guessing_costs_ln_2_and_the_best_answers_nothing(smoothing):
    """Balances that go by how far a loss has fallen are told the same of smoothed truth as of any other."""
    assert float(membership_loss(torch.zeros(6).double(), 2, smoothing)) == pytest.approx(math.log(2))
    best = math.log((2 - smoothing) / smoothing) if smoothing else 100.0
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([best, best, -best], dtype=dtype)
        assert 0 <= float(membership_loss(logits, 2, smoothing)) < 1e-5
        for further in (0.8, 1.2):
            assert (float(membership_loss(further * logits, 2, smoothing)) > 1e-4) == (smoothing > 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("row, sign", [(0, 1), (0, -1), (2, 1), (2, -1)])
def test_infinite_logits_do_not_make_the_loss_nan(smoothing, row, sign):
    logits = torch.zeros(4)
    logits[row] = sign * float("inf")
    right = (row < 2) == (sign > 0)
    assert bool(membership_loss(logits, 2, smoothing).isfinite()) == (right and not smoothing)
    assert not bool(membership_loss(logits, 2, smoothing).isnan())


def test_last_tells_the_parts_of_the_loss():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, balance=amint.Weighted(task=2, mint=5))
    assert audit.last is None
    task = F.cross_entropy(model(X), Y)
    total = audit.loss(task)
    assert torch.equal(audit.last.task, task.detach())
    torch.testing.assert_close(audit.last.total, 2 * audit.last.task + 5 * audit.last.mint)
    assert total.requires_grad
    assert not audit.last.mint.requires_grad
    assert audit.last.mint.item() == pytest.approx(0.6931, abs=0.2)


# torch itself raises this one inside a filter of its own, which cannot hide it where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    "backend, trunk_gradient, in_place",
    [
        ("eager", 1, False),
        ("eager", 0, True),
        *(pytest.param("aot_eager", g, i, marks=pytest.mark.slow) for g in (1, 0) for i in (True, False)),
    ],
)
def test_compiled_after_attaching_it_trains_the_same(backend, trunk_gradient, in_place):
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    weights = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = run = Net(norm=True)
        audit = amint.attach(model, external=EXTERNAL, trunk_gradient=trunk_gradient)
        if compiled and in_place:
            model.compile(backend=backend)
        elif compiled:
            run = torch.compile(model, backend=backend)
        train(run, torch.optim.SGD(model.parameters(), 0.1), X, Y, 4, audit)
        run.eval()
        with torch.no_grad():
            outputs = run(X)
        weights.append({**model.state_dict(), "outputs": outputs, "scores": audit.score(X), **head(audit)})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def head(audit):
    return {f"head.{name}": p.detach() for name, p in audit.head.named_parameters()}


def test_accumulated_gradients_are_the_sum_of_the_steps():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, balance=amint.Weighted())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parts = []
    for step in range(3):
        loss = audit.loss(F.cross_entropy(model(X[step::3]), Y[step::3]))
        parts.append(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))
        loss.backward()
    for p, *grads in zip(model.parameters(), *parts, strict=True):
        torch.testing.assert_close(p.grad, sum(grads))
    optimizer.step()
    train(model, optimizer, X, Y, 2, audit)
    assert audit.facts["steps"] == 5


@pytest.mark.parametrize("trunk_gradient", [1, 0])
def test_bf16_autocast(trunk_gradient):
    model = Net(norm=True)
    audit = amint.attach(model, external=EXTERNAL, trunk_gradient=trunk_gradient, balance=amint.Weighted())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = audit.loss(F.cross_entropy(model(X), Y))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(audit.last.mint.item())
    assert audit.last.mint.dtype == torch.float32
    # Of the external rows every step draws others, and single losses vary.
    assert sum(losses[-10:]) / 10 < losses[0] / 2
    with torch.autocast("cpu", torch.bfloat16):
        under = audit.score(X)
    assert torch.equal(under, audit.score(X))
    assert under.dtype == torch.float32


@settings(max_examples=6, deadline=None)
@given(k=st.integers(1, 7), m=st.integers(1, 5), trunk_gradient=st.sampled_from([1.0, 0.0]))
@pytest.mark.parametrize("balance", [amint.NormalisedByFirst, amint.NormalisedByRunningMean, amint.Weighted])
def test_a_resumed_loop_equals_an_uninterrupted_one(balance, k, m, trunk_gradient, tmp_path_factory):
    def start():
        torch.manual_seed(4)
        model = Net(norm=True)
        audit = amint.attach(
            model,
            external=EXTERNAL,
            ratio=0.7,
            balance=balance(),
            negatives=amint.HardNegatives(amint.one_pixel_shift, members=True),
            trunk_gradient=trunk_gradient,
            seed=9,
        )
        return model, audit, torch.optim.Adam(model.parameters(), 0.01)

    model, audit, optimizer = start()
    train(model, optimizer, X, Y, k + m, audit)
    whole = {**model.state_dict(), **head(audit)}

    model, audit, optimizer = start()
    train(model, optimizer, X, Y, k, audit)
    path = tmp_path_factory.mktemp("resume") / "checkpoint.pt"
    torch.save([model.state_dict(), optimizer.state_dict(), audit.state_dict()], path)
    model, audit, optimizer = start()
    torch.rand(5)
    for part, state in zip((model, optimizer, audit), torch.load(path, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(model, optimizer, X, Y, m, audit, start=k)
    assert same(whole, {**model.state_dict(), **head(audit)})
    assert audit.facts["steps"] == k + m
    assert audit.ledger.count("members") == min(48, 16 * (k + m))
