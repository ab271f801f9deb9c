"""An audited model with its MINT head: score, calibrate, evaluate, save."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amint import bundle
from amint.architecture import Architecture
from amint.batches import Source, input_batches
from amint.calibration import Calibration
from amint.errors import BundleError, NonFiniteError, UsageError
from amint.heads import MintHead, parameter_share
from amint.metrics import Measurement, summary
from amint.preprocessing import Preprocessing
from amint.rebuilding import alike, described, fill, first_outputs, like_weights, shown_weight
from amint.roles import Ledger
from amint.split import TapPoint, tap_modules
from amint.taps import evaluating, prefix

__all__ = ["Audit", "load"]


class Audit:
    """A model, the taps it is read at, and the head that reads them.

    Made by :func:`amint.attach`, :func:`amint.register` and :func:`amint.load`.

    Attributes:
        backbone: the audited model.
        points: where it is tapped, shallow to deep.
        head: tapped maps -> membership logit.
        input_shape: one input without the batch dimension.
        calibration: scores of known non-members, or None before :meth:`calibrate`.
        facts: how the head came about, plain JSON values, kept in the bundle.
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
        self.calibration: Calibration | None = None
        self.facts: dict[str, Any] = dict(facts or {})
        self.ledger = Ledger()
        self.bundle: bundle.Bundle | None = None
        self._calibrated_weights: dict[str, str] | None = None

    @property
    def device(self) -> torch.device:
        """Where the head, and so the model, lives."""
        return next(self.head.parameters()).device

    @property
    def parameter_share(self) -> float:
        """The head's parameters as a share of the audited model's."""
        return parameter_share(self.head, self.backbone)

    def score(self, x: Tensor) -> Tensor:
        """One MINT logit a sample, higher = more likely a member; the network runs only up to the deepest tap.

        Args:
            x: inputs ``[n, ...]``, preprocessed as in training, on any device, of any floating-point precision.

        Returns:
            float32 ``[n]`` on the model's device.

        Raises:
            NonFiniteError: some inputs hold NaN or infinity, or lead to them.
            UsageError: the model cannot take inputs of this shape.
        """
        x = like_weights(self.backbone, x)
        weight = shown_weight(self.backbone)
        self.head.to(weight.device, weight.dtype)
        with evaluating(self.head), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            try:
                logits: Tensor = self.head(prefix(self.backbone, self.taps, x))
            except RuntimeError as error:
                if tuple(x.shape[1:]) == self.input_shape:
                    raise
                raise UsageError(
                    f"the model does not take inputs of shape {tuple(x.shape[1:])}; it was audited on inputs of shape "
                    f"{self.input_shape}, batch dimension first"
                ) from error
        broken = (~torch.isfinite(logits)).nonzero().flatten().tolist()
        if broken:
            raise NonFiniteError(
                f"{len(broken)} of {len(logits)} scores are not finite (rows {broken[:5]}); look for NaN or infinity "
                "in these inputs, or in the model's weights"
            )
        return logits

    def scores(self, source: Source) -> np.ndarray[Any, np.dtype[np.float64]]:
        """MINT logits of a loader, dataset or tensor of rows, float64 ``[n]``, in order.

        Raises:
            UsageError: the source yields nothing.
        """
        parts = [self.score(x).double().cpu().numpy() for x in input_batches(source)]
        if not parts:
            raise UsageError("there is nothing to score: the loader yielded no batch")
        return np.concatenate(parts)

    def calibrate(self, nonmembers: Source) -> Calibration:
        """Score known non-members that nothing was trained on; their scores turn any score into a p-value.

        Args:
            nonmembers: loader, dataset or tensor of rows; neither members nor external rows.

        Raises:
            RoleOverlapError: some rows were seen as members or external rows.
            UsageError: the source yields nothing.
        """
        parts = []
        for x in input_batches(nonmembers):
            self.ledger.add("calibration", x)
            parts.append(self.score(x).double().cpu().numpy())
        if not parts:
            raise UsageError("the calibration data is empty; pass known non-members that nothing was trained on")
        self.calibration = Calibration(np.concatenate(parts))
        self._calibrated_weights = bundle.digests(self.backbone, self.head)
        return self.calibration

    def evaluate(self, members: Source, nonmembers: Source, alpha: float = 0.05) -> dict[str, Measurement]:
        """How well the head tells members from unseen non-members, with intervals.

        Args:
            members: rows trained on.
            nonmembers: rows never shown to anything: neither members, external nor calibration rows.
            alpha: false-alarm rate of the calibrated threshold used for the balanced accuracy.

        Returns:
            "auroc", "balanced_accuracy", "tpr_at_fpr_0.1", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001".

        Raises:
            UsageError: not calibrated yet.
        """
        threshold = self.calibrated().threshold(alpha)
        inside, outside = self.scores(members), self.scores(nonmembers)
        labels = np.r_[np.ones(len(inside), bool), np.zeros(len(outside), bool)]
        return summary(np.r_[inside, outside], labels, threshold)

    def calibrated(self) -> Calibration:
        """The calibration, or UsageError if there is none."""
        if self.calibration is None:
            raise UsageError("this audit is not calibrated; call audit.calibrate(known_non_members) first")
        return self.calibration

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
            UsageError: not calibrated, or the model changed after it was calibrated, or the architecture or the
                preprocessing does not describe it, or something else than a bundle is in the way.
        """
        self.calibrated()
        if self._calibrated_weights not in (None, bundle.digests(self.backbone, self.head)):
            raise UsageError("the model changed after audit.calibrate(); calibrate again, then save")
        return bundle.save(
            path,
            backbone=self.backbone,
            head=self.head,
            points=self.points,
            calibration=self.calibrated(),
            facts={"members_seen": self.ledger.count("members"), **self.facts},
            preprocessing=preprocessing,
            architecture=described(self.backbone, architecture, self.input_shape),
            input_shape=self.input_shape,
            measure=self._measure,
        )

    def _measure(self, x: Tensor) -> dict[str, list[float]]:
        """What a rebuilt model must reproduce on the probe: its MINT logits and its first outputs."""
        found = {"scores": self.score(x).tolist(), "outputs": first_outputs(self.backbone, x)}
        if not np.isfinite(found["outputs"]).all():
            raise NonFiniteError("the model's outputs on random inputs are NaN or infinite; look at its weights")
        return found


def load(path: str | Path, *, model: nn.Module | None = None, allow_import: Collection[str] = ()) -> Audit:
    """Read an audit bundle back: the model with its weights, the head, the calibration.

    Args:
        path: a bundle's folder or .zip.
        model: the model to fill with the bundle's weights, for architectures that the bundle does not describe. It
            takes their precision and stays on its device.
        allow_import: import paths of model code that may be run.

    Raises:
        BundleError: damaged or edited, no way to build the model, or the rebuilt model does not score as the saved one.
    """
    contents = bundle.read(path)
    if model is None:
        if contents.architecture is None:
            raise BundleError(
                f"{path} does not say how to build its model; pass one: amint.load(path, model=MyModel()), or save it "
                "with architecture="
            )
        # Building draws random numbers, and loading must not change what the caller draws next.
        with torch.random.fork_rng(devices=[]):
            model = contents.architecture.build(allow_import)
    # A model that does not fit may raise anything in its forward pass.
    try:
        fill(model, contents.model_weights)
        audit = Audit(model, contents.points, _head(contents), contents.input_shape, contents.manifest["facts"])
        found = audit._measure(bundle.probe_input(contents.input_shape))
    except Exception as error:
        raise BundleError(f"the weights in {path} do not fit this model: {str(error)[:500]}") from error
    for name, expected in contents.manifest["probe"].items():
        if not alike(expected, found[name], model):
            raise BundleError(
                f"the model rebuilt from {path} does not compute what the saved one did ({name} {found[name][:2]} "
                f"instead of {expected[:2]}); its architecture differs though its weights fit"
            )
    audit.calibration = contents.calibration
    audit._calibrated_weights = bundle.digests(audit.backbone, audit.head)
    audit.bundle = contents
    model.eval()
    return audit


def _head(contents: bundle.Bundle) -> MintHead:
    # Without memory of its own until it takes the stored weights: nothing is drawn, rounded or allocated twice.
    with torch.device("meta"):
        head = MintHead(contents.head)
    head.load_state_dict(dict(contents.head_weights), assign=True)
    return head.eval()
