import copy
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from audit_toys import PREPROCESSING, SHAPE, ToyNet, audit_of, images
from torch import nn

import amint
from amint import bundle, bundle_manifest
from amint.architecture import Architecture
from amint.bundle_files import MANIFEST
from amint.errors import BundleError, NonFiniteError, UsageError
from amint.heads import HeadSize, MintHead
from amint.loading import load
from amint.preprocessing import Preprocessing
from amint.registration import register
from amint.training_controls import training_controls

TOY = Architecture("import", "audit_toys:ToyNet", {})


def assert_same(audit, loaded, n=3):
    """Scores, outputs, weights and calibration equal to the last bit."""
    x = images(n, shape=audit.input_shape, seed=11).to(next(audit.backbone.parameters()).dtype)
    assert torch.equal(audit.score(x), loaded.score(x))
    with torch.no_grad():
        assert torch.equal(audit.backbone.eval()(x), loaded.backbone(x))
    own, other = audit.backbone.state_dict(), loaded.backbone.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[name], other[name]) and own[name].dtype == other[name].dtype for name in own)
    assert audit.calibrated() == loaded.calibrated()
    assert (audit.points, audit.input_shape, audit.head.config) == (
        loaded.points,
        loaded.input_shape,
        loaded.head.config,
    )


TIMM = {
    "test_resnet": {"num_classes": 3, "in_chans": 4},
    "test_efficientnet": {"in_chans": 1, "num_classes": 10},
    "test_convnext": {},
    "test_vit": {},
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_timm_models_describe_themselves(tmp_path, name, suffix):
    model = timm.create_model(name, **TIMM[name])
    audit = audit_of(model, split="entry", shape=(TIMM[name].get("in_chans", 3), 160, 160), calibration=4)
    path = audit.save(tmp_path / f"model{suffix}")
    assert path.is_file() == bool(suffix)
    loaded = load(path)
    assert type(loaded.backbone) is type(model)
    assert_same(audit, loaded)


def test_what_is_no_path_and_what_is_no_model_is_said(tmp_path):
    audit = audit_of(ToyNet(), calibration=4)
    path = audit.save(tmp_path / "toy")
    for call in (load, lambda model: amint.verify(model, images(3))):
        with pytest.raises(UsageError, match="expected the path of an audit bundle, or an audit, found a ToyNet"):
            call(ToyNet())
    with pytest.raises(UsageError, match=r"as MyModel\(\); found the class ToyNet"):
        load(path, model=ToyNet)


def test_torchvision_models_are_named_by_the_caller(tmp_path):
    model = torchvision.models.squeezenet1_1(num_classes=7)
    audit = audit_of(model, split="entry", shape=(3, 64, 64), calibration=4)
    architecture = Architecture("torchvision", "squeezenet1_1", {"num_classes": 7})
    assert_same(audit, load(audit.save(tmp_path / "named", architecture=architecture)))
    with pytest.raises(BundleError, match=r"does not say how to build its model; pass one: amint.load\(path, model="):
        load(audit.save(tmp_path / "unnamed"))


def test_models_of_the_caller_s_own_code(tmp_path):
    audit = audit_of(ToyNet("GELU"))
    path = audit.save(
        tmp_path / "toy", architecture=Architecture("import", "audit_toys:ToyNet", {"activation": "GELU"})
    )
    assert_same(audit, load(path, allow_import=["audit_toys:ToyNet"]))
    assert_same(audit, load(path, model=ToyNet("GELU")))
    for allowed in ([], ["audit_toys"], ["audit_toys:audit_of"]):
        with pytest.raises(
            BundleError, match=r"code of its own, audit_toys:ToyNet\. If you trust it, allow it by name"
        ):
            load(path, allow_import=allowed)


def test_a_model_that_the_caller_passes_is_filled_and_nothing_else(tmp_path):
    audit = audit_of()
    mine = ToyNet().train()
    mine.entry.requires_grad_(False)
    flags = [p.requires_grad for p in mine.parameters()]
    loaded = load(audit.save(tmp_path / "toy"), model=mine)
    assert loaded.backbone is mine
    assert not mine.training
    assert [p.requires_grad for p in mine.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mine.modules())
    assert all(p.grad is None for p in [*mine.parameters(), *loaded.head.parameters()])
    assert all(p.is_leaf for p in [*mine.parameters(), *loaded.head.parameters()])
    assert not loaded.score(images(2)).requires_grad
    assert_same(audit, loaded)


class Tied(ToyNet):
    def __init__(self):
        super().__init__(width=3)
        self.last = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.last[2].weight = self.last[0].weight


@pytest.mark.parametrize("pool, whole", [(2, [False, False]), (4, [False, True]), (8, [False, True])])
def test_heads_that_read_small_maps_whole_and_that_do_not(tmp_path, pool, whole):
    model = ToyNet()
    audit = register(model, images(8), images(8, seed=2), split=["entry", "last"], epochs=1, head=HeadSize(pool=pool))
    assert [tap.whole for tap in audit.head.config.taps] == whole
    audit.calibrate(images(19, seed=3))
    assert_same(audit, load(audit.save(tmp_path / "a", architecture=TOY), model=ToyNet()))


def test_an_older_head_reads_small_maps_place_by_place(tmp_path):
    audit = audit_of(split=("entry", "last"), calibration=0)
    config = audit.head.config
    assert config.taps[1].whole
    audit.head = MintHead(replace(config, taps=tuple(replace(tap, whole=False) for tap in config.taps)))
    audit.calibrate(images(19))
    path = audit.save(tmp_path / "a", architecture=TOY)
    manifest = json.loads((path / MANIFEST).read_text())
    for tap in manifest["head"]["taps"]:
        assert tap.pop("whole") is False
    (path / MANIFEST).write_bytes(bundle_manifest.sealed(manifest))
    loaded = load(path, model=ToyNet())
    x = images(3)
    assert torch.equal(audit.score(x), loaded.score(x))


def test_an_older_head_scores_its_logits(tmp_path):
    audit = audit_of(calibration=0)
    audit.head = MintHead(replace(audit.head.config, smoothing=0.0))
    torch.nn.init.constant_(audit.head.join[-1].bias, 20.0)
    audit.calibrate(images(19))
    path = audit.save(tmp_path / "a", architecture=TOY)
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["head"].pop("smoothing") == 0
    (path / MANIFEST).write_bytes(bundle_manifest.sealed(manifest))
    loaded = load(path, model=ToyNet())
    assert loaded.score(images(3)).min() > 10
    assert_same(audit, loaded)


class Wide(ToyNet):
    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(16, 150, 3, padding=1)
        self.classifier = nn.Linear(150, 4)


def test_a_head_that_averages_a_small_map_to_fewer_places(tmp_path):
    audit = audit_of(Wide(), split=("entry", "last"), calibration=0)
    assert audit.head.config.taps[1].positions == (3, 4)
    assert audit.points[1].shape == (150, 4, 4)
    audit.calibrate(images(19))
    path = audit.save(tmp_path / "a")
    assert_same(audit, load(path, model=Wide()))
    manifest = json.loads((path / MANIFEST).read_text())
    for places in ([5, 4], [3, 4, 1]):
        manifest["head"]["taps"][1]["positions"] = places
        (path / MANIFEST).write_bytes(bundle_manifest.sealed(manifest))
        with pytest.raises(BundleError):
            load(path, model=Wide())


def test_tied_weights_stay_tied(tmp_path):
    audit = audit_of(Tied())
    loaded = load(audit.save(tmp_path / "tied"), model=Tied())
    assert loaded.backbone.last[2].weight is loaded.backbone.last[0].weight
    assert_same(audit, loaded)


def test_weights_that_are_not_contiguous(tmp_path):
    model = ToyNet().to(memory_format=torch.channels_last)
    model.classifier.weight = nn.Parameter(torch.randn(16, 4).t())
    assert not model.classifier.weight.is_contiguous()
    assert not model.middle[0].weight.is_contiguous()
    audit = audit_of(model)
    loaded = load(audit.save(tmp_path / "a"), model=ToyNet())
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.backbone.state_dict()[name])
    # The layout in memory is not kept, and another one may be added up in another order.
    torch.testing.assert_close(audit.score(images(5)), loaded.score(images(5)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name, dtype",
    [("toy", torch.float64), ("toy", torch.bfloat16), ("toy", torch.float16), ("test_resnet", torch.float64)],
)
def test_models_of_other_precision(tmp_path, name, dtype):
    model = ToyNet() if name == "toy" else timm.create_model(name)
    audit = audit_of(model.to(dtype), split=("entry", "middle") if name == "toy" else "entry", shape=(3, 64, 64))
    loaded = load(audit.save(tmp_path / "a"), model=ToyNet() if name == "toy" else None)
    assert {p.dtype for p in [*loaded.backbone.parameters(), *loaded.head.parameters()]} == {dtype}
    assert_same(audit, loaded)


class WithTable(ToyNet):
    """A constant that no state dict holds, as of relative positions."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.eye(16) / 3, persistent=False)

    def forward(self, x):
        return super().forward(x) @ self.table[:4, :4]


def test_constants_outside_the_state_dict_take_the_precision_too(tmp_path):
    audit = audit_of(WithTable().double())
    assert_same(audit, load(audit.save(tmp_path / "a"), model=WithTable()))


def test_models_of_mixed_precision(tmp_path):
    def mixed():
        model = ToyNet()
        model.classifier = nn.Sequential(nn.Linear(16, 4))
        model.classifier.register_buffer("scale", torch.ones(3))
        return model

    model = mixed()
    model.classifier.scale = torch.full((3,), 1 / 3, dtype=torch.float64)
    loaded = load(audit_of(model).save(tmp_path / "a"), model=mixed())
    assert loaded.backbone.classifier.scale.dtype == torch.float64
    assert torch.equal(loaded.backbone.classifier.scale, model.classifier.scale)


def test_a_model_in_training_is_saved_without_its_head(tmp_path):
    model = ToyNet()
    audit = amint.attach(model, external=images(20, seed=2), split=("entry", "middle"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x in images(12).split(4):
        audit.loss(model(x).square().mean()).backward()
        optimizer.step()
    audit.calibrate(images(30, seed=3))
    loaded = load(audit.save(tmp_path / "a"), model=ToyNet())
    assert set(loaded.bundle.model_weights) == set(ToyNet().state_dict())
    controls = training_controls(audit.ledger.sketch, audit.facts)
    assert loaded.facts == audit.facts | {"members_seen": 12, "controls": controls}
    assert [control["name"] for control in controls] == ["members against external"]
    assert loaded.facts["method"] == "active"
    assert_same(audit, loaded)


def test_saving_and_loading_draw_no_random_numbers(tmp_path):
    audit = audit_of(timm.create_model("test_vit"), split="entry", shape=(3, 160, 160), calibration=4)
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    load(audit.save(tmp_path / "a"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_the_bundle_says_what_it_holds(tmp_path):
    audit = audit_of()
    held = bundle.read(audit.save(tmp_path / "a", preprocessing=PREPROCESSING, architecture=TOY))
    assert held.preprocessing == PREPROCESSING
    assert held.architecture == TOY
    assert held.points == audit.points
    assert held.input_shape == SHAPE
    assert held.manifest["facts"]["method"] == "toy"
    assert held.manifest["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert np.array_equal(held.calibration.scores, audit.calibrated().scores)
    assert len(held.sha256) == 64


def test_the_architecture_must_be_this_model(tmp_path):
    audit = audit_of(timm.create_model("test_resnet", num_classes=3), split="entry", shape=(3, 64, 64))
    with pytest.raises(
        UsageError, match=r"timm/test_resnet with {'num_classes': 4} is not this model: 2 weights differ"
    ):
        audit.save(tmp_path / "a", architecture=Architecture("timm", "test_resnet", {"num_classes": 4}))
    with pytest.raises(BundleError, match=r"no classifier 'tset_resnet'; near names: \['test_resnet'"):
        audit.save(tmp_path / "a", architecture=Architecture("timm", "tset_resnet"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, arguments, error, message",
    [
        ("audit_toys:ToyNet", {"width": 4}, UsageError, "import/audit_toys:ToyNet with {'width': 4} is not this model"),
        ("audit_toys:ToyNet", {"activation": "GELU"}, UsageError, "does not compute what it does"),
        ("audit_toys:ToyNet", {"depth": 4}, BundleError, "cannot build .*unexpected keyword argument 'depth'"),
        ("audit_toys:Toynet", {}, BundleError, "cannot build .*no attribute 'Toynet'"),
        ("my_package.models:Net", {}, BundleError, "cannot build .*No module named 'my_package'"),
    ],
)
def test_code_of_the_caller_s_own_must_give_this_model(tmp_path, name, arguments, error, message):
    with pytest.raises(error, match=message):
        audit_of().save(tmp_path / "a", architecture=Architecture("import", name, arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("difference", [{"act_layer": "gelu"}, {"global_pool": "max"}])
def test_what_no_weight_shows_is_noticed_when_saving(tmp_path, difference):
    model = timm.create_model("test_resnet", num_classes=3, **difference)
    audit = audit_of(model, split="entry", shape=(3, 64, 64))
    with pytest.raises(UsageError, match="has this model's weights but does not compute what it does"):
        audit.save(tmp_path / "wrong", architecture=Architecture("timm", "test_resnet", {"num_classes": 3}))
    named = Architecture("timm", "test_resnet", {"num_classes": 3, **difference})
    assert_same(audit, load(audit.save(tmp_path / "named", architecture=named)))
    # The model's own description lacks the difference, so it is not written down.
    path = audit.save(tmp_path / "unnamed")
    with pytest.raises(BundleError, match="does not say how to build its model"):
        load(path)
    assert_same(audit, load(path, model=copy.deepcopy(model)))


@pytest.mark.parametrize("model", [ToyNet("GELU"), ToyNet("ELU"), ToyNet("Tanh")])
def test_the_right_weights_in_another_architecture(tmp_path, model):
    path = audit_of().save(tmp_path / "a")
    with pytest.raises(BundleError, match=r"does not compute what the saved one did .* differs though its weights fit"):
        load(path, model=model)


def test_another_activation_behind_the_taps_is_noticed(tmp_path):
    path = audit_of().save(tmp_path / "a")
    other = ToyNet()
    other.last[1] = nn.GELU()
    with pytest.raises(BundleError, match=r"what the saved one did \(outputs "):
        load(path, model=other)


@pytest.mark.parametrize(
    "model", [ToyNet(width=4), nn.Linear(3, 3), nn.Sequential(ToyNet()), timm.create_model("test_resnet")]
)
def test_weights_that_do_not_fit(tmp_path, model):
    path = audit_of().save(tmp_path / "a")
    with pytest.raises(BundleError, match=r"weights in .* do not fit this model"):
        load(path, model=model)


def test_a_model_that_gives_nan_is_not_saved(tmp_path):
    audit = audit_of()
    audit.backbone.classifier.weight.data.fill_(float("nan"))
    audit.calibrate(images(5, seed=77))
    with pytest.raises(NonFiniteError, match="outputs on random inputs are NaN"):
        audit.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(size=(16, 17)), Preprocessing(size=(16, 16), channels=1), Preprocessing(channels=1)]
)
def test_preprocessing_must_make_the_model_s_inputs(tmp_path, preprocessing):
    with pytest.raises(UsageError, match=r"the preprocessing makes inputs of .*, but the model takes 3 x 16 x 16"):
        audit_of().save(tmp_path / "a", preprocessing=preprocessing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, lacking",
    [
        ({}, "architecture=.* nor .*preprocessing="),
        ({"preprocessing": Preprocessing(size=(16, 16))}, "architecture="),
        (
            {
                "preprocessing": Preprocessing(size=(16, 16)),
                "architecture": Architecture("import", "audit_toys:ToyNet"),
            },
            "",
        ),
    ],
)
def test_saving_says_what_a_bundle_lacks_to_verify_files(tmp_path, caplog, options, lacking):
    audit = audit_of()
    caplog.clear()
    audit.save(tmp_path / "a", **options)
    said = [record.getMessage() for record in caplog.records if record.name == "amint"]
    assert len(said) == bool(lacking)
    assert not lacking or re.search(f"files cannot be verified with .*{lacking}", said[0])
