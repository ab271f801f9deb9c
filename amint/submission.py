"""Submitted files or tensors -> samples that can be judged, in one pass that can be interrupted and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from torch import Tensor

from amint.audit import Audit
from amint.batches import Source, input_batches
from amint.blind import FEATURES, blind_features
from amint.errors import InputError, UsageError
from amint.evidence import Evidence
from amint.journal import Header, Journal, Judged, Refused, submission_identity
from amint.judging import Samples
from amint.readers import Row, open_submission
from amint.readers.rows import printable
from amint.records import perceptual_hashes
from amint.roles import fingerprints
from amint.signals import extract
from amint.targets import AuditedModel

__all__ = ["Progress", "read_files", "read_tensors"]

Progress = Callable[[int, int], None]


def read_files(
    audit: Audit, path: Path, batch_size: int, progress: Progress | None, journal: Path | None
) -> tuple[Samples, tuple[Refused, ...]]:
    """Read the pictures of a folder, an archive, a manifest or a table.

    Args:
        audit: the model and its head, loaded from a bundle that knows its preprocessing.
        path: the submission.
        batch_size: pictures decoded at once.
        progress: called with the number of files done and of all files.
        journal: a file to note each result in and to go on from, or None.

    Returns:
        The samples in the order of their names, and what could not be judged.

    Raises:
        UsageError: the bundle does not say how to preprocess files, or another run is writing this journal.
        InputError: nothing can be read at ``path``.
    """
    held = audit.bundle
    if held is None or held.preprocessing is None:
        raise UsageError(
            "files were submitted, but there is no preprocessing to turn them into inputs: save the bundle with "
            "preprocessing=amint.Preprocessing(...) and verify against the bundle, or submit preprocessed tensors"
        )
    preprocessing, (height, width) = held.preprocessing, audit.input_shape[-2:]

    def read(book: Journal | None) -> tuple[Samples, tuple[Refused, ...]]:
        rows, refused = (list(book.judged), list(book.refused)) if book else ([], [])
        earlier = len(refused)
        done = book.done if book else frozenset()
        reader = open_submission(path, preprocessing, batch_size=batch_size, expect=(height, width), skip=done)

        def note(fresh: Sequence[Judged]) -> None:
            rejected = [Refused(file.path, file.reason) for file in reader.rejected[len(refused) - earlier :]]
            if book:
                book.append(fresh, rejected)
            rows.extend(fresh)
            refused.extend(rejected)
            if progress is not None:
                progress(len(rows) + len(refused), len(reader))

        for batch in reader:
            note(_read(audit, batch.tensor, batch.rows))
        if len(reader.rejected) > len(refused) - earlier:
            note([])
        return _samples(sorted(rows, key=lambda row: row.path)), tuple(refused)

    if journal is None:
        return read(None)
    try:
        identity = submission_identity(path)
    except OSError as error:
        what = f"cannot read {printable(str(path))}: {(error.strerror or str(error)).lower()}"
        raise InputError(f"{what}; pass a folder, an archive or a file") from None
    journal.parent.mkdir(parents=True, exist_ok=True)
    with Journal.open(journal, Header(held.sha256, identity, metadata.version("amint-audit"))) as book:
        return read(book)


def read_tensors(audit: Audit, source: Source, batch_size: int, progress: Progress | None) -> Samples:
    """Read preprocessed inputs of a loader, dataset or tensor of rows; they are named by their row number.

    Raises:
        InputError: there is no row, or some hold NaN or infinity.
    """
    rows: list[Judged] = []
    for x in input_batches(source, batch_size):
        broken = (~x.isfinite()).reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{len(broken)} of {len(x)} submitted rows hold NaN or infinity, first row {len(rows) + broken[0]}; "
                "leave them out"
            )
        rows += _read(audit, x, [None] * len(x), first=len(rows))
        if progress is not None:
            progress(len(rows), 0)
    if not rows:
        raise InputError("nothing was submitted: the loader, dataset or tensor yielded no row")
    return _samples(rows)


def _read(audit: Audit, x: Tensor, files: Sequence[Row | None], first: int = 0) -> list[Judged]:
    signals = extract(AuditedModel(audit), [x], AuditedModel.provides)
    marks, blind, looks = fingerprints(x).tolist(), blind_features(x).numpy(), perceptual_hashes(x)
    confident = bool(np.isfinite(signals["max_logprob"]).all())
    return [
        Judged(
            path=f"row {first + i}" if file is None else file.path,
            sha256=None if file is None else file.sha256,
            note="" if file is None else file.note,
            score=float(signals["mint_logit"][i]),
            mark=marks[i],
            look=None if looks is None else int(looks[i]),
            confidence=float(signals["max_logprob"][i]) if confident else None,
            predicted=int(signals["predicted"][i]) if confident else None,
            blind=blind[i].tobytes(),
            properties=() if file is None else file.properties.as_numbers(),
        )
        for i, file in enumerate(files)
    ]


def _samples(rows: Sequence[Judged]) -> Samples:
    looks = [row.look for row in rows]
    confidence = [row.confidence for row in rows]
    properties = [row.properties for row in rows]
    return Samples(
        found=tuple(Evidence(row.path, "cannot tell", note=row.note, sha256=row.sha256) for row in rows),
        scores=np.array([row.score for row in rows], np.float64),
        marks=np.array([row.mark for row in rows], np.int64),
        looks=None if None in looks else np.array(looks, np.int64),
        confidence=None if None in confidence else np.array(confidence, np.float64),
        classes=None if None in confidence else np.array([row.predicted for row in rows], np.int64),
        blind=np.frombuffer(b"".join(row.blind for row in rows), np.float32).reshape(-1, len(FEATURES)),
        properties=np.array(properties, np.float64) if rows and all(properties) else None,
    )
