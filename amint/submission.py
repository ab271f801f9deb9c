"""Submitted files or tensors -> samples that can be judged, in one pass that can be interrupted and gone on with."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from amint.audit import Audit
from amint.batches import Source, input_batches
from amint.blind import blind_features
from amint.errors import InputError, UsageError
from amint.journal import Header, Journal, Judged, Refused, submission_identity
from amint.judging import Samples
from amint.readers import Row, open_submission, stamps_of
from amint.readers.rows import printable
from amint.records import perceptual_hashes
from amint.roles import fingerprints
from amint.signals import extract
from amint.spill import Spill
from amint.targets import AuditedModel
from amint.texts import Texts
from amint.versions import VERSION

__all__ = ["Progress", "read_files", "read_tensors"]

Progress = Callable[[int, int], None]


def read_files(
    audit: Audit,
    path: Path,
    batch_size: int,
    progress: Progress | None,
    journal: Path | None,
    weights: Mapping[str, str],
) -> tuple[Samples, tuple[Refused, ...]]:
    """Read the pictures of a folder, an archive, a manifest or a table.

    Args:
        audit: the model and its head, loaded from a bundle that knows its preprocessing.
        path: the submission.
        batch_size: pictures decoded at once.
        progress: called with the number of files done and of all files.
        journal: a file to note each result in and to go on from, or None. What it says of files that were changed or
            removed since then is not used.
        weights: what :meth:`amint.Audit.check_unchanged` gave for the audit.

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
        rows, refused, done = _Rows(), list[Refused](), set[str]()
        for found in _standing(book, path) if book else ():
            done.add(found.path)
            if isinstance(found, Judged):
                rows.add([found])
            else:
                refused.append(found)
        earlier = len(refused)
        reader = open_submission(path, preprocessing, batch_size=batch_size, expect=(height, width), skip=done)

        def note(fresh: Sequence[Judged]) -> None:
            rejected = [
                Refused(file.path, file.reason, file.stamp) for file in reader.rejected[len(refused) - earlier :]
            ]
            if book:
                book.append(fresh, rejected)
            rows.add(fresh)
            refused.extend(rejected)
            if progress is not None:
                progress(len(rows) + len(refused), len(reader))

        for batch in reader:
            note(_read(audit, batch.tensor, batch.rows))
        if len(reader.rejected) > len(refused) - earlier:
            note([])
        return rows.samples(), tuple(refused)

    if journal is None:
        return read(None)
    try:
        identity = submission_identity(path)
    except OSError as error:
        what = f"cannot read {printable(str(path))}: {(error.strerror or str(error)).lower()}"
        raise InputError(f"{what}; pass a folder, an archive or a file") from None
    journal.parent.mkdir(parents=True, exist_ok=True)
    # An audit may have been given other weights, and calibrated anew, since it was loaded.
    judge = hashlib.sha256(repr((held.sha256, sorted(weights.items()))).encode()).hexdigest()
    with Journal.open(journal, Header(judge, identity, VERSION)) as book:
        return read(book)


def read_tensors(audit: Audit, source: Source, batch_size: int, progress: Progress | None) -> Samples:
    """Read preprocessed inputs of a loader, dataset or tensor of rows; they are named by their row number.

    Raises:
        InputError: there is no row, or some hold NaN or infinity.
    """
    rows = _Rows()
    for x in input_batches(source, batch_size):
        broken = (~x.isfinite()).reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{len(broken)} of {len(x)} submitted rows hold NaN or infinity, first row {len(rows) + broken[0]}; "
                "leave them out"
            )
        rows.add(_read(audit, x, [None] * len(x), first=len(rows)))
        if progress is not None:
            progress(len(rows), 0)
    if not len(rows):
        raise InputError("nothing was submitted: the loader, dataset or tensor yielded no row")
    return rows.samples()


def _standing(book: Journal, path: Path) -> Iterator[Judged | Refused]:
    """What earlier runs found of files that still are what they were."""
    if not book.done:
        return
    stamps = stamps_of(path, book.done)
    for found in book.found():
        if stamps is None:
            yield found
        elif stamps.get(found.path) == found.stamp:
            # A file that was changed and changed back may have this line twice.
            del stamps[found.path]
            yield found


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
            stamp="" if file is None else file.stamp,
        )
        for i, file in enumerate(files)
    ]


class _Rows:
    """What is kept of each sample, in about 200 bytes; what few samples are asked for again goes to the disk."""

    def __init__(self) -> None:
        self._paths, self._hashes, self._notes = Texts(), Texts(), Texts()
        self._scores, self._marks = array("d"), array("q")
        self._looks, self._confidence, self._classes = array("q"), array("d"), array("q")
        self._blind, self._properties = Spill(np.float32), Spill(np.float64)

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, rows: Iterable[Judged]) -> None:
        for row in rows:
            self._paths.append(row.path)
            self._hashes.append(row.sha256)
            self._notes.append(row.note)
            self._scores.append(row.score)
            self._marks.append(row.mark)
            self._blind.append(row.blind)
            self._properties.append(np.array(row.properties, np.float64).tobytes())
            # A column that one sample lacks is left out in the end.
            for column, value in ((self._looks, row.look), (self._classes, row.predicted)):
                column.extend(() if value is None else (value,))
            self._confidence.extend(() if row.confidence is None else (row.confidence,))

    def samples(self) -> Samples:
        """In the order of their names, as files; tensors come in order anyway."""
        n = len(self)
        files = n > 0 and self._hashes[0] is not None
        order = np.array(sorted(range(n), key=lambda i: self._paths[i] or "") if files else range(n), np.int64)

        def column(values: array[Any], kind: Any) -> Any:
            return np.frombuffer(values, kind)[order] if len(values) == n else None

        classified = len(self._classes) == len(self._confidence) == n
        self._blind.reorder(order)
        self._properties.reorder(order)
        return Samples(
            paths=self._paths.take(order),
            hashes=self._hashes.take(order),
            notes=self._notes.take(order),
            scores=np.frombuffer(self._scores, np.float64)[order],
            marks=np.frombuffer(self._marks, np.int64)[order],
            looks=column(self._looks, np.int64),
            confidence=column(self._confidence, np.float64) if classified else None,
            classes=column(self._classes, np.int64) if classified else None,
            blind=self._blind,
            properties=self._properties if files else None,
        )
