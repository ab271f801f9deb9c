import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from amint.errors import SplitError
from amint.split import resolve_split, tap_modules, tap_points
from amint.taps import TrainingHooks, prefix

SETUPS = ("entry", "middle", "output")


def case(library, name, side, common, *pairs, marks=(), **arguments):
    names = [[common + part for part in pair.split()] for pair in pairs]
    return pytest.param(library, name, side, arguments, names, id=f"{library}-{name}-{side}", marks=marks)


# Library, model, input side, what the names begin with, and the pairs for entry, middle and output, as read off the
# published architectures.
dense = ("denseblock1 transition1", "denseblock2 transition2", "transition3 denseblock4")
slow = pytest.mark.slow
ARCHITECTURES = [
    case("timm", "mobilenetv1_100", 64, "blocks.", "0 1", "1 2", "3 4"),
    case("timm", "mobilenetv3_small_100", 64, "blocks.", "0 1", "2 3", "4 5"),
    case("timm", "resnet18", 32, "layer", "1 2", "2 3", "3 4"),
    case("timm", "resnet18", 64, "layer", "1 2", "2 3", "3 4", in_chans=1),
    case("timm", "resnet50", 64, "layer", "1 2", "2 3", "3 4", marks=slow),
    case("timm", "resnet101", 64, "layer", "1 2", "2 3", "3 4", marks=slow),
    case("timm", "densenet121", 64, "features.", *dense),
    case("timm", "legacy_xception", 64, "", "block1 block2", "block11 block12", "conv3 conv4"),
    case("timm", "xception41", 64, "", "stem.0 stem.1", "blocks.0 blocks.1", "blocks.11 blocks.12", marks=slow),
    case("timm", "efficientnet_b0", 64, "blocks.", "0 1", "2 3", "5 6"),
    case("timm", "efficientnetv2_rw_t", 64, "blocks.", "0 1", "2 3", "4 5", marks=slow),
    case("timm", "convnext_atto", 64, "stages.", "0 1", "1 2", "2 3"),
    case("timm", "vit_tiny_patch16_224", 48, "blocks.", "0 1", "5 6", "10 11", img_size=48),
    case("timm", "swin_tiny_patch4_window7_224", 64, "layers.", "0 1", "1 2", "2 3", img_size=64),
    case("timm", "swin_tiny_patch4_window7_224", 224, "layers.", "0 1", "1 2", "2 3", marks=slow),
    case("torchvision", "resnet50", 64, "layer", "1 2", "2 3", "3 4", marks=slow),
    case("torchvision", "mobilenet_v3_small", 64, "features.", "0 1", "3 6", "11 12"),
    case("torchvision", "densenet121", 64, "features.", *dense, marks=slow),
    case("torchvision", "efficientnet_b0", 64, "features.", "0 1", "3 4", "7 8"),
    case("torchvision", "vit_b_16", 224, "encoder.layers.encoder_layer_", "0 1", "5 6", "10 11", marks=slow),
    case("torchvision", "swin_t", 64, "features.", "1 3", "3 5", "5 7", marks=slow),
    case("torchvision", "convnext_tiny", 64, "features.", "1 3", "3 5", "5 7"),
]


def build(library, name, arguments, shape):
    """An untrained model through which the input nevertheless shows: fresh ones may ignore it up to rounding."""
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    model = make(name, num_classes=5, **arguments).train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            model(torch.randn(8, *shape))
    return model.eval()


@pytest.mark.parametrize("library, name, side, arguments, expected", ARCHITECTURES)
def test_setups_and_cuts(library, name, side, arguments, expected):
    shape = (arguments.get("in_chans", 3), side, side)
    model, x = build(library, name, arguments, shape), torch.randn(2, *shape)
    points = tap_points(model, x)
    chosen = {split: [i for i, p in enumerate(points) if split in p.setups] for split in SETUPS}
    assert [[points[i].name for i in pair] for pair in chosen.values()] == expected
    assert all(pair[1] == pair[0] + 1 for pair in chosen.values())
    assert chosen["entry"][0] == 0
    assert chosen["output"][1] == len(points) - 1
    assert chosen["entry"] < chosen["middle"] <= chosen["output"]
    layout = {"swin": "channels_last", "vit_": "tokens"}.get(name[:4], "channels_first")
    assert {p.layout for p in points} == {layout}
    costs = [p.cost for p in points]
    assert costs == sorted(costs)
    assert 0 < costs[0] < 0.5 < costs[-1] <= 1
    with torch.no_grad():
        plain = model(x)
        assert (plain[0] - plain[1]).abs().max() > 0.01 * plain.abs().max()
        for split in SETUPS:
            taps = resolve_split(model, split, x)
            assert taps == tuple(points[i] for i in chosen[split])
            check_cut(model, taps, x, plain)


def check_cut(model, points, x, plain):
    """In evaluation mode nothing changes; cut, the members' outputs are the plain ones and the head gets all rows."""
    taps = tap_modules(model, [p.name for p in points])
    more, seen = torch.cat([x.flip(-1), x[:1].flip(-2)]), []
    hooks = TrainingHooks(model, taps, lambda _: more, lambda maps, members: seen.append((maps, members)))
    assert torch.equal(model(x), plain)
    assert seen == []
    # The modules below stay in evaluation mode, so that dropout and batch statistics do not blur the comparison.
    model.training = True
    cut = model(x)
    model.training = False
    hooks.remove()
    torch.testing.assert_close(cut, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))
    ((maps, members),) = seen
    assert members == 2
    assert [tuple(m.shape) for m in maps] == [(5, *p.shape) for p in points]
    for tapped, alone in zip(maps, prefix(model, taps, torch.cat([x, more])), strict=True):
        assert torch.equal(tapped, alone)
        assert not torch.equal(tapped[:2], tapped[2:4])


def test_published_names_inside_residual_blocks_are_refused():
    model, x = timm.create_model("legacy_xception", num_classes=2), torch.randn(2, 3, 48, 48)
    refused = {}
    for info in model.feature_info:
        try:
            assert [p.name for p in resolve_split(model, info["module"], x)] == [info["module"]]
        except SplitError as refusal:
            refused[info["module"]] = re.search("inside a residual.*nearest .* works is '(.*)'", str(refusal))[1]
    assert refused == {"block2.rep.0": "block1", "block3.rep.0": "block2", "block12.rep.0": "block11"}
    for nearest in refused.values():
        assert [p.name for p in resolve_split(model, nearest, x)] == [nearest]
