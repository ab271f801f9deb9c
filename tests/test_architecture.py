import json
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from amint.architecture import Architecture, describe, differences
from amint.errors import BundleError, UsageError

CODE = """
from pathlib import Path
import torch
Path(__file__).with_suffix(".ran").touch()
class Net(torch.nn.Linear):
    def __init__(self, width=3):
        super().__init__(2, width)
def nothing():
    return "no model"
def failing():
    raise OSError("the network's own trouble")
"""


def shapes(model):
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module of model code; returns the file that appears when it is run."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "__init__.py").write_text(CODE)
    (tmp_path / "foreign" / "models.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sorted(p.stem for p in tmp_path.rglob("*.ran"))
    for name in ("foreign", "foreign.models"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("mobilenetv1_100", {"in_chans": 1, "num_classes": 10}),
        ("resnet18", {"num_classes": 7}),
        ("resnet18.a1_in1k", {}),
        ("legacy_xception", {"num_classes": 2}),
        ("vit_tiny_patch16_224", {"num_classes": 3}),
        ("swin_tiny_patch4_window7_224", {}),
        ("convnext_atto", {"in_chans": 2}),
    ],
)
def test_timm_models_describe_themselves(name, arguments):
    model = timm.create_model(name, **arguments)
    found = describe(model)
    assert found.library == "timm"
    assert found.name == name.split(".")[0]
    assert found.arguments.items() >= arguments.items()
    again = Architecture.from_json(json.loads(json.dumps(found.to_json()))).build()
    assert differences(again, model) == []
    assert type(again) is type(model)
    assert shapes(again) == shapes(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, 2),
        lambda: torchvision.models.mobilenet_v3_small(),
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64),
        lambda: timm.create_model("resnet18", stem_type="deep"),
        lambda: nn.Sequential(timm.create_model("mobilenetv1_100")),
    ],
    ids=["linear", "torchvision", "another size", "another stem", "wrapped"],
)
def test_other_models_have_no_description_of_their_own(make):
    assert describe(make()) is None


def test_a_changed_timm_model_has_no_description():
    model = timm.create_model("mobilenetv1_100", num_classes=10)
    model.extra = nn.Linear(2, 2)
    assert describe(model) is None
    del model.extra
    assert describe(model) is not None
    model.pretrained_cfg = {"architecture": "no such model"}
    assert describe(model) is None


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "swin_t", "convnext_tiny"])
def test_torchvision_models_are_built_by_name_and_compared(name):
    model = torchvision.models.get_model(name, weights=None, num_classes=4)
    right, wrong = (Architecture("torchvision", name, {"num_classes": n}).build() for n in (4, 5))
    assert differences(right, model) == []
    assert shapes(right) == shapes(model)
    last = [key for key in model.state_dict() if key.startswith(("fc.", "classifier.", "head."))][-2:]
    assert differences(wrong, model) == sorted(last)
    model.more = nn.BatchNorm1d(2)
    assert "more.running_mean" in differences(right, model)


@pytest.mark.parametrize(
    "library, name, near",
    [
        ("timm", "resnet_18", ["resnet18"]),
        ("timm", "hf-hub:someone/model", []),
        ("timm", "local-dir:/tmp/model", []),
        ("timm", "", []),
        ("torchvision", "resnt18", ["resnet18"]),
        ("torchvision", "fcn_resnet50", ["resnet50"]),
        ("torchvision", "fasterrcnn_resnet50_fpn", []),
    ],
)
def test_unknown_names_and_names_that_would_be_looked_up_elsewhere(library, name, near):
    with pytest.raises(BundleError, match=f"{library} has no classifier '{name}'; near names: ") as refusal:
        Architecture(library, name).build()
    assert all(repr(other) in str(refusal.value) for other in near)


@pytest.mark.parametrize("library, name", [("timm", "resnet18"), ("torchvision", "resnet18")])
@pytest.mark.parametrize("arguments", [{"no_such_argument": 1}, {"num_classes": "many"}, {"num_classes": []}])
def test_arguments_the_constructor_does_not_take(library, name, arguments):
    with pytest.raises(BundleError, match=f"cannot build {library}/resnet18 with .*{next(iter(arguments))}"):
        Architecture(library, name, arguments).build()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("argument", ["pretrained", "checkpoint_path", "weights", "weights_backbone", "cache_dir"])
def test_arguments_that_would_load_weights_are_refused(library, argument):
    with pytest.raises(UsageError, match=f"says nothing about weights; leave out the arguments .*{argument}"):
        Architecture(library, "resnet18", {argument: True})


@pytest.mark.parametrize("value", [nn.ReLU, {1, 2}, float("nan"), b"bytes"])
def test_arguments_are_plain_json_values(value):
    with pytest.raises(UsageError, match="plain JSON values"):
        Architecture("timm", "resnet18", {"act_layer": value})


@pytest.mark.parametrize("library", ["keras", "", None, "Timm", "os"])
def test_other_libraries_are_refused(library):
    with pytest.raises(UsageError, match="library must be one of timm, torchvision, import, got"):
        Architecture(library, "resnet18")


@pytest.mark.parametrize("name", ["foreign", "foreign.models.Net", "a:b:c", ""])
def test_import_paths_look_like_import_paths(name):
    with pytest.raises(UsageError, match="an import path looks like"):
        Architecture("import", name)


def test_what_only_the_running_script_can_import_is_refused():
    with pytest.raises(UsageError, match="move the class or function into a module"):
        Architecture("import", "__main__:Net")


@pytest.mark.parametrize(
    "allowed",
    [
        (),
        ["foreign.models"],
        ["foreign.models:Ne"],
        ["foreign.models:Net2"],
        "not.foreign.models:Net2",
        ["foreign.models:net"],
        {"foreign.models:nothing"},
    ],
)
def test_code_that_is_not_allowed_is_not_even_imported(code, allowed):
    path = Architecture("import", "foreign.models:Net", {"width": 5})
    with pytest.raises(BundleError, match=r"code of its own, foreign.models:Net.*--allow-import foreign.models:Net"):
        path.build(allowed)
    assert code() == []
    assert not any(name.startswith("foreign") for name in sys.modules)


@pytest.mark.parametrize("allowed", [["foreign.models:Net"], {"a:b", "foreign.models:Net"}, "foreign.models:Net"])
def test_allowed_code_is_imported_and_called(code, allowed):
    path = Architecture.from_json(Architecture("import", "foreign.models:Net", {"width": 5}).to_json())
    model = path.build(allowed)
    assert code() == ["__init__", "models"]
    assert model.weight.shape == (5, 2)
    assert differences(model, nn.Linear(2, 5)) == []
    assert differences(model, nn.Linear(2, 6)) == ["bias", "weight"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("foreign.models:nothing", "gave str, not a torch.nn.Module"),
        ("foreign.models:failing", "cannot build import/foreign.models:failing: .*own trouble"),
        ("foreign.models:missing", "cannot build .*missing"),
        ("nowhere.at.all:Net", "cannot build .*No module named .*PYTHONPATH=."),
    ],
)
def test_allowed_code_that_gives_no_model(code, name, message):
    with pytest.raises(BundleError, match=message):
        Architecture("import", name).build([name])


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "timm/resnet18",
        {},
        {"library": "timm", "name": "resnet18"},
        {"library": "timm", "name": "resnet18", "arguments": {}, "code": "print(1)"},
        {"library": "timm", "name": 3, "arguments": {}},
        {"library": "timm", "name": "resnet18", "arguments": [1]},
        {"library": ["timm"], "name": "resnet18", "arguments": {}},
        {"library": "timm", "name": "resnet18", "arguments": {"checkpoint_path": "model.pth"}},
    ],
)
def test_nonsense_is_not_a_description(data):
    with pytest.raises(UsageError):
        Architecture.from_json(data)


def test_building_gives_fresh_weights():
    architecture = Architecture("timm", "mobilenetv1_100", {"num_classes": 2})
    model = architecture.build()
    assert not torch.equal(architecture.build().classifier.weight, model.classifier.weight)
