"""The files of an audit bundle as bytes: read from a folder or a .zip of one, written whole or not at all."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from amint.errors import BundleError, UsageError

__all__ = ["MANIFEST", "SIGNATURE", "WEIGHTS", "check_replaceable", "read_files", "write_files"]

MANIFEST = "manifest.json"
WEIGHTS = ("model.safetensors", "head.safetensors", "calibration.safetensors", "training.safetensors")
SIGNATURE = "signature.json"
_NEEDED = (MANIFEST, *WEIGHTS)
_NAMES = (*_NEEDED, SIGNATURE)
_SIGN = b'"amint-bundle"'
_MOST_BYTES = 16 * 2**30
_MOST_MANIFEST = 16 * 2**20
# Weights hardly shrink; an archive that grows more than this is made to fill the memory.
_MOST_EXPANSION = 100


def read_files(source: Path) -> dict[str, bytes]:
    """Name -> content of the files of a bundle, with its signature if there is one; nothing is unpacked to disk.

    Raises:
        BundleError: not there, not whole, too large, or not a bundle at all.
    """
    try:
        if source.is_dir():
            return _from_folder(source)
        if source.is_file():
            return _from_zip(source)
        # Opening a pipe would wait for ever.
        found = "neither a folder nor a file" if source.exists() else "nothing"
    except OSError as error:
        raise BundleError(f"{source} cannot be read: {error.strerror}") from error
    raise BundleError(f"there is no audit bundle at {source}: {found} is there")


def _from_folder(source: Path) -> dict[str, bytes]:
    present = {name: source / name for name in _NAMES if (source / name).is_file()}
    _check_sizes(source, {name: path.stat().st_size for name, path in present.items()})
    return {name: path.read_bytes() for name, path in present.items()}


def _from_zip(source: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(source) as archive:
            ours = [info for info in archive.infolist() if PurePosixPath(info.filename).name in _NAMES]
            entries = {PurePosixPath(info.filename).name: info for info in ours}
            # Some packers put the folder itself into the archive.
            folders = {PurePosixPath(info.filename).parent for info in ours}
            astray = any(folder.is_absolute() or ".." in folder.parts for folder in folders)
            if len(folders) > 1 or len(entries) < len(ours) or astray:
                raise BundleError(f"{source} is not one bundle; it holds {[info.filename for info in ours]}")
            sizes = {name: info.file_size for name, info in entries.items()}
            _check_sizes(source, sizes)
            if sum(sizes.values()) > _MOST_EXPANSION * source.stat().st_size:
                raise BundleError(f"{source} would expand to {sum(sizes.values()):,} bytes; weights do not do that")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in ours):
                raise BundleError(f"{source} is packed by another method than deflate; pack it again")
            return {name: _member(archive, info) for name, info in entries.items()}
    except BundleError:
        raise
    # A damaged archive makes zipfile raise nearly anything: its own errors, struct, zlib, key and value errors.
    except Exception as error:
        raise BundleError(f"{source} is neither a bundle's folder nor a readable .zip of one: {error}") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # ZipFile.read unpacks everything there is and then cuts it to the size in the header, which may be a lie.
    with archive.open(info) as file:
        return file.read(info.file_size + 1)


def _check_sizes(source: Path, sizes: Mapping[str, int]) -> None:
    missing = [name for name in _NEEDED if name not in sizes]
    if missing:
        raise BundleError(f"{source} is not a whole audit bundle: {', '.join(missing)} missing")
    if max(sizes[MANIFEST], sizes.get(SIGNATURE, 0)) > _MOST_MANIFEST or sum(sizes.values()) > _MOST_BYTES:
        raise BundleError(f"{source} is too large for an audit bundle: {sum(sizes.values()):,} bytes")


def check_replaceable(target: Path) -> None:
    """Only bundles and empty folders are ever overwritten.

    Raises:
        UsageError: something else is there.
    """
    if not target.exists():
        return
    packed = _is_packed(target)
    if target.is_dir() == packed:
        found, wanted = ("folder", "file") if packed else ("file", "folder, or a file whose name ends with .zip")
        raise UsageError(f"{target} is a {found}; this bundle would be a {wanted}. Choose another name")
    if not (_is_bundle_file(target) if packed else _is_bundle_folder(target)):
        raise UsageError(f"{target} holds something else than a bundle; amint will not replace it. Choose another name")


def write_files(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside the target, then rename: whatever happens, the old bundle or the new one is there, whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        fresh, old = Path(folder) / "new", Path(folder) / "old"
        if _is_packed(target):
            with zipfile.ZipFile(fresh, "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            fresh.mkdir()
            for name, content in files.items():
                (fresh / name).write_bytes(content)
        if not target.is_dir():
            fresh.replace(target)
            return
        # A folder that is not empty cannot be replaced in one step.
        try:
            target.replace(old)
            fresh.replace(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.replace(target)
            raise


def _is_packed(target: Path) -> bool:
    return target.suffix.lower() == ".zip"


def _is_bundle_folder(target: Path) -> bool:
    names = {entry.name for entry in target.iterdir()}
    manifest = target / MANIFEST
    return not names or (names <= set(_NAMES) and manifest.is_file() and _SIGN in manifest.read_bytes()[:100])


def _is_bundle_file(target: Path) -> bool:
    try:
        with zipfile.ZipFile(target) as archive:
            return set(archive.namelist()) <= set(_NAMES) and _SIGN in archive.read(MANIFEST)[:100]
    except (zipfile.BadZipFile, KeyError, OSError):
        return False
