import json
from dataclasses import replace

import pytest
import torch
from audit_toys import PREPROCESSING, ToyNet, images
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import amint
from amint.bundle import read
from amint.commitments import commit
from amint.errors import BundleError
from amint.ml_bom import ml_bom
from amint.signing import SignatureStatus

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def fault(bom):
    """What the published schema has against it, or None."""
    error = VALIDATOR.validate_str(json.dumps(bom, allow_nan=False))
    return None if error is None else error.data.message


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    model, members, external, unseen = ToyNet(), images(20), images(20, 2), images(40, 3)
    commitment = commit(members=members, external=external, calibration=unseen[:20], secret=bytes(32))
    audit = amint.attach(model, external=external, split=["entry"], commitment=commitment)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    audit.loss(model(members).square().mean()).backward()
    optimizer.step()
    with audit.paused():
        model(members).square().mean().backward()
        optimizer.step()
    audit.calibrate(unseen[:20])
    audit.evaluate(members, unseen[20:])
    return read(audit.save(tmp_path_factory.mktemp("b") / "b.amint", preprocessing=PREPROCESSING))


def with_facts(bundle, **facts):
    return replace(bundle, manifest={**bundle.manifest, "facts": {**bundle.manifest["facts"], **facts}})


def properties(component):
    return {entry["name"].removeprefix("amint:"): entry["value"] for entry in component["properties"]}


def test_it_is_valid_and_the_same_each_time(bundle):
    bom = ml_bom(bundle, SignatureStatus("valid", "ab" * 32))
    assert fault(bom) is None
    assert json.dumps(bom) == json.dumps(ml_bom(read(bundle.path), SignatureStatus("valid", "ab" * 32)))
    assert fault(ml_bom(bundle)) is None


@pytest.mark.parametrize(
    "change", [{"bomFormat": "x"}, {"serialNumber": "x"}, {"more": 1}, {"metadata": {"timestamp": "yesterday"}}]
)
def test_the_check_can_fail(bundle, change):
    assert fault(ml_bom(bundle) | change) is not None


def test_it_says_what_the_bundle_says(bundle):
    bom = ml_bom(bundle, SignatureStatus("self-signed", "ab" * 32))
    model, manifest = bom["metadata"]["component"], bundle.manifest
    assert bom["metadata"]["timestamp"] == manifest["created"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest["files"]["model.safetensors"]}]
    found = properties(model)
    assert found["bundle:sha256"] == bundle.sha256
    assert found["commitment:root"] == manifest["facts"]["commitment"]["root"]
    assert (found["signature:state"], found["signature:key"]) == ("self-signed", "ab" * 32)
    assert (found["fact:accounted_updates"], found["fact:unaccounted_updates"]) == ("1", "1")
    assert int(found["parameters"]) == sum(p.numel() for p in ToyNet().state_dict().values())
    datasets = model["modelCard"]["modelParameters"]["datasets"]
    counts = {d["name"].split(":")[0]: properties(d["contents"]) for d in datasets}
    assert counts == {
        "members": {"count": "20", "committed": "20"},
        "external": {"count": "20", "committed": "20"},
        "calibration": {"count": "20", "committed": "20"},
    }
    libraries = {c["name"]: c["version"] for c in bom["components"] if c["type"] == "library"}
    assert libraries == manifest["libraries"]
    assert any(
        "1 updates of the weights" in text for text in model["modelCard"]["considerations"]["technicalLimitations"]
    )


def test_the_figures_come_with_their_intervals(bundle):
    figures = ml_bom(bundle)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    evaluation = bundle.manifest["facts"]["evaluation"]
    assert {f["type"].removeprefix("MINT ") for f in figures} == set(evaluation) - {"alpha"}
    for figure in figures:
        expected, interval = evaluation[figure["type"].removeprefix("MINT ")], figure["confidenceInterval"]
        assert float(figure["value"]) == pytest.approx(expected["value"], rel=1e-5)
        assert float(interval["lowerBound"]) == pytest.approx(expected["low"], rel=1e-5)
        assert float(interval["upperBound"]) == pytest.approx(expected["high"], rel=1e-5)
        assert figure["slice"] == "20 members, 20 unseen non-members"


def test_every_reference_has_its_component(bundle):
    bom = ml_bom(bundle)
    refs = [bom["metadata"]["component"]["bom-ref"], *(component["bom-ref"] for component in bom["components"])]
    assert len(set(refs)) == len(refs)
    assert sorted(entry["ref"] for entry in bom["dependencies"]) == sorted(refs)
    assert set(bom["dependencies"][0]["dependsOn"]) == set(refs[1:])


def test_another_bundle_is_another_document(bundle):
    assert ml_bom(bundle)["serialNumber"] != ml_bom(replace(bundle, sha256="0" * 64))["serialNumber"]


def test_a_bundle_of_bare_facts(bundle):
    manifest = {**bundle.manifest, "facts": {}, "libraries": {"torch": "2.6.0+cpu"}}
    architecture = amint.Architecture("torchvision", "resnet18")
    for held in (None, architecture):
        bom = ml_bom(replace(bundle, manifest=manifest, architecture=held))
        assert fault(bom) is None
    assert bom["components"][1]["purl"] == "pkg:pypi/torch@2.6.0%2Bcpu"
    card = bom["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "resnet18"
    assert card["quantitativeAnalysis"]["performanceMetrics"] == []
    assert any("no figures" in text for text in card["considerations"]["technicalLimitations"])
    assert properties(bom["metadata"]["component"])["commitment:root"] == "none"


@pytest.mark.parametrize(
    "facts", [{"note": "\ud800 <script> \x00"}, {"deep": {"a": [1, None, "x"]}}, {"none": None}, {"": 1}]
)
def test_facts_of_any_kind(bundle, facts):
    bom = ml_bom(with_facts(bundle, **facts))
    assert fault(bom) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"evaluation": 5},
        {"evaluation": {"auroc": 0.5}},
        {"evaluation": {"auroc": {"value": "x", "low": 0, "high": 1, "n": [1, 1]}}},
        {"evaluation": {"auroc": {"value": float("inf"), "low": 0, "high": 1, "n": [1, 1]}}},
        {"evaluation": {"auroc": {"value": True, "low": 0, "high": 1, "n": [1, 1]}}},
        {"evaluation": {"auroc": {"value": 0.5, "low": 0, "high": 1, "n": []}}},
        {"commitment": "x"},
        {"commitment": {"counts": 3}},
    ],
)
def test_facts_that_amint_never_writes_are_refused(bundle, facts):
    with pytest.raises(BundleError, match="is not what amint writes"):
        ml_bom(with_facts(bundle, **facts))
