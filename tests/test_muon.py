import pytest
import torch
from toys import Net, images, labels

import amint
from amint.heads import HeadSize, MintHead, head_config, head_weights
from amint.metrics import auroc
from amint.muon import Muon, orthogonalised
from amint.split import TapPoint


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 5)])
def test_singular_values_come_to_about_one_in_their_own_directions(shape, monkeypatch):
    monkeypatch.setattr("amint.muon._CPU_HAS_BFLOAT16", False)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * 10 ** torch.linspace(0, -2, shape[1])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    made = left.T @ orthogonalised(matrix) @ right.T
    assert float((made - made.diag().diag()).abs().max()) < 1e-3
    well = values > values.max() / 500
    assert 0.4 < float(made.diag()[well].min()) <= float(made.diag()[well].max()) < 1.6


def test_where_a_cpu_has_bfloat16_it_is_used_and_all_but_rounding_is_the_same(monkeypatch):
    matrix, found = torch.randn(12, 50, generator=torch.Generator().manual_seed(2)), []
    for has in (False, True):
        monkeypatch.setattr("amint.muon._CPU_HAS_BFLOAT16", has)
        found.append(orthogonalised(matrix))
    exact, rounded = found
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm()) < 0.02 * float(exact.norm())


def test_of_nothing_comes_nothing():
    assert torch.equal(orthogonalised(torch.zeros(3, 7)), torch.zeros(3, 7))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
@pytest.mark.parametrize("shape", [(6, 30), (30, 6)])
def test_it_takes_the_steps_of_torch_but_for_rounding_to_bfloat16(shape):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    first = Muon([ours], lr=0.01, momentum=0.9, weight_decay=0.1)
    second = torch.optim.Muon([theirs], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    moved = float((theirs.detach() - start).norm())
    assert float((ours.detach() - theirs.detach()).norm()) < 0.03 * moved


def test_what_has_no_gradient_stays_and_a_closure_gives_the_loss():
    moving, still = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))

    def closure():
        loss = (moving**2).sum()
        loss.backward()
        return loss

    assert Muon([moving, still], lr=0.1).step(closure).item() == 6
    assert torch.equal(still.detach(), torch.ones(2, 3))
    assert not torch.equal(moving.detach(), torch.ones(2, 3))


@pytest.mark.parametrize("head_first", [True, False])
def test_a_head_learns_in_a_loop_with_optimizers_of_its_own(head_first):
    torch.manual_seed(0)
    model = Net(norm=True)
    audit = amint.attach(model, external=images(40, seed=3), split=["a", "b"])
    head, own = audit.head, set(audit.head.parameters())
    optimizers = [torch.optim.AdamW([p for p in model.parameters() if p not in own]), *amint.head_optimizers(head)]
    muon, adam = ([p for group in each.param_groups for p in group["params"]] for each in optimizers[1:])
    assert {id(p) for p in muon} == {id(layer.weight) for layer in (*(b.dense for b in head.branches), head.join[0])}
    assert sorted(map(id, muon + adam)) == sorted(map(id, own))
    x, y = images(24), labels(24)
    for _ in range(30):
        loss = audit.loss(torch.nn.functional.cross_entropy(model(x), y))
        model.zero_grad()
        loss.backward()
        for optimizer in reversed(optimizers) if head_first else optimizers:
            optimizer.step()
    audit.calibrate(images(60, seed=4))
    assert audit.facts["unaccounted_updates"] == 0
    assert audit.facts["steps"] == audit.facts["accounted_updates"] == 30
    found = audit.scores(torch.cat([x, images(200, seed=5)]))
    assert auroc(found, torch.arange(len(found)).numpy() < len(x)) > 0.9


def test_what_reads_a_small_map_whole_learns_with_muon_too():
    head = MintHead(head_config([TapPoint("t", (8, 2, 2), "channels_first", 0.5)], HeadSize(ensemble=2)))
    muon, _ = amint.head_optimizers(head)
    own = [module.weight for one in (head, *head.others) for b in one.branches for module in (b.first, b.dense)]
    own += [one.join[0].weight for one in (head, *head.others)]
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(weight) for weight in own}
    maps = [torch.randn(12, 8, 2, 2)]
    before = head_weights(head)
    head.each(maps).square().sum().backward()
    muon.step()
    moved = {name for name, weight in head_weights(head).items() if not torch.equal(weight, before[name])}
    assert {f"{one}branches.0.first.weight" for one in ("", "others.0.")} <= moved
