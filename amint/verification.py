"""Was this data used to train the model? Bundle and submission in, verdict out; the only orchestration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from torch import Tensor

from amint.attacks.mint import Mint
from amint.audit import Audit, load
from amint.batches import Source, input_batches
from amint.calibration import benjamini_hochberg
from amint.errors import InputError, UsageError
from amint.evidence import Evidence, Verdict
from amint.readers.images import ImageFolderReader
from amint.roles import fingerprints
from amint.signals import extract
from amint.targets import AuditedModel

__all__ = ["verify"]

Progress = Callable[[int, int], None]


def verify(
    model: str | Path | Audit,
    submitted: str | Path | Source,
    *,
    alpha: float = 0.01,
    allow_import: Collection[str] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Verdict:
    """Judge submitted data against an audit bundle.

    Each sample gets a conformal p-value from the bundle's calibration non-members: if it was not used, and is
    exchangeable with them, p is at most alpha with probability at most alpha. A sample is ``used`` if its p-value is at
    most alpha after Benjamini-Hochberg over the submission; the submission is ``used`` if a one-sided rank-sum test of
    all its scores against the calibration scores has p at most alpha. That test takes samples for independent draws, so
    exact copies enter it once.

    Args:
        model: a bundle's path, or a calibrated audit.
        submitted: a folder of images or one image file; or a loader, dataset or tensor of preprocessed inputs, named by
            row number in the verdict.
        alpha: accepted false-alarm rate of each of these decisions, between 0 and 1.
        allow_import: import paths of model code that the bundle may run.
        batch_size: samples judged at once.
        progress: called after each batch with the number of samples read and of all samples (0: not known).

    Raises:
        AlphaError: fewer calibration samples than alpha needs; the message says how many would do.
        BundleError: the bundle cannot be used.
        InputError: there is nothing in the submission.
        UsageError: files were submitted, but the bundle does not say how to preprocess them.
    """
    audit = model if isinstance(model, Audit) else load(model, allow_import=allow_import)
    calibration = audit.calibrated()
    calibration.check_alpha(alpha)
    items: list[Evidence] = []
    marks: list[int] = []
    if isinstance(submitted, str | Path):
        reader = _reader(audit, Path(submitted), batch_size)
        batches = _files(reader, items, progress)
    else:
        reader = None
        batches = _tensors(submitted, items, batch_size, progress)
    attack = Mint()
    scores = attack.score(extract(AuditedModel(audit), _marked(batches, marks), attack.needs))
    p_values = calibration.p_values(scores)
    adjusted = benjamini_hochberg(p_values)
    originals = _first_of_its_kind(marks)
    judged = [
        replace(
            item,
            decision="used" if adjusted[i] <= alpha else "no evidence",
            score=float(scores[i]),
            p_value=float(p_values[i]),
            adjusted=float(adjusted[i]),
            copy_of=None if originals[i] == i else items[originals[i]].path,
        )
        for i, item in enumerate(items)
    ]
    if reader is not None:
        judged += [Evidence(file.path, "cannot tell", note=file.reason) for file in reader.rejected]
        judged.sort(key=lambda item: item.path)
    if not judged:
        raise InputError("nothing was submitted: the loader, dataset or tensor yielded no row")
    together = calibration.set_p_value(scores[sorted(set(originals))]) if len(scores) else None
    return Verdict(
        decision="cannot tell" if together is None else "used" if together <= alpha else "no evidence",
        p_value=together,
        alpha=float(alpha),
        items=tuple(judged),
        calibration_n=len(calibration.scores),
        smallest_p=calibration.smallest_p,
        bundle_sha256=None if audit.bundle is None else audit.bundle.sha256,
        method=str(audit.facts.get("method", "unknown")),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries={name: metadata.version(name) for name in ("amint-audit", "torch", "numpy", "scipy")},
    )


def _reader(audit: Audit, path: Path, batch_size: int) -> ImageFolderReader:
    preprocessing = None if audit.bundle is None else audit.bundle.preprocessing
    if preprocessing is None:
        raise UsageError(
            "files were submitted, but there is no preprocessing to turn them into inputs: save the bundle with "
            "preprocessing=amint.Preprocessing(...) and verify against the bundle, or submit preprocessed tensors"
        )
    height, width = audit.input_shape[-2:]
    return ImageFolderReader(path, preprocessing, batch_size=batch_size, expect=(height, width))


def _files(reader: ImageFolderReader, items: list[Evidence], progress: Progress | None) -> Iterator[Tensor]:
    for batch in reader:
        items.extend(Evidence(row.path, "cannot tell", note=row.note, sha256=row.sha256) for row in batch.rows)
        yield batch.tensor
        if progress is not None:
            progress(len(items) + len(reader.rejected), len(reader))


def _tensors(source: Source, items: list[Evidence], batch_size: int, progress: Progress | None) -> Iterator[Tensor]:
    for x in input_batches(source, batch_size):
        first = len(items)
        broken = (~x.isfinite()).reshape(len(x), -1).any(dim=1).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{len(broken)} of {len(x)} submitted rows hold NaN or infinity, first row {first + broken[0]}; "
                "leave them out"
            )
        items.extend(Evidence(f"row {first + i}", "cannot tell") for i in range(len(x)))
        yield x
        if progress is not None:
            progress(len(items), 0)


def _first_of_its_kind(marks: list[int]) -> list[int]:
    """For each row the number of the first row with the same content, often its own."""
    seen: dict[int, int] = {}
    return [seen.setdefault(mark, row) for row, mark in enumerate(marks)]


def _marked(batches: Iterator[Tensor], marks: list[int]) -> Iterator[Tensor]:
    for x in batches:
        marks.extend(fingerprints(x).tolist())
        yield x
