import json

import pytest
from audit_toys import PREPROCESSING, ToyNet, audit_of, tensors_of, write_pictures

import amint
from amint.architecture import Architecture
from amint.cli import main

TOY = Architecture("import", "audit_toys:ToyNet")


def run(*arguments):
    """Exit status of a command; 0 when it returns."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def bundle_under(commitment, path):
    """A bundle whose model was trained under this commitment, or under none."""
    audit = audit_of(ToyNet())
    audit.facts |= {} if commitment is None else {"commitment": commitment.public()}
    return audit.save(path, preprocessing=PREPROCESSING, architecture=TOY)


@pytest.fixture
def owner(tmp_path):
    """A bundle, a folder of members and their commitment."""
    folder = write_pictures(tmp_path / "members", 5)
    commitment = amint.commit(members=tensors_of(folder))
    bundle = bundle_under(commitment, tmp_path / "a.amint")
    commitment.save(tmp_path / "private.json")
    commitment.publish(tmp_path / "public.json")
    return tmp_path, bundle, folder, commitment


def test_one_sample_is_proved_and_another_is_not(owner, capsys):
    place, bundle, folder, commitment = owner
    proof = place / "to" / "others" / "proof.json"
    assert run("prove", place / "private.json", bundle, folder / "002.png", proof) == 0
    for public in (place / "public.json", commitment.root):
        assert run("check-proof", public, proof, bundle, folder / "002.png") == 0
        assert run("check-proof", public, proof, bundle, folder / "003.png") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "does not hold" in printed
    assert "with the role 'members'" in printed
    assert "names no commitment" not in printed
    assert str(folder) not in proof.read_text()


def test_a_proof_says_whether_the_bundle_belongs_to_it(owner, capsys):
    place, bundle, folder, commitment = owner
    asked = ("check-proof", place / "public.json", place / "proof.json")
    assert run("prove", place / "private.json", bundle, folder / "002.png", place / "proof.json") == 0
    assert run(*asked, bundle_under(None, place / "none.amint"), folder / "002.png") == 1
    assert "the bundle names no commitment" in capsys.readouterr().out
    other = amint.commit(members=tensors_of(folder)[:3])
    assert run(*asked, bundle_under(other, place / "other.amint"), folder / "002.png") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"another commitment, {other.root}: not under {commitment.root}" in printed
    assert "The proof holds" not in printed


def test_a_stranger_cannot_be_proved(owner, capsys):
    place, bundle, _, _ = owner
    stranger = write_pictures(place / "others", 1, seed=77) / "000.png"
    assert run("prove", place / "private.json", bundle, stranger, place / "proof.json") == 2
    assert "error:" in capsys.readouterr().err
    assert not (place / "proof.json").exists()


@pytest.mark.parametrize("packed", [False, True])
def test_a_bundle_is_signed_and_another_key_is_refused(tmp_path, capsys, packed):
    folder = write_pictures(tmp_path / "pictures", 3)
    name = "a.zip" if packed else "a.amint"
    bundle = audit_of(ToyNet()).save(tmp_path / name, preprocessing=PREPROCESSING, architecture=TOY)
    assert run("keygen", tmp_path / "key.pem") == 0
    public = capsys.readouterr().out.split()[-1]
    assert run("keygen", tmp_path / "other.pem") == 0
    other = capsys.readouterr().out.split()[-1]
    judge = ("verify", bundle, folder, "--alpha", 0.05, "--out", tmp_path / "out", "--allow-import", TOY.name)
    assert run(*judge, "--public-key", public) == 2
    assert run("sign", bundle, tmp_path / "key.pem") == 0
    assert run(*judge, "--public-key", public) == 0
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert "signed with the expected key" in verdict["provenance"]["signature"]
    assert run(*judge) == 0
    assert "whose that is was not checked" in (tmp_path / "out" / "verdict.json").read_text()
    assert run(*judge, "--public-key", other) == 2
    assert run("sign", bundle, tmp_path / "other.pem") == 0
    assert run(*judge, "--public-key", other) == 0


def test_an_edited_bundle_loses_its_signature(tmp_path):
    bundle = audit_of(ToyNet()).save(tmp_path / "a.amint", preprocessing=PREPROCESSING, architecture=TOY)
    run("keygen", tmp_path / "key.pem")
    assert run("sign", bundle, tmp_path / "key.pem") == 0
    fresh = audit_of(ToyNet(), seed=9).save(tmp_path / "b.amint", preprocessing=PREPROCESSING, architecture=TOY)
    (fresh / "signature.json").write_bytes((bundle / "signature.json").read_bytes())
    assert run("inspect", fresh) == 2


def test_the_bill_of_materials_is_written(tmp_path):
    bundle = audit_of(ToyNet()).save(tmp_path / "a.amint", preprocessing=PREPROCESSING, architecture=TOY)
    assert run("bom", bundle, tmp_path / "parts" / "bom.json") == 0
    assert json.loads((tmp_path / "parts" / "bom.json").read_text())["bomFormat"] == "CycloneDX"


def test_a_folder_is_not_one_image(owner, capsys):
    place, bundle, folder, _ = owner
    assert run("prove", place / "private.json", bundle, folder, place / "proof.json") == 2
    assert "is not one image" in capsys.readouterr().err
