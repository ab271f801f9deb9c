"""Any submission -> a reader; the one place that knows all kinds."""

import os
from collections.abc import Set
from functools import partial
from pathlib import Path

from amint.errors import InputError
from amint.preprocessing import Preprocessing
from amint.readers.files import Folder, why
from amint.readers.images import ImageReader
from amint.readers.kinds import kind_of
from amint.readers.limits import Limits
from amint.readers.manifests import Manifest
from amint.readers.rows import printable
from amint.readers.sources import Source
from amint.readers.tables import Table
from amint.readers.tars import Tar
from amint.readers.zips import Zip

__all__ = ["open_submission", "source_of", "stamps_of"]

_DEFAULT = Limits()


def open_submission(
    path: str | os.PathLike[str],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    expect: tuple[int, int] | None = None,
    skip: Set[str] = frozenset(),
    limits: Limits = _DEFAULT,
) -> ImageReader:
    """A reader of the pictures in a folder, an archive, a manifest, a table or a single file.

    The kind is told by the first bytes, and by the name where these say nothing: zip; tar, also packed with gzip,
    bzip2 or xz; Parquet with the bytes of pictures; ``.csv`` or ``.tsv`` listing files beside it; any other file is
    taken for one picture. Nothing is ever unpacked to disk, and archives inside a submission are not opened.

    Args:
        path: the submission.
        preprocessing: what the audited model does to a picture.
        batch_size: rows in every batch but the last.
        expect: the height and width the model takes, where ``preprocessing`` does not resize.
        skip: names, as in ``Row.path``, that need no judging any more; they are not opened, yielded or rejected.
        limits: how much is read at most.

    Raises:
        UsageError: arguments that cannot work, or a Parquet file without pyarrow installed.
        InputError: nothing at ``path``, nothing in it that could be judged, or more than ``limits`` allow.
    """
    return ImageReader(
        partial(source_of, path, _kind(path), limits),
        preprocessing,
        batch_size=batch_size,
        expect=expect,
        skip=skip,
        limits=limits,
    )


def stamps_of(path: str | os.PathLike[str], names: Set[str], *, limits: Limits = _DEFAULT) -> dict[str, str] | None:
    """Name -> stamp (:class:`amint.readers.sources.Entry`) of those of these names that the submission has now.

    Nothing is opened but a manifest. None for one file with everything in it, which changes only as a whole.

    Raises:
        InputError: as :func:`open_submission`.
    """
    kind = _kind(path)
    if kind not in ("folder", "manifest", ""):
        return None
    return {entry.name: entry.stamp for entry in source_of(path, kind, limits) if entry.name in names}


def source_of(path: str | os.PathLike[str], kind: str, limits: Limits) -> Source:
    """The named entries of a submission of a kind that :func:`amint.readers.kinds.kind_of` told."""
    if kind == "zip":
        return Zip(path, limits)
    if kind in ("tar", "gzip", "bzip2", "xz"):
        return Tar(path, kind, limits)
    if kind == "manifest":
        return Manifest(path, limits)
    if kind == "parquet":
        return Table(path, limits)
    if kind in ("7-Zip", "RAR", "Zstandard"):
        raise InputError(
            f"{printable(Path(path).name)} is a {kind} archive, which this reader does not open; submit a folder, "
            "a zip or a tar archive"
        )
    return Folder(path, limits)


def _kind(path: str | os.PathLike[str]) -> str:
    try:
        return kind_of(path)
    except (OSError, ValueError) as error:
        shown = printable(os.fspath(path))
        raise InputError(f"cannot read {shown}: {why(error)}; pass a folder, an archive or a file") from None
