"""Active MINT as one Lightning callback; the LightningModule stays untouched.

trainer = L.Trainer(callbacks=[amint.ActiveMint(external=..., calibration=..., backbone="model")])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from amint.active import attach
from amint.architecture import Architecture
from amint.auditable import Auditable
from amint.balance import Balance, GradientBalance
from amint.batches import Source, refuse_generator
from amint.bundle import check_preprocessing
from amint.bundle_files import check_replaceable
from amint.commitments import Commitment
from amint.errors import UsageError
from amint.heads import HeadSize
from amint.negatives import HardNegatives
from amint.preprocessing import Preprocessing
from amint.randomness import Randomness
from amint.rebuilding import built_like
from amint.tolerance import Tolerance

__all__ = ["ActiveMint"]


class ActiveMint(L.Callback):
    """Make a LightningModule's network auditable while it trains.

    Logs ``mint/loss``, and after each validation (or training epoch, without validation) ``mint/auroc`` and
    ``mint/tpr_at_fpr_0.01`` of this epoch's members against external rows kept away from the head. Calibrates and
    writes the audit bundle at the end of fit, then takes hooks and head off again. A fit that is interrupted, trains
    nothing or is a ``fast_dev_run`` writes no bundle. Forward passes outside ``training_step`` are plain. Of several
    processes the first writes the bundle, with the training curves of its own steps.

    Checkpoints hold the module's own weights under their own names, and the head in this callback's state; they load
    into the plain module. Resuming from the end of an epoch goes on exactly as without the stop (one process, no
    persistent workers); several processes go on with the right weights but draw other random numbers. An
    optimizer's state counts the head's parameters: what was saved with ActiveMint is resumed with it. From a checkpoint
    made without it, take the weights, ``Module.load_from_checkpoint(path)``, and start a new fit.

    Place it before callbacks that copy the module when fit starts, such as weight averaging.

    Args:
        external: as in :func:`amint.attach`.
        calibration: known non-members that nothing is trained on: loader, dataset or tensor of rows. Read when training
            starts, to refuse at once what could not be used at its end, and again then.
        backbone: the network's attribute in the LightningModule, dots allowed; "" for the module itself.
        bundle: where to write the audit bundle; None to write none.
        preprocessing, architecture: as in :meth:`amint.Audit.save`.
        monitor: external rows kept away from the head, and member rows remembered, for the logged curves; 0 for none.
        balance: as in :func:`amint.attach`, of losses only.
        split, ratio, negatives, tolerance, head, trunk_gradient, seed, commitment: as in :func:`amint.attach`.

    Attributes:
        audit: the audit, from the start of fit; use it after fit to score, evaluate or save again. Another fit of the
            same network continues it.
    """

    def __init__(
        self,
        *,
        external: Source,
        calibration: Source,
        backbone: str = "model",
        split: str | Sequence[str] = "entry",
        balance: Balance | None = None,
        ratio: float = 1.0,
        negatives: HardNegatives | Callable[[Tensor], Tensor] | None = None,
        tolerance: Tolerance | Callable[[Tensor], Tensor] | None = None,
        head: HeadSize | None = None,
        trunk_gradient: float = 1.0,
        seed: int = 0,
        monitor: int = 1000,
        bundle: str | Path | None = "model.amint",
        preprocessing: Preprocessing | None = None,
        architecture: Architecture | None = None,
        commitment: Commitment | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(balance, GradientBalance):
            raise UsageError(
                f"{balance!r} balances two gradients, but Lightning's automatic optimization calls backward() on one "
                "loss. Set self.automatic_optimization = False in the module, amint.attach(self.model, balance=...) "
                "there, and call audit.backward(loss) in training_step"
            )
        refuse_generator("calibration", calibration)
        self.audit: Auditable | None = None
        self._calibration, self._backbone, self._monitor = calibration, backbone, monitor
        self._bundle, self._preprocessing, self._architecture = bundle, preprocessing, architecture
        self._randomness: Randomness | None = None
        self._undo = ExitStack()
        self._attach = functools.partial(
            attach,
            external=external,
            split=split,
            balance=balance,
            ratio=ratio,
            negatives=negatives,
            tolerance=tolerance,
            head=head,
            trunk_gradient=trunk_gradient,
            seed=seed,
            monitor=monitor,
            commitment=commitment,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attach, before optimizers are made and before the module is wrapped."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise UsageError(
                "ActiveMint needs automatic optimization. With manual optimization use amint.attach(self.model, ...) "
                "in the module and call manual_backward(audit.loss(loss))"
            )
        network, before = self._network(pl_module), self.audit
        if before is not None and before.backbone is not network:
            raise UsageError("this ActiveMint has audited another network before; make a new one for each network")
        audit = self._attach(network, rank=trainer.global_rank, world=trainer.world_size)
        self._undo.callback(audit.detach)
        if before is not None:
            audit.load_state_dict(before.state_dict())
        if self._monitor and audit.mixture.stream.reserved is None:
            rank_zero_warn(
                "mint/auroc and mint/tpr_at_fpr_0.01 will not be logged: they need rows kept away from the head, and "
                "this external data has no index, or one row. Pass a dataset with a length, or say monitor=0"
            )
        self.audit = audit
        self._wrap_training_step(pl_module, audit)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the module back as it was."""
        self._undo.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the module back as it was; Lightning calls no teardown after an error."""
        self._undo.close()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find at once what would otherwise be found at the end: what cannot be trained, calibrated or written."""
        audit = self._attached()
        optimized = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
        left_out = [name for name, p in audit.head.named_parameters() if id(p) not in optimized]
        if left_out:
            raise UsageError(
                f"configure_optimizers leaves out {len(left_out)} parameters of the MINT head ({left_out[0]}, ...): "
                f"give the optimizer {'.'.join(filter(None, ['self', self._backbone, 'parameters()']))}"
            )
        check_preprocessing(self._preprocessing, audit.input_shape)
        with isolate_rng():
            if (bundle := self._to_write(trainer)) is not None:
                check_replaceable(bundle)
                if self._architecture is not None:
                    built_like(audit.backbone, self._architecture)
            audit.check_calibration(self._calibration)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """In the first epoch after a restart, go on with the random numbers where the checkpoint left off."""
        audit = self._attached()
        audit.recent.clear()
        audit.accounting.settle()
        if self._randomness is not None and trainer.world_size == 1:
            self._randomness.restore(trainer.train_dataloader)
            # Else Lightning may keep an iterator over the data that has drawn its random numbers already.
            trainer.fit_loop._resuming_from_checkpoint = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Past the start of an epoch the random numbers of a checkpoint are of no use any more."""
        self._randomness = None
        if batch_idx == 0:
            # What other callbacks put in place when the epoch began, such as averaged weights.
            self._attached().accounting.replaced()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how well members can be told apart."""
        if trainer.state.fn == "fit":
            self._log_curves(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how well members can be told apart, where there is no validation to do it in."""
        if not trainer.enable_validation:
            self._log_curves(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What changes between here and the end of fit is put in place by other callbacks."""
        self._attached().accounting.settle()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate on every process, write the bundle on the first.

        Here and not when training ends, as other callbacks may still put averaged weights in place then.
        """
        audit = self._attached()
        audit.accounting.replaced()
        if audit.facts["steps"] == 0:
            return
        self._pool_ledgers()
        with isolate_rng():
            audit.calibrate(self._calibration)
        if (bundle := self._to_write(trainer)) is not None:
            audit.save(bundle, preprocessing=self._preprocessing, architecture=self._architecture)
        trainer.strategy.barrier("amint bundle")

    def _to_write(self, trainer: L.Trainer) -> Path | None:
        """The bundle that this process is to write, if any."""
        writes = trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
        return Path(self._bundle) if self._bundle is not None and writes else None

    def state_dict(self) -> dict[str, Any]:
        """Head, position in the external data, balance, roles."""
        return {} if self.audit is None else {"audit": self.audit.state_dict()}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the state of the random numbers, which Lightning itself does not keep."""
        checkpoint["amint_randomness"] = Randomness.now(trainer.train_dataloader).to_state()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; keep the state of the random numbers until training goes on."""
        fitting = trainer.state.fn == "fit"
        state = checkpoint["callbacks"].get(self.state_key)
        if fitting and not state:
            raise UsageError(
                "this checkpoint was made without ActiveMint and cannot be resumed with it: its optimizer knows no "
                f"MINT head. Take its weights, model = {type(pl_module).__name__}.load_from_checkpoint(path), and call "
                "trainer.fit(model) without ckpt_path"
            )
        if fitting:
            self._randomness = Randomness.from_state(checkpoint["amint_randomness"])
        if state and self.audit is not None and any(m is self.audit.backbone for m in pl_module.modules()):
            # Also when testing after fit: the network now has the checkpoint's weights, and so must the head.
            self.audit.load_state_dict(state["audit"])
            self.audit.records = None

    def _network(self, pl_module: L.LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self._backbone)
        except AttributeError as error:
            names = [name for name, _ in pl_module.named_children()]
            raise UsageError(
                f"{type(pl_module).__name__} has no submodule {self._backbone!r} when fit starts; it has {names}. Name "
                "the network with ActiveMint(backbone=...), and make it in __init__"
            ) from error

    def _attached(self) -> Auditable:
        if self.audit is None:
            raise UsageError("ActiveMint was not set up for fit; pass it to Trainer(callbacks=[...]) and call fit")
        return self.audit

    def _wrap_training_step(self, pl_module: L.LightningModule, audit: Auditable) -> None:
        step, own = pl_module.training_step, vars(pl_module)
        before = {name: own[name] for name in ("training_step",) if name in own}
        # A data-parallel wrapper calls the LightningModule itself with a whole batch: not the pass to audit.
        elsewhere = self._undo.enter_context(ExitStack())
        elsewhere.enter_context(audit.paused())

        @functools.wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            elsewhere.close()
            try:
                return self._balanced(pl_module, audit, step(*args, **kwargs))
            finally:
                elsewhere.enter_context(audit.paused())

        pl_module.training_step = training_step  # type: ignore[method-assign]
        self._undo.callback(own.update, before)
        self._undo.callback(own.pop, "training_step", None)

    def _balanced(self, pl_module: L.LightningModule, audit: Auditable, output: Any) -> Any:
        if output is None:
            audit.discard()
            return None
        loss = output["loss"] if isinstance(output, dict) else output
        total = audit.loss(loss)
        if audit.last is not None:
            pl_module.log("mint/loss", audit.last.mint, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return {**output, "loss": total} if isinstance(output, dict) else total

    def _log_curves(self, pl_module: L.LightningModule) -> None:
        audit = self._attached()
        self._pool_ledgers()
        if audit.mixture.stream.reserved is None or not audit.recent:
            return
        measured = audit.monitor()
        for name in ("auroc", "tpr_at_fpr_0.01"):
            value = torch.tensor(measured[name].value, dtype=torch.float32, device=pl_module.device)
            pl_module.log(f"mint/{name}", value, batch_size=1, sync_dist=True, prog_bar=name == "auroc")

    def _pool_ledgers(self) -> None:
        """Each process has seen its own share of the rows; the checkpoint and the bundle speak for all of them."""
        if dist.is_available() and dist.is_initialized():
            ledger = self._attached().ledger
            shares: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(shares, ledger.state_dict())
            roles = {role for share in shares for role in share}
            ledger.load_state_dict({r: torch.cat([share[r] for share in shares if r in share]) for r in roles})
