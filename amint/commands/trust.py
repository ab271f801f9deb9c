"""``amint prove | check-proof | sign | keygen | bom``: what was promised, and whose bundle it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from amint.commands.console import say
from amint.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from amint.bundle import Bundle

__all__ = ["bom", "check_proof", "keygen", "prove", "sign"]


def prove(private: Path, bundle: Path, image: Path, out: Path, /, *, place: int | None = None) -> None:
    """Prove that an image was committed to before training, without revealing any other.

    Parameters
    ----------
    private
        The owner's private file, from amint.commit(...).save(path).
    bundle
        The audit bundle, whose preprocessing turns the image into the model's input.
    image
        The image.
    out
        The proof, to be handed to the auditor together with the image.
    place
        Which of several equal samples, counted from 0.
    """
    from amint.bundle import read
    from amint.commitments import Commitment
    from amint.commitments import prove as make

    commitment = Commitment.load(private)
    make(commitment, _input(read(bundle), image), place=place).save(out)
    say(f"Wrote {out}. It is checked against the root {commitment.root}.")


def check_proof(public: str, proof: Path, bundle: Path, image: Path, /) -> None:
    """Check a proof from amint prove; exits with status 1 if it does not hold, or the bundle is not under its root.

    Parameters
    ----------
    public
        The published commitment: a JSON file, or the root in hexadecimal digits.
    proof
        The proof.
    bundle
        The audit bundle, whose preprocessing turns the image into the model's input, and which names the commitment
        that its model was trained under.
    image
        The image.
    """
    from amint.bundle import read
    from amint.commitments import Proof, read_public
    from amint.commitments import check_proof as holds

    is_root = re.fullmatch(r"[0-9a-f]{64}", public) is not None
    if not is_root and not Path(public).is_file():
        raise UsageError(
            f"expected a published commitment, a JSON file, or its root of 64 hexadecimal digits; found {public!r}"
        )
    known = public if is_root else read_public(public)
    shown, held = Proof.load(proof), read(bundle)
    if not holds(known, shown, _input(held, image)):
        say("The proof does not hold: image, proof and commitment do not belong together.", style="bold red")
        sys.exit(1)
    root, named = shown.public["root"], (held.manifest["facts"].get("commitment") or {}).get("root")
    if named not in (None, root):
        say(f"The bundle's model was trained under another commitment, {named}: not under {root}.", style="bold red")
        sys.exit(1)
    say(f"The proof holds: this image was among the samples committed to, with the role {shown.role!r}.")
    if named is None:
        say("But the bundle names no commitment: nothing ties its model to this one.", style="bold red")
        sys.exit(1)


def keygen(path: Path, /) -> None:
    """Make a key for signing bundles; prints the public key, to be published.

    Parameters
    ----------
    path
        Where to write the private key. An existing file is never replaced.
    """
    from amint.signing import new_key

    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"Public key: {new_key(path)}")


def sign(bundle: Path, key: Path, /) -> None:
    """Sign an audit bundle in place; a signature that it has is replaced.

    Parameters
    ----------
    bundle
        A bundle's folder or .zip.
    key
        The private key, from amint keygen.
    """
    from amint.bundle import add_signature

    say(f"Signed {bundle} with the key {add_signature(bundle, key)}.")


def bom(bundle: Path, out: Path, /, *, public_key: str | None = None) -> None:
    """Write a CycloneDX ML-BOM of an audit bundle: model, roles of the data, audit figures.

    Parameters
    ----------
    bundle
        A bundle's folder or .zip.
    out
        The JSON file to write.
    public_key
        Refuse a bundle that is not signed with this key.
    """
    from amint.bundle import read
    from amint.ml_bom import ml_bom

    held = read(bundle, public_key=public_key)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(ml_bom(held, held.signature), indent=1), encoding="utf-8")
    say(f"Wrote {out}.")


def _input(held: Bundle, image: Path) -> Tensor:
    from amint.readers import open_submission

    preprocessing = held.preprocessing
    if not image.exists():
        raise InputError(f"cannot read {image}: no such file; pass one image")
    if preprocessing is None:
        raise UsageError(f"{held.path} does not say how images become inputs; prove tensors with amint.prove")
    reader = open_submission(image, preprocessing, batch_size=1)
    rows: list[Tensor] = [row for batch in reader for row in batch.tensor]
    if len(rows) != 1:
        why = reader.rejected[0].reason if reader.rejected else f"it holds {len(rows)} images"
        raise InputError(f"{image} is not one image: {why}")
    return rows[0]
