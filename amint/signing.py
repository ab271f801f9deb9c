"""Ed25519 signatures of a bundle's manifest, which pins every other file of the bundle by its SHA-256.

``signature.json`` beside the manifest holds the signature and the public key it was made with. That key proves nothing
by itself: whoever edits a bundle can sign it anew with a key of his own. Only a public key that was got in another way
(published, or handed over) tells whose signature it is; without one a good signature is ``self-signed``.

Source: RFC 8032 (Ed25519, pure, over the very bytes of the manifest, so that other software can check it too), through
the ``cryptography`` package (``pip install amint-audit[sign]``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amint.errors import BundleError, InputError, UsageError
from amint.findings import NOT_SIGNED, UNKNOWN_SIGNER
from amint.regular_files import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SIGNATURE", "SignatureStatus", "check", "new_key", "public_key", "read_private_key", "sign"]

SIGNATURE = "signature.json"
_ALGORITHM = "Ed25519"
_FIELDS = {"format", "algorithm", "public_key", "signature"}


@dataclass(frozen=True)
class SignatureStatus:
    """What is known about the signature of a bundle.

    Attributes:
        state: "unsigned"; "self-signed": a good signature, but nobody said whose key it must be; "valid": a good
            signature by the expected key.
        public_key: the key it was made with, 64 hexadecimal digits, or None.
    """

    state: Literal["unsigned", "self-signed", "valid"]
    public_key: str | None = None

    def sentence(self) -> str:
        """For people."""
        if self.public_key is None:
            return NOT_SIGNED
        if self.state == "self-signed":
            return f"The bundle is signed with the key {self.public_key}; {UNKNOWN_SIGNER}"
        return f"The bundle is signed with the expected key {self.public_key}."


def new_key(path: str | Path) -> str:
    """Make a key pair; write the private key as a PEM file that only its owner may read (PKCS 8, not encrypted).

    Returns:
        The public key, 64 hexadecimal digits, to be published.

    Raises:
        UsageError: there is a file already, or ``cryptography`` is missing.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already; a key is never replaced. Choose another name") from error
    return public_key(key)


def read_private_key(path: str | Path) -> Ed25519PrivateKey:
    """The key in a file from :func:`new_key`, or any unencrypted Ed25519 key in PEM.

    Raises:
        InputError: not such a file.
        UsageError: ``cryptography`` is missing.
    """
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_regular(path, f"the key {path}")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is not an unencrypted private key in PEM; make one with amint keygen") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds a key of another kind than Ed25519; make one with amint keygen")
    return key


def public_key(private_key: Ed25519PrivateKey) -> str:
    """The public key that belongs to a private one, 64 hexadecimal digits."""
    return private_key.public_key().public_bytes_raw().hex()


def sign(manifest: bytes, private_key: Ed25519PrivateKey) -> dict[str, str]:
    """Sign a manifest.

    Args:
        manifest: the very bytes of the file.
        private_key: from :func:`read_private_key`.

    Returns:
        Plain values for ``signature.json``.
    """
    return {
        "format": "amint-signature",
        "algorithm": _ALGORITHM,
        "public_key": public_key(private_key),
        "signature": private_key.sign(manifest).hex(),
    }


def check(manifest: bytes, signature: Mapping[str, Any] | None, public_key: str | None = None) -> SignatureStatus:
    """Check the signature of a manifest.

    Args:
        manifest: the very bytes of the file.
        signature: what ``signature.json`` holds, or None if there is none.
        public_key: the key it must be made with, 64 hexadecimal digits; None if no key is known.

    Raises:
        BundleError: it is no signature of this manifest, or by another key, or missing although a key was given.
        UsageError: ``cryptography`` is missing, or the public key is malformed.
    """
    if public_key is not None and not _is_hex(public_key, 32):
        raise UsageError(f"a public key is 64 hexadecimal digits in lower case, got {public_key!r}")
    if signature is None:
        if public_key is not None:
            raise BundleError(f"the bundle is not signed, but was expected to be, with the key {public_key}")
        return SignatureStatus("unsigned")
    used, raw = _fields(signature)
    if public_key is not None and used != public_key:
        raise BundleError(f"the bundle is signed with the key {used}, not with the expected {public_key}")
    _verify(used, raw, manifest)
    return SignatureStatus("self-signed" if public_key is None else "valid", used)


def _fields(signature: Any) -> tuple[str, bytes]:
    if not isinstance(signature, Mapping) or set(signature) != _FIELDS:
        raise BundleError(f"{SIGNATURE} is damaged: expected the fields {', '.join(sorted(_FIELDS))}")
    if signature["format"] != "amint-signature" or signature["algorithm"] != _ALGORITHM:
        raise BundleError(
            f"{SIGNATURE} holds {signature['format']!r} by {signature['algorithm']!r}; this amint checks "
            f"'amint-signature' by {_ALGORITHM!r}"
        )
    used, value = signature["public_key"], signature["signature"]
    if not _is_hex(used, 32) or not _is_hex(value, 64):
        raise BundleError(
            f"{SIGNATURE} is damaged: its key has 64 hexadecimal digits, its signature 128, in lower case"
        )
    return used, bytes.fromhex(value)


def _verify(used: str, raw: bytes, manifest: bytes) -> None:
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key: Ed25519PublicKey = Ed25519PublicKey.from_public_bytes(bytes.fromhex(used))
        key.verify(raw, manifest)
    except (InvalidSignature, ValueError) as error:
        raise BundleError(
            "the signature does not fit the manifest: the bundle was edited after it was signed, or is damaged"
        ) from error


def _is_hex(value: Any, size: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", value) is not None


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography, which is not installed: pip install 'amint-audit[sign]'"
        ) from error
