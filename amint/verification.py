"""Was this data used to train the model? Bundle and submission in, verdict out; the only orchestration."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import numpy as np

from amint.audit import Audit
from amint.batches import Source
from amint.evidence import Verdict
from amint.findings import Control, SetTest
from amint.items import Decision, Evidence, Items
from amint.judging import (
    Scale,
    already_known,
    as_one,
    distinct,
    judged_items,
    near_copies,
    out_of_reach,
    set_tests,
    submission_controls,
)
from amint.loading import load
from amint.origin import provenance
from amint.power import power_curve
from amint.readers import PROPERTY_NAMES
from amint.submission import Progress, read_files, read_tensors
from amint.training_controls import training_controls
from amint.versions import versions

__all__ = ["verify"]

# Fewer members than this say little of how members score.
_FEWEST_MEMBERS = 20


def verify(
    model: str | Path | Audit,
    submitted: str | Path | Source,
    *,
    alpha: float = 0.01,
    by_class: bool | None = None,
    allow_import: Collection[str] = (),
    batch_size: int = 64,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Judge submitted data against an audit bundle.

    Each sample gets a conformal p-value from the bundle's calibration non-members: if it was not used, and is
    exchangeable with them, p is at most alpha with probability at most alpha. A sample is ``used`` if its p-value is at
    most alpha after Benjamini-Hochberg over the submission. The submission is ``used`` if a one-sided rank-sum test of
    all its scores, or of the model's confidence in them, against the calibration samples has p at most alpha after Holm
    over these two; of a single sample the same is said as of the submission. The tests take samples for independent
    draws, so copies, exact or near (:mod:`amint.dependence`), count once. Controls look for other causes of high
    scores; one that fails turns what would be ``used`` or ``no evidence`` into ``cannot tell``. So do too few
    calibration samples for a submission of one.

    Args:
        model: a bundle's path, or a calibrated audit.
        submitted: a folder, archive, manifest or table of images or one image file
            (:func:`amint.readers.open_submission`); or a loader, dataset or tensor of preprocessed inputs, named by row
            number in the verdict.
        alpha: accepted false-alarm rate of each of these decisions, between 0 and 1.
        by_class: compare each sample with calibration samples of the class that the model predicts for it; None for
            what was decided when the audit was calibrated. To be decided before the outcome is known. Where a class
            has too few samples for alpha, with all classes together.
        allow_import: import paths of model code that the bundle may run.
        batch_size: samples read at once; makes no difference to any score.
        journal: for files: a file to note results in, so that an interrupted call with the same arguments can be
            repeated and goes on where it was. What it says of files that changed since is not used.
        progress: called after each batch with the number of samples read and of all samples (0: not known).

    Raises:
        AlphaError: fewer calibration samples than alpha needs; the message says how many would do.
        BundleError: the bundle cannot be used.
        InputError: there is nothing in the submission.
        UsageError: files were submitted, but the bundle does not say how to preprocess them; ``by_class`` for a model
            that is no classifier; or model or head changed after they were calibrated.
    """
    audit = model if isinstance(model, Audit) else load(model, allow_import=allow_import)
    calibration = audit.calibrated()
    calibration.check_alpha(alpha)
    weights = audit.check_unchanged()
    records = audit.recorded()
    scale = Scale(records, bool(audit.facts.get("by_class")) if by_class is None else by_class, float(alpha))
    refused = Items()
    if isinstance(submitted, str | Path):
        place = None if journal is None else Path(journal)
        samples, files = read_files(audit, Path(submitted), batch_size, progress, place, weights)
        refused = Items(Evidence(file.path, "cannot tell", note=file.reason) for file in files)
    else:
        samples = read_tensors(audit, submitted, batch_size, progress)
    controls: tuple[Control, ...] = ()
    items = Items()
    tests: tuple[SetTest, ...] = ()
    within, beyond = scale.by_class, ""
    if len(samples):
        same, twins = already_known(samples, records, audit.trained())
        original = distinct(samples)
        items = judged_items(samples, scale, original, twins)
        barred = {twin.item for twin in twins if twin.bits is None}
        rows = np.array(sorted(set(original.tolist()) - barred), np.int64)
        groups = near_copies(samples, records, rows)
        tests = set_tests(samples, scale, rows, groups)
        if len(rows) == 1:
            items = as_one(items, min(test.adjusted for test in tests), scale.alpha)
            beyond = out_of_reach(samples, scale, int(rows[0]), len(tests))
        first = rows[np.unique(groups)]
        within = scale.within(samples, first)
        controls = (*submission_controls(samples, scale, first, PROPERTY_NAMES), same)
    controls += tuple(Control(**control) for control in training_controls(audit.ledger.sketch, audit.facts))
    untold = [control.sentence for control in controls if control.outcome == "failed"] + ([beyond] if beyond else [])
    together = min((test.adjusted for test in tests), default=None)
    if untold:
        items = items.untold()
    if refused:
        items = Items(chain(items, refused)).by_path()
    return Verdict(
        decision=_decision(together, alpha, bool(untold)),
        p_value=together,
        alpha=float(alpha),
        items=items,
        tests=tests,
        controls=controls,
        reason=" ".join(untold),
        comparison=scale.explain(samples, within),
        by_class=within,
        power=None if within else _power(audit, float(alpha)),
        provenance=provenance(audit, weights),
        calibration_n=len(calibration.scores),
        smallest_p=calibration.smallest_p,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        libraries=versions("torch", "numpy", "scipy"),
    )


def _decision(together: float | None, alpha: float, untold: bool) -> Decision:
    if together is None or untold:
        return "cannot tell"
    return "used" if together <= alpha else "no evidence"


def _power(audit: Audit, alpha: float) -> dict[str, object] | None:
    members = audit.training.member_scores
    if members is None or len(members) < _FEWEST_MEMBERS:
        return None
    # The verdict shares alpha among its tests.
    tests = 1 if audit.recorded().confidence is None else 2
    return asdict(power_curve(members, audit.calibrated().scores, alpha=alpha / tests))
