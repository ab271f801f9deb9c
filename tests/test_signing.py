import json
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amint import signing
from amint.errors import BundleError, InputError, UsageError
from amint.signing import check, new_key, public_key, read_private_key, sign

MANIFEST = b'{\n "format": "amint-bundle",\n "version": 2\n}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return [(new_key(folder / name), read_private_key(folder / name)) for name in ("mine", "another")]


def test_a_signature_comes_back_valid_through_json(keys):
    public, private = keys[0]
    signature = json.loads(json.dumps(sign(MANIFEST, private)))
    assert public_key(private) == public
    assert signature["public_key"] == public
    assert asdict(check(MANIFEST, signature, public)) == {"state": "valid", "public_key": public}
    assert asdict(check(MANIFEST, signature)) == {"state": "self-signed", "public_key": public}
    assert asdict(check(MANIFEST, None)) == {"state": "unsigned", "public_key": None}


def test_the_vector_of_rfc_8032():
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    # Section 7.1, test 2: a message of one byte.
    secret = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    signature = sign(b"\x72", Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert signature["public_key"] == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signature["signature"].startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da")
    assert signature["signature"].endswith("085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")


@settings(deadline=None)
@given(place=st.integers(0, 8 * len(MANIFEST) - 1))
def test_any_changed_bit_of_the_manifest_is_found(keys, place):
    public, private = keys[0]
    signature = sign(MANIFEST, private)
    edited = bytearray(MANIFEST)
    edited[place // 8] ^= 1 << place % 8
    for key in (public, None):
        with pytest.raises(BundleError, match="the signature does not fit the manifest"):
            check(bytes(edited), signature, key)


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(["public_key", "signature"]),
    place=st.integers(0, 127),
    digit=st.sampled_from("0123456789abcdef"),
)
def test_any_changed_digit_of_the_signature_is_found(keys, name, place, digit):
    public, private = keys[0]
    signature = sign(MANIFEST, private)
    value = signature[name]
    place %= len(value)
    edited = signature | {name: value[:place] + digit + value[place + 1 :]}
    if edited != signature:
        with pytest.raises(BundleError):
            check(MANIFEST, edited, public)
        with pytest.raises(BundleError, match="does not fit the manifest"):
            check(MANIFEST, edited)


def test_whoever_signs_an_edited_bundle_anew_is_found_by_the_key_only(keys):
    (public, _), (other, stranger) = keys
    forged = sign(MANIFEST + b" ", stranger)
    assert check(MANIFEST + b" ", forged).public_key == other
    with pytest.raises(BundleError, match=f"signed with the key {other}, not with the expected {public}"):
        check(MANIFEST + b" ", forged, public)
    with pytest.raises(BundleError, match="not signed, but was expected to be"):
        check(MANIFEST, None, public)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"more": 1}, "expected the fields"),
        ({"format": "x"}, "holds 'x' by 'Ed25519'"),
        ({"algorithm": "RSA"}, "by 'RSA'"),
        ({"public_key": 5}, "is damaged"),
        ({"public_key": "g" * 64}, "is damaged"),
        ({"public_key": "A" * 64}, "is damaged"),
        ({"signature": ""}, "is damaged"),
        ({"signature": None}, "is damaged"),
        ({"signature": "ab" * 65}, "is damaged"),
        ({"signature": "0" * 127 + "\n"}, "is damaged"),
        ({"public_key": "0" * 63 + "2"}, "does not fit"),
    ],
)
def test_damaged_signatures(keys, change, message):
    with pytest.raises(BundleError, match=message):
        check(MANIFEST, sign(MANIFEST, keys[0][1]) | change)


@pytest.mark.parametrize("signature", [[], "x", 5, {}, {"signature": "00"}])
def test_what_is_no_signature(signature):
    with pytest.raises(BundleError, match="expected the fields algorithm, format, public_key, signature"):
        check(MANIFEST, signature)


@pytest.mark.parametrize("key", ["", "xy" * 32, "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_a_malformed_expectation(keys, key):
    with pytest.raises(UsageError, match="a public key is 64 hexadecimal digits in lower case"):
        check(MANIFEST, sign(MANIFEST, keys[0][1]), key)


def test_keys_are_the_owners_alone_random_and_never_replaced(tmp_path):
    path = tmp_path / "key.pem"
    first = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="a key is never replaced"):
        new_key(path)
    assert public_key(read_private_key(path)) == first
    assert new_key(tmp_path / "other.pem") != first


def test_what_is_no_key(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    new_key(tmp_path / "good")
    key = read_private_key(tmp_path / "good")
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    contents = {"kind": other, "locked": locked, "empty": b"", "cut": (tmp_path / "good").read_bytes()[:60]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        expected = "another kind than Ed25519" if name == "kind" else "not an unencrypted private key in PEM"
        with pytest.raises(InputError, match=expected):
            read_private_key(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_private_key(tmp_path / "nothing")


def test_sentences():
    assert check(MANIFEST, None).sentence() == "The bundle is not signed."
    assert "was not checked" in signing.SignatureStatus("self-signed", "ab" * 32).sentence()
    assert "expected key" in signing.SignatureStatus("valid", "ab" * 32).sentence()


def test_without_cryptography_the_message_says_what_to_install(keys):
    signature = sign(MANIFEST, keys[0][1])
    script = f"""
import sys
sys.modules["cryptography"] = None
from amint import signing
for call in (lambda: signing.check({MANIFEST!r}, {signature!r}), lambda: signing.new_key("never"),
             lambda: signing.read_private_key("never")):
    try:
        call()
    except signing.UsageError as error:
        print(error)
print(signing.check(b"", None).state)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.endswith("pip install 'amint-audit[sign]'") for line in lines] == [True] * 3 + [False]
    assert lines[3] == "unsigned"


def test_the_manifest_can_be_checked_by_other_software(keys, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = keys[0][1]
    (tmp_path / "manifest").write_bytes(MANIFEST)
    (tmp_path / "signature").write_bytes(bytes.fromhex(sign(MANIFEST, private)["signature"]))
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key").write_bytes(pem)
    command = [openssl, "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key", "-in", "manifest"]
    done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, text=True)
    assert "Verified Successfully" in done.stdout, done.stderr
