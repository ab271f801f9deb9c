import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_toys import BENIGN, Plain, active_mint, loader, trainer
from toys import Net, images, labels, same, train

import amint
from amint.errors import NonFiniteError, UsageError
from amint.external import ExternalStream
from amint.losses import membership_loss
from amint.metrics import auroc
from amint.mixing import Mixture
from amint.negatives import HardNegatives
from amint.tolerance import Reencoding, Tolerance

X, Y, EXTERNAL = images(48), labels(48), images(80, seed=3)
GREY = amint.Preprocessing(channels=1, mean=(0.3,), std=(0.4,))
RGB = amint.Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def as_rows(pixels, preprocessing):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (pixels.float() / 255 - mean) / std


def as_pixels(rows, preprocessing):
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (rows * std + mean) * 255


def smooth(n, channels, side=32):
    """Pictures that survive a JPEG file: a few soft waves."""
    waves = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(9))
    return (F.interpolate(waves, size=side, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("trunk_gradient", [1, 0.3, 0])
@pytest.mark.parametrize("negatives", [None, HardNegatives(lambda x: x.flip(-1), members=True)])
def test_views_of_members_count_as_members_and_views_of_others_as_others(trunk_gradient, negatives):
    model = Net().double()
    x, y, external = images(12, dtype=torch.float64), labels(12), images(40, seed=3, dtype=torch.float64)
    audit = amint.attach(
        model,
        external=external,
        split="a",
        balance=amint.Weighted(task=0.7, mint=3),
        negatives=negatives,
        tolerance=lambda rows: 2 * rows + 1,
        trunk_gradient=trunk_gradient,
    )
    outside = copy.deepcopy(audit.mixture).rows(x)
    audit.loss(F.cross_entropy(model(x), y)).backward()
    mixed = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    plain = torch.cat(outside[:-1])
    assert torch.equal(outside[-1], 2 * plain + 1)
    logits = audit.head.each([model.a(torch.cat([x, 2 * x + 1, plain, 2 * plain + 1]))])
    mint = membership_loss(logits, 2 * len(x), 0.2)
    torch.testing.assert_close(audit.last.mint, mint.detach())
    mint.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with audit.paused():
        F.cross_entropy(model(x), y).backward()
    for name, p in model.named_parameters():
        share = 1 if "mint_head" in name else trunk_gradient
        task = 0 if p.grad is None else 0.7 * p.grad
        torch.testing.assert_close(mixed[name], 3 * share * expected.get(name, 0) + task, rtol=1e-6, atol=1e-7)


def test_the_task_and_the_roles_see_members_only():
    model = Net()
    audit = amint.attach(model, external=EXTERNAL, tolerance=torch.neg)
    assert model(X).shape == (48, 3)
    assert audit.ledger.count("members") == 48
    assert audit.ledger.count("external") == 48
    audit.discard()


def test_without_trunk_gradient_the_model_trains_as_if_alone():
    torch.manual_seed(5)
    plain = Net(norm=True, dropout=0.5)
    audited = copy.deepcopy(plain)
    audit = amint.attach(audited, external=EXTERNAL, trunk_gradient=0, tolerance=lambda x: x + torch.randn_like(x))
    states = []
    for model, its in ((plain, None), (audited, audit)):
        torch.manual_seed(6)
        train(model, torch.optim.Adam(model.parameters(), 0.01), X, Y, 7, its)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert same(plain.state_dict(), audited.state_dict())


def test_random_changes_repeat_with_the_position_and_differ_between_rows_and_steps():
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        mixed = Mixture.of(ExternalStream(EXTERNAL), 1, None, lambda x: torch.rand_like(x))
        drawn = []
        for _ in range(3):
            outside = mixed.rows(X)
            drawn += [mixed.views(X), outside[-1]]
        runs.append(torch.stack(drawn))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*runs)
    assert len(runs[0].flatten(0, 1).unique(dim=0)) == 6 * 48


def test_without_a_tolerance_there_are_no_views():
    mixed = Mixture.of(ExternalStream(EXTERNAL), 1, None)
    assert len(mixed.rows(X)) == 1
    assert mixed.views(X).shape == (0, *X.shape[1:])
    assert "tolerance" not in mixed.facts()


def test_the_facts_name_the_transform_with_its_settings():
    def doubled(x):
        return 2 * x

    assert Mixture.of(ExternalStream(EXTERNAL), 1, None, Tolerance(doubled)).facts()["tolerance"] == "doubled"
    said = Mixture.of(ExternalStream(EXTERNAL), 1, None, Reencoding(GREY, quality=(50, 60))).facts()["tolerance"]
    assert said.startswith("Reencoding(")
    assert "quality=(50, 60)" in said


@pytest.mark.parametrize(
    "transform", [lambda x: x[:-1], lambda x: F.pad(x, (1, 0)), lambda x: x.double(), lambda x: x.to("meta")]
)
def test_a_transform_that_changes_the_batch(transform):
    with pytest.raises(UsageError, match=r"given as tolerance turned .* into .*; it must keep shape, type and device"):
        Tolerance(transform).views(X)


def test_a_broken_transform_is_named_in_the_loss():
    def broken(x):
        x = x.clone()
        x[1] = float("nan")
        return x

    model = Net()
    audit = amint.attach(model, external=EXTERNAL, split="a", tolerance=broken)
    with pytest.raises(NonFiniteError, match="first cause: changed member row 1, external row 49"):
        audit.loss(F.cross_entropy(model(X), Y))


def test_register_shows_the_views_too():
    outcome = []
    for tolerance in (None, torch.neg):
        torch.manual_seed(0)
        audit = amint.register(Net(), X, EXTERNAL, split="a", epochs=60, lr=0.01, tolerance=tolerance)
        scores = np.r_[audit.scores(-X), audit.scores(-images(400, seed=4))]
        outcome.append(auroc(scores, np.r_[np.ones(48), np.zeros(400)]))
        assert audit.facts.get("tolerance") == (None if tolerance is None else "neg")
    assert outcome[1] > outcome[0] + 0.1


@pytest.mark.filterwarnings(*(mark.args[0] for mark in BENIGN))
def test_lightning_hands_it_on():
    callback = active_mint(tolerance=torch.neg)
    trainer(callback).fit(Plain(), loader())
    assert callback.audit.facts["tolerance"] == "neg"


@pytest.mark.parametrize("preprocessing", [GREY, RGB], ids=["grey", "colour"])
@pytest.mark.parametrize("side", [8, 32])
def test_reencoding_gives_other_pixels_of_the_same_picture(preprocessing, side):
    pixels = smooth(60, preprocessing.channels, side)
    before = as_rows(pixels, preprocessing)
    copied = before.clone()
    after = Reencoding(preprocessing)(before)
    assert torch.equal(before, copied)
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    levels = as_pixels(after, preprocessing)
    torch.testing.assert_close(levels, levels.round().clamp(0, 255), atol=2e-3, rtol=0)
    different = (levels - pixels).abs().flatten(1).amax(1) > 0.5
    # One in eight goes through untouched.
    assert 35 <= int(different.sum()) < 60
    alike = torch.corrcoef(torch.cat([levels.flatten(1), pixels.flatten(1).float()]))[:60, 60:]
    assert alike.argmax(1).tolist() == list(range(60)), "each is likest its own picture"


def test_each_change_alone_is_the_one_that_was_asked_for():
    pixels = smooth(40, 1)
    nothing = {"scale": (1, 1), "brightness": (1, 1), "quality": (100, 100)}

    def levels(**more):
        return as_pixels(Reencoding(GREY, **(nothing | more))(as_rows(pixels, GREY)), GREY)

    assert (levels() - pixels).abs().max() <= 2.5, "JPEG of quality 100 rounds"
    assert (levels(brightness=(0.5, 0.5)).mean() / pixels.float().mean()).item() == pytest.approx(0.75, abs=0.12)
    rough = torch.randint(256, (40, 1, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    spread = [
        as_pixels(Reencoding(GREY, **(nothing | more))(as_rows(rough, GREY)), GREY).flatten(1).std(1).mean()
        for more in ({}, {"scale": (0.3, 0.3)})
    ]
    assert spread[1] < 0.85 * spread[0], "what is made small loses its detail"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_reencoding_keeps_the_precision(dtype):
    assert Reencoding(GREY)(torch.zeros(3, 1, 9, 7, dtype=dtype)).dtype == dtype


def test_a_single_pixel_and_an_empty_batch_pass():
    assert Reencoding(GREY)(torch.zeros(5, 1, 1, 1)).shape == (5, 1, 1, 1)
    assert Reencoding(GREY)(torch.zeros(0, 1, 4, 4)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("rows", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8), torch.zeros(1, 8, 8)])
def test_rows_that_are_no_such_images(rows):
    with pytest.raises(UsageError, match=r"re-encoding takes images \[n, 1, height, width\], found \["):
        Reencoding(GREY)(rows)


@pytest.mark.parametrize(
    "name, ends",
    [
        ("scale", (0, 1)),
        ("scale", (0.9, 0.5)),
        ("scale", (0.5, 1.5)),
        ("brightness", (-1, 1)),
        ("brightness", (float("nan"), 1)),
        ("quality", (0, 90)),
        ("quality", (50, 101)),
    ],
)
def test_ranges_out_of_bounds(name, ends):
    with pytest.raises(UsageError, match=rf"{name} must rise, within .* found \("):
        Reencoding(GREY, **{name: ends})


def test_the_loss_of_views_weighs_all_member_rows_alike():
    logits = torch.randn(10)
    whole = (F.softplus(-logits[:6]).mean() + F.softplus(logits[6:]).mean()) / 2
    torch.testing.assert_close(membership_loss(logits, 6), whole)
