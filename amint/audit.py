"""An audited model with its MINT head: score, calibrate, evaluate, save."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amint import bundle
from amint.architecture import Architecture
from amint.batches import Source
from amint.calibrating import Given
from amint.calibration import Calibration
from amint.commitments import Commitment
from amint.errors import NonFiniteError, UsageError
from amint.evaluating import UNKNOWN, check_unseen, scored, unknown_members
from amint.facts import evaluation_facts, task_facts
from amint.heads import MintHead, parameter_share
from amint.metrics import Measurement, summary
from amint.preprocessing import Preprocessing
from amint.reading import Reader, Reading, all_finite
from amint.rebuilding import described, first_outputs, lacking
from amint.records import CalibrationRecords, TrainingRecords, without_copies
from amint.roles import Ledger
from amint.split import TapPoint, tap_modules
from amint.training_controls import training_controls

__all__ = ["Audit"]

_MOST_MEMBERS = 20_000
_log = logging.getLogger("amint")


class Audit:
    """A model, the taps it is read at, and the head that reads them.

    Made by :func:`amint.attach`, :func:`amint.register` and :func:`amint.load`.

    Attributes:
        backbone: the audited model.
        points: where it is tapped, shallow to deep.
        head: tapped maps -> membership score.
        input_shape: one input without the batch dimension.
        records: what is known of the calibration samples, row by row, or None before :meth:`calibrate`.
        training: what is kept of training, for the controls.
        facts: how the head came about, plain JSON values, kept in the bundle.
        committed: the commitment among the facts with its secret, by which calibration rows are looked up, or None.
        bundle: what it was loaded from, or None.
    """

    def __init__(
        self,
        backbone: nn.Module,
        points: Sequence[TapPoint],
        head: MintHead,
        input_shape: Sequence[int],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.points = tuple(points)
        self.head = head
        self.input_shape = tuple(input_shape)
        self.taps = tap_modules(backbone, [point.name for point in points])
        self.records: CalibrationRecords | None = None
        self.training = TrainingRecords()
        self.facts: dict[str, Any] = dict(facts or {})
        self.committed: Commitment | None = None
        self.ledger = Ledger()
        self.bundle: bundle.Bundle | None = None
        self._calibrated_weights: dict[str, str] | None = None

    def __repr__(self) -> str:
        taps = ", ".join(point.name for point in self.points)
        known = "not calibrated" if self.records is None else f"calibrated on {len(self.records):,}"
        return f"<{type(self).__name__}: {type(self.backbone).__name__}, tapped at {taps}; {known}>"

    @property
    def device(self) -> torch.device:
        """Where the head, and so the model, lives."""
        return next(self.head.parameters()).device

    @property
    def parameter_share(self) -> float:
        """The head's parameters as a share of the audited model's."""
        return parameter_share(self.head, self.backbone)

    def score(self, x: Tensor) -> Tensor:
        """One MINT score a sample, higher = more likely a member; the network runs only up to the deepest tap.

        It is how near the head's answer comes to what it was told of members, log 9 = 2.2 at most (a head whose
        bundle does not say what that was gives its logit: :mod:`amint.nearness`).

        Args:
            x: inputs ``[n, ...]``, preprocessed as in training, on any device, of any floating-point precision.

        Returns:
            float32 ``[n]`` on the model's device.

        Raises:
            NonFiniteError: some inputs hold NaN or infinity, or lead to them.
            UsageError: the model cannot take inputs of this shape or kind of number.
        """
        return all_finite(self._reader().scores(x))

    def read(self, x: Tensor) -> Reading:
        """What a verification reads of inputs ``[n, ...]``, the same for a row whatever rows come with it.

        Raises:
            NonFiniteError, UsageError: as :meth:`score`.
        """
        return self._reader().read(x)

    def scores(self, source: Source) -> np.ndarray[Any, np.dtype[np.float64]]:
        """MINT scores of a loader, dataset or tensor of rows, float64 ``[n]``, in order.

        Raises:
            UsageError: the source yields nothing.
        """
        return scored(self.score, source)[0]

    def check_calibration(self, nonmembers: Source) -> None:
        """Refuse before a long training what :meth:`calibrate` would refuse after it.

        The model runs on one row only, and on one more of each other shape.

        Args:
            nonmembers: as for :meth:`calibrate`, read here once and there again.

        Raises:
            RoleOverlapError, UsageError: as :meth:`calibrate`.
            NonFiniteError: some rows hold NaN or infinity, or the model makes such of one.
        """
        given = Given(self.ledger, self.committed)
        given.check(nonmembers, self.read)
        given.use(self.facts.get("commitment"), self._seen())

    def calibrate(self, nonmembers: Source, *, by_class: bool = False) -> Calibration:
        """Score known non-members that nothing was trained on; their scores turn any score into a p-value.

        Args:
            nonmembers: loader, dataset or tensor of rows, or :class:`amint.ImageFiles`; neither members nor external
                rows. Mappings may hold ``properties`` ``[n, p]`` of the files beside the inputs. Exact copies count
                once, with a warning (logger "amint").
            by_class: compare submitted samples with calibration samples of the class that the model predicts for them,
                where every class has enough (:mod:`amint.conditional`).

        Raises:
            RoleOverlapError: some rows were seen as members or external rows, or committed to as such.
            UsageError: the source yields nothing, what the model does not take, or other or more samples than were
                committed to for this role.
            NonFiniteError: some rows hold NaN or infinity, or lead to them.
        """
        given = Given(self.ledger, self.committed)
        every = CalibrationRecords.joined(
            [CalibrationRecords.of(x, marks, self.read(x), more) for x, marks, more in given.batches(nonmembers)]
        )
        if by_class and every.classes is None:
            raise UsageError("by_class needs a classifier, a model that gives logits [n, classes]")
        records = without_copies(every)
        seen = self._seen()
        use = given.use(self.facts.get("commitment"), seen)
        if not seen["members"]:
            _log.warning("the MINT head has seen no member yet: whatever is submitted will look like a stranger to it")
        self.records = records
        self.facts |= {"by_class": by_class, "calibration_copies": len(every) - len(records)} | use
        self._weights_are(bundle.digests(self.backbone, self.head))
        return self.calibrated()

    def evaluate(self, members: Source, nonmembers: Source, alpha: float = 0.05) -> dict[str, Measurement]:
        """How well the head tells members from unseen non-members, with intervals.

        Args:
            members: rows trained on; how many of them the head was not told of, as they are, goes into the bundle too.
            nonmembers: rows never shown to anything: neither members, external nor calibration rows.
            alpha: false-alarm rate of the calibrated threshold used for the balanced accuracy.

        The figures, with their intervals, and the members' scores go into the bundle, which can then say how many
        samples a verdict on this model needs.

        Returns:
            "auroc", "balanced_accuracy", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001".

        Raises:
            RoleOverlapError: some non-members are external, calibration or member rows, as far as these are known; a
                bundle knows no members.
            UsageError: not calibrated yet, or the model or its head changed since.
        """
        threshold = self.calibrated().threshold(alpha)
        self.check_unchanged()
        (inside, told), (outside, marks) = scored(self.score, members), scored(self.score, nonmembers)
        seen = {"external rows": self.trained().external_marks, "calibration rows": self.recorded().marks}
        check_unseen(marks, seen | {"members": np.concatenate([told, self.ledger.marks("members")])})
        labels = np.r_[np.ones(len(inside), bool), np.zeros(len(outside), bool)]
        measured = summary(np.r_[inside, outside], labels, threshold)
        self.training = replace(self.training, member_scores=inside[:_MOST_MEMBERS])
        self.facts.pop(UNKNOWN, None)
        self.facts |= {"evaluation": evaluation_facts(alpha, measured)} | unknown_members(told, self.ledger)
        return measured

    def note(self, *, plain_accuracy: float | None = None, audited_accuracy: float | None = None) -> None:
        """State how well the model does its own task, which amint cannot know; goes into the bundle as stated.

        Args:
            plain_accuracy: of the same network trained without amint, between 0 and 1.
            audited_accuracy: of this model, on the same data.

        Raises:
            UsageError: not a share, or nothing stated.
        """
        stated = task_facts(plain_accuracy=plain_accuracy, audited_accuracy=audited_accuracy)
        self.facts["task"] = self.facts.get("task", {}) | stated

    @property
    def calibration(self) -> Calibration | None:
        """The scores of known non-members, or None before :meth:`calibrate`."""
        return None if self.records is None else self.records.calibration

    def calibrated(self) -> Calibration:
        """The calibration, or UsageError if there is none."""
        return self.recorded().calibration

    def save(
        self,
        path: str | Path,
        *,
        preprocessing: Preprocessing | None = None,
        architecture: Architecture | None = None,
    ) -> Path:
        """Write the audit bundle: a folder, or one file if the name ends with ``.zip``.

        Args:
            path: where to; an older bundle there is replaced, anything else is not.
            preprocessing: how image files become inputs; needed to verify files rather than tensors.
            architecture: how to build the model again; without it timm models describe themselves if they can, and
                others are loaded into a model that the caller of :func:`load` passes.

        Raises:
            BundleError: no model can be built from the architecture.
            UsageError: not calibrated, or the model changed after it was calibrated, or the architecture or the
                preprocessing does not describe it, or something else than a bundle is in the way.
        """
        records = self.recorded()
        self.check_unchanged()
        how = described(self.backbone, architecture, self.input_shape)
        if unsaid := lacking(how, preprocessing):
            _log.warning("files cannot be verified with %s by itself: it does not say %s", path, unsaid)
        return bundle.save(
            path,
            backbone=self.backbone,
            head=self.head,
            points=self.points,
            records=records,
            training=self.trained(),
            facts={
                "members_seen": self.ledger.count("members"),
                **self.facts,
                "controls": training_controls(self.ledger.sketch, self.facts),
            },
            preprocessing=preprocessing,
            architecture=how,
            input_shape=self.input_shape,
            measure=self.measure,
        )

    def restore(self, contents: bundle.Bundle) -> None:
        """Take over what a bundle holds besides weights."""
        self.records, self.training, self.bundle = contents.records, contents.training, contents
        self._calibrated_weights = bundle.digests(self.backbone, self.head)

    def _weights_are(self, found: dict[str, str]) -> None:
        """What was calibrated; figures of other weights are not those of these."""
        if self._calibrated_weights not in (None, found):
            for name in ("evaluation", UNKNOWN):
                self.facts.pop(name, None)
            self.training = replace(self.training, member_scores=None)
        self._calibrated_weights = found

    def check_unchanged(self) -> dict[str, str]:
        """SHA-256 of the weights by file name, or UsageError if they are not those that were calibrated."""
        found = bundle.digests(self.backbone, self.head)
        if self._calibrated_weights not in (None, found):
            raise UsageError("the model or its MINT head changed after audit.calibrate(); calibrate again")
        return found

    def recorded(self) -> CalibrationRecords:
        """The records of the calibration samples, or UsageError if there are none."""
        if self.records is None:
            raise UsageError("this audit is not calibrated; call audit.calibrate(known_non_members) first")
        return self.records

    def trained(self) -> TrainingRecords:
        """What is kept of training, for the controls."""
        sketch = self.ledger.sketch
        marks, hashes = sketch.column("external.marks"), sketch.column("external.hashes")
        return self.training if marks is None else replace(self.training, external_marks=marks, external_hashes=hashes)

    def _seen(self) -> dict[str, int]:
        """How many different rows of members and external rows there were."""
        members = self.facts.get("members_seen", self.ledger.count("members"))
        return {"members": members, "external": self.trained().external or 0}

    def _reader(self) -> Reader:
        return Reader(self.backbone, self.taps, self.head, self.input_shape)

    def measure(self, x: Tensor) -> dict[str, list[float]]:
        """What a rebuilt model must reproduce on the probe: its MINT scores and its first outputs."""
        found = {"scores": self.score(x).tolist(), "outputs": first_outputs(self.backbone, x)}
        if not np.isfinite(found["outputs"]).all():
            raise NonFiniteError("the model's outputs on random inputs are NaN or infinite; look at its weights")
        return found
