import importlib.util

import pytest
import torch
from balance_toys import conflicting, pair
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from amint.balance import ConflictAverse, NormalisedByFirst, UncertaintyWeighting, Weighted
from amint.errors import NonFiniteError, UsageError

NASH = pytest.param(
    "nash_mtl", marks=pytest.mark.skipif(importlib.util.find_spec("ecos") is None, reason="ecos is not installed")
)
OTHERS = {
    "aligned_mtl": aggregation.AlignedMTL,
    "cagrad": lambda: aggregation.CAGrad(c=0.5, norm_eps=1e-6),
    "imtl_g": aggregation.IMTLG,
    "mgda": aggregation.MGDA,
    "pcgrad": aggregation.PCGrad,
    "upgrad": lambda: aggregation.UPGrad(projector=QuadprogProjector(reg_eps=1e-12)),
}
every = pytest.mark.parametrize("method", [*OTHERS, NASH])
but_nash = pytest.mark.parametrize("method", list(OTHERS))
seeds = pytest.mark.parametrize("seed", range(3))
ratios = pytest.mark.parametrize("ratio", [1.0, 0.01, 300.0, 1e4])


def aggregated(method, a, b, **options):
    toy = pair(a, b)
    ConflictAverse(method, **options).backward(*toy.losses())
    return toy.gradient()


def aggregator_of(method):
    return aggregation.NashMTL(n_tasks=2) if method == "nash_mtl" else OTHERS[method]()


@every
@seeds
@pytest.mark.parametrize("ratio", [1.0, 0.01, 300.0])
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_the_shared_gradient_is_torchjds_aggregate_of_both(method, seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    assert a @ b < 0
    expected = aggregator_of(method)(torch.stack([a, b]))
    # The solver of Nash-MTL stops at a few digits, and at different ones where the lengths differ much.
    tolerance = {1.0: 1e-8, 0.01: 1e-5, 300.0: 1e-2}[ratio] if method == "nash_mtl" else 1e-9
    assert (aggregated(method, a, b) - expected).norm() <= tolerance * expected.norm()


@every
def test_parameters_of_one_loss_get_its_gradient(method):
    toy = pair(*conflicting(0))
    total = ConflictAverse(method).backward(*toy.losses(task=2.0, mint=5.0))
    assert total.item() == 7
    assert not total.requires_grad
    assert toy.task_own.grad.tolist() == [1, 1]
    assert toy.mint_own.grad.tolist() == [3, 3, 3]


@every
def test_gradients_accumulate(method):
    toy, expected = pair(*conflicting(0)), pair(*conflicting(0))
    balance, single = ConflictAverse(method), ConflictAverse(method)
    single.backward(*expected.losses())
    once = expected.gradient().clone()
    single.backward(*expected.losses())
    assert not torch.equal(expected.gradient(), once)
    for parameter in (*toy.pieces, toy.task_own, toy.mint_own):
        parameter.grad = torch.full_like(parameter, 7.0)
    balance.backward(*toy.losses())
    torch.testing.assert_close(toy.gradient(), once + 7)
    assert toy.task_own.grad.tolist() == [8, 8]
    balance.backward(*toy.losses())
    torch.testing.assert_close(toy.gradient(), expected.gradient() + 7)


@but_nash
@seeds
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_the_aggregate_has_the_unit_of_the_gradients(method, seed, unit):
    a, b = conflicting(seed)
    torch.testing.assert_close(aggregated(method, a * unit, b * unit), aggregated(method, a, b) * unit)


@but_nash
def test_gradients_that_agree_with_themselves_are_kept(method):
    a, _ = conflicting(0)
    found = aggregated(method, a, a)
    torch.testing.assert_close(found / found.norm(), a / a.norm())


@every
def test_one_gradient_of_zero_gives_no_broken_weights(method):
    a, _ = conflicting(0)
    assert torch.isfinite(aggregated(method, a, 0 * a)).all()
    assert torch.equal(aggregated(method, 0 * a, 0 * a), 0 * a)


@pytest.mark.parametrize("method", ["upgrad", "pcgrad", "mgda", "imtl_g"])
@seeds
@ratios
def test_no_loss_grows_along_the_step(method, seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    found = aggregated(method, a, b)
    assert found.norm() > 0
    assert min(found @ a / a.norm(), found @ b / b.norm()) >= -1e-6 * found.norm()
    assert ratio == 1 or min((a + b) @ a, (a + b) @ b) < 0, "a plain sum would not do"


@seeds
@ratios
def test_mgda_is_the_shortest_convex_combination(seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    share = ((b - a) @ b / (b - a).square().sum()).clamp(0, 1)
    torch.testing.assert_close(aggregated("mgda", a, b), share * a + (1 - share) * b, rtol=1e-6, atol=0)


@seeds
@ratios
def test_imtl_g_projects_equally_on_both(seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    found = aggregated("imtl_g", a, b)
    torch.testing.assert_close(found @ (a / a.norm()), found @ (b / b.norm()))


@seeds
@ratios
def test_pcgrad_removes_from_each_what_opposes_the_other(seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    torch.testing.assert_close(aggregated("pcgrad", a, b), expected)


@seeds
@ratios
def test_aligned_mtl_makes_both_orthogonal_and_equally_long(seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    u, lengths, v = torch.linalg.svd(torch.stack([a, b]), full_matrices=False)
    torch.testing.assert_close(aggregated("aligned_mtl", a, b), lengths.min() * (u @ v).mean(dim=0))


@seeds
@ratios
def test_cagrad_is_best_for_the_worst_loss_near_the_mean(seed, ratio):
    a, b = conflicting(seed, ratio=ratio)
    mean, found = (a + b) / 2, aggregated("cagrad", a, b, c=0.4)
    radius = 0.4 * mean.norm()
    assert (found - mean).norm() <= radius * (1 + 1e-4)
    around = torch.randn(5000, len(a), dtype=torch.float64)
    others = mean + radius * around / around.norm(dim=1, keepdim=True)
    worst = torch.minimum(others @ a, others @ b)
    assert min(found @ a, found @ b) >= worst.max() - 1e-4 * a.norm() * b.norm()


@pytest.mark.parametrize("method", [NASH])
@seeds
def test_nash_mtl_is_a_fair_bargain(method, seed):
    a, b = conflicting(seed)
    found = aggregated(method, a, b, max_norm=0)
    weights = torch.linalg.lstsq(torch.stack([a, b], dim=1), found[:, None]).solution.flatten()
    gains = weights * torch.stack([found @ a, found @ b])
    assert (weights > 0).all()
    torch.testing.assert_close(gains[0], gains[1], rtol=0.01, atol=0)
    assert aggregated(method, 100 * a, 100 * b).norm().item() == pytest.approx(1)


@every
def test_random_numbers_are_left_alone(method):
    balance, toy = ConflictAverse(method), pair(*conflicting(0))
    state = torch.get_rng_state()
    balance.backward(*toy.losses())
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_losses_can_be_weighted_first(method):
    a, b = conflicting(1)
    toy = pair(a, b)
    total = ConflictAverse(method, of=Weighted(task=2, mint=10)).backward(*toy.losses(task=1.0, mint=0.5))
    torch.testing.assert_close(toy.gradient(), aggregated(method, 2 * a, 10 * b))
    assert toy.task_own.grad.tolist() == [2, 2]
    assert toy.mint_own.grad.tolist() == [30, 30, 30]
    assert total.item() == 7


@every
def test_what_it_remembers_is_restored(method, tmp_path):
    options = {"update_weights_every": 2} if method == "nash_mtl" else {}

    def fresh():
        return ConflictAverse(method, of=NormalisedByFirst(mint=3), **options)

    def run(balance, steps):
        found = []
        for step in steps:
            toy = pair(*conflicting(step, ratio=step + 1))
            balance.backward(*toy.losses(task=step + 1.0, mint=2.0))
            found.append(toy.gradient())
        return found

    whole = run(fresh(), range(6))
    first, second = fresh(), fresh()
    found = run(first, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found += run(second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


def test_learned_weights_learn_inside_too():
    balance = ConflictAverse("upgrad", of=UncertaintyWeighting())
    balance.backward(*pair(*conflicting(0)).losses(task=2.0))
    assert balance.of.log_variances != (0, 0)


def test_one_gradient_tensor_for_two_parameters_is_not_overwritten():
    p, q = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    ConflictAverse("pcgrad").backward((p + q).sum(), (2 * (p + q)).sum())
    assert p.grad.tolist() == q.grad.tolist() == [3, 3, 3]


def test_hooks_on_accumulated_gradients_run_once():
    toy, seen = pair(*conflicting(0)), []
    for parameter in (toy.pieces[0], toy.mint_own):
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    ConflictAverse("upgrad").backward(*toy.losses())
    assert len(seen) == 2
    assert any(torch.equal(gradient, toy.mint_own.grad) for gradient in seen)


def test_a_hook_on_a_gradient_is_refused():
    toy = pair(*conflicting(0))
    handle = toy.pieces[0].register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(UsageError, match=r"hook on its gradient.*register_post_accumulate_grad_hook"):
        ConflictAverse("upgrad").backward(*toy.losses())
    handle.remove()
    ConflictAverse("upgrad").backward(*toy.losses())


def test_losses_with_nothing_in_common_are_refused():
    own = torch.nn.Parameter(torch.ones(2))
    toy = pair(*conflicting(0))
    for losses in ((own.sum(), toy.losses()[1]), (toy.losses()[0], torch.ones(())), (torch.ones(()), own.sum())):
        with pytest.raises(UsageError, match=r"no parameter is reached by both .* layers up to the tap are frozen"):
            ConflictAverse("upgrad").backward(*losses)
    assert own.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_step_adds_nothing(bad):
    toy = pair(*conflicting(0))
    total = ConflictAverse("upgrad").backward(*toy.losses(mint=bad))
    assert not torch.isfinite(total)
    spoilt = pair(toy.a * bad, toy.b)
    shared = torch.cat(spoilt.pieces)
    with pytest.raises(
        NonFiniteError, match=r"the losses are finite, .*gradients in the shared layers .*learning rate"
    ):
        ConflictAverse("upgrad").backward(
            torch.where(shared > 1, spoilt.a * shared, 0).sum() + _infinite(shared), shared.sum()
        )
    assert all(p.grad is None for p in (*toy.pieces, toy.task_own, toy.mint_own, *spoilt.pieces))


def _infinite(x):
    """0 at 0, with an infinite gradient there."""
    return x.abs().sqrt().sum()
