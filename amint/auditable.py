"""A model in training with its MINT head: each step's rows travel together, and two losses become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from amint.accounting import Accounting
from amint.audit import Audit
from amint.balance import AnyBalance, GradientBalance
from amint.balance.choice import check_training_pass, combining, process_count
from amint.batches import Source
from amint.calibration import Calibration
from amint.commitments import check_same
from amint.errors import NonFiniteError, StepError, UsageError
from amint.head_training import HEAD_EPOCHS, MEMBERS_ALONE, check_training, counting_alone, train_head
from amint.heads import head_weights, load_head_weights
from amint.history import History, balanced_accuracy
from amint.losses import StepLosses, membership_loss, scaled_gradient, what_is_not_finite
from amint.metrics import Measurement
from amint.mixing import Mixture, plain_rows
from amint.monitoring import Recent
from amint.placement import place
from amint.reach import Reach
from amint.taps import TrainingHooks, prefix

__all__ = ["Auditable"]

# Facts that grow with training and go on where they were.
_COUNTS = ("steps", HEAD_EPOCHS, MEMBERS_ALONE)


class Auditable(Audit):
    """A model in training with its MINT head; made by :func:`amint.attach`.

    The head is a submodule of the model, so that optimizers, devices and data parallelism find it, but it stays out
    of the model's state dict: save :meth:`state_dict` beside the model's to resume.

    Attributes:
        last: the losses of the last step, or None.
        recent: the members of the latest steps, for :meth:`monitor`; clear it to start anew.
        mixture: where the "not a member" rows come from.
        balance: how the two losses become one.
        accounting: counts, among the facts, the updates of the model that the head saw and those that it did not.
        history: the curves of this process's steps, in the bundle from :meth:`calibrate` on.
    """

    def __init__(self, audit: Audit, mixture: Mixture, balance: AnyBalance, trunk_gradient: float) -> None:
        facts = {
            "method": "active",
            **mixture.facts(),
            "trunk_gradient": trunk_gradient,
            "balance": repr(balance),
            "steps": 0,
        }
        super().__init__(audit.backbone, audit.points, audit.head, audit.input_shape, facts)
        self.mixture, self.balance, self._trunk_gradient = mixture, balance, trunk_gradient
        # Logits and tapped maps of members, their views and the others; numbers of members and of views.
        self._step: tuple[Tensor, Sequence[Tensor], int, int] | None = None
        self._views = 0
        self.recent = Recent(mixture.stream.n_reserved)
        self._plain: Tensor | None = None
        self.last: StepLosses | None = None
        self._take_away = place(self.backbone, self.head)
        self._reach = Reach(self.backbone, self.head, through_trunk=trunk_gradient > 0)
        self._hooks = TrainingHooks(self.backbone, self.taps, self._more_rows, self._reached)
        self.accounting = Accounting(self.backbone, self.facts)
        self.history = History()

    def loss(self, task: Tensor) -> Tensor:
        """The loss to call ``backward`` on: the task's and the MINT head's, balanced.

        Args:
            task: the task's loss for the members of this step, a scalar.

        Raises:
            StepError: the model was not called, or called twice, in training mode since the last call.
            NonFiniteError: a loss is NaN or infinite.
            UsageError: no optimizer moves the head, the loss does not reach it, or the balance is one of gradients.
        """
        return self._balanced(task, combining(self.balance))

    def backward(self, task: Tensor) -> None:
        """Add the balanced gradients to ``.grad``: ``audit.loss(task).backward()``, and for balances of gradients too.

        With one of those, parameters that one loss alone reaches (the head; the layers behind the deepest tap) get its
        gradient, the shared ones what the balance makes of both. Arguments and errors are those of :meth:`loss`.
        """
        if isinstance(self.balance, GradientBalance):
            self._balanced(task, self.balance.backward)
        else:
            self.loss(task).backward()

    def _balanced(self, task: Tensor, combined: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self._step is None:
            raise StepError(
                "audit.loss() found no training forward pass of the audited model: call model(x) in training mode, "
                "with gradients, once before each audit.loss()"
            )
        (logits, maps, members, views), self._step = self._step, None
        if task.numel() != 1:
            raise UsageError(f"audit.loss() needs one scalar loss, got shape {tuple(task.shape)}; average it first")
        mint = membership_loss(logits, members + views, self.head.config.smoothing)
        self._reach.confirm()
        total, scores = combined(task, mint), logits.mean(dim=1)
        if not bool(torch.isfinite(total)):
            raise NonFiniteError(what_is_not_finite(task, mint, scores, maps, members, views))
        self.accounting.loss()
        self.last = StepLosses(task.detach(), mint.detach(), total.detach())
        self.history.add(task_loss=task, mint_loss=mint, mint_accuracy=balanced_accuracy(scores, members + views))
        self.facts["steps"] += 1
        return total

    @contextmanager
    def seen_as(self, plain: Tensor) -> Iterator[None]:
        """Inside, the head sees these rows in place of those the model is called with: the members, not augmented.

        The task trains on augmented rows, and a verification asks about plain ones::

            with audit.seen_as(x):
                loss = audit.loss(F.cross_entropy(model(augment(x)), y))

        Args:
            plain: ``[n, ...]``, the samples of the model's rows in their order, preprocessed in the same way.

        Raises:
            StepError: at the model's call, if these are not as many rows of the same kind.
        """
        self._plain = plain
        self.facts["seen_as"] = "plain"
        try:
            yield
        finally:
            self._plain = None

    def train_head(
        self,
        members: Source,
        *,
        epochs: int = 30,
        lr: float = 3e-3,
        batch_size: int = 64,
        seed: int = 0,
        progress: Callable[[int, float], None] | None = None,
    ) -> None:
        """Train the head anew, alone, on the model as it now is, which no longer moves: cheap, and it finds most.

        Call it once, when the model is trained, before :meth:`calibrate`. External rows and hard negatives are those
        of :func:`amint.attach`; the model is not changed. The head begins with new weights, for one that learned along
        fits its rows too well to learn more of them: it knows afterwards what it is given here. First its whitening is
        fitted to the maps as they now are, in a pass of a hundred steps at most.

        Args:
            members: all rows the model was trained on, as it sees them when it is used. A loader's own batches are
                used, and it should shuffle; datasets and tensors are shuffled.
            epochs, lr, batch_size, seed, progress: as in :func:`amint.register`.

        Raises:
            UsageError: nothing to train on, a generator of members, bad arguments, or several processes.
            NonFiniteError: the loss became NaN or infinite.
        """
        check_training(epochs, lr, batch_size)
        if process_count() > 1:
            raise UsageError(
                "audit.train_head() trains in one process, here several are running; their heads would drift apart"
            )
        with counting_alone(self.ledger, self.facts, progress) as ended:
            train_head(
                self,
                self.mixture,
                members,
                History(),
                epochs=epochs,
                lr=lr,
                batch_size=batch_size,
                seed=seed,
                progress=ended,
            )

    def paused(self) -> AbstractContextManager[None]:
        """Inside, training-mode forward passes are plain: no external rows, no head (warm-ups, probes)."""
        return self._hooks.paused()

    def monitor(self, alpha: float = 0.05) -> dict[str, Measurement]:
        """Recent members against external rows that the head has not seen; for curves, not for verdicts.

        Args:
            alpha: false-alarm rate of the threshold, taken from those external rows, for the balanced accuracy.

        Raises:
            UsageError: nothing was kept for it (``attach(monitor=...)``), or nothing was trained on yet.
        """
        return self.recent.measured(self.scores, self.mixture.stream, alpha)

    def discard(self) -> None:
        """Forget a forward pass that will not be trained on (a skipped step)."""
        self._step = None

    def detach(self) -> nn.Module:
        """Take hooks and head off again and return the model; scoring and saving still work."""
        self.accounting.close()
        self._hooks.remove()
        self._take_away()
        self.mixture.stream.release()
        return self.backbone

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume: head, position in the external data, balance, roles."""
        return {
            "head": head_weights(self.head),
            "head_config": self.head.config.to_json(),
            "stream": self.mixture.stream.state_dict(),
            "balance": getattr(self.balance, "state_dict", dict)(),
            "ledger": self.ledger.state_dict(),
            "counts": {name: self.facts[name] for name in _COUNTS if name in self.facts},
            "accounting": self.accounting.state_dict(),
            "history": self.history.state_dict(),
            "commitment": self.facts.get("commitment"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, into an audit attached with the same arguments.

        Raises:
            UsageError: the run was started with another commitment, or with none; or this is no state of an audit, or
                of one with another head.
        """
        if lacking := self.state_dict().keys() - state.keys():
            raise UsageError(
                f"this is no state of an audit: it lacks {', '.join(sorted(lacking))}; pass audit.state_dict()"
            )
        check_same(state["commitment"], self.facts.get("commitment"))
        own = self.head.config.to_json()
        if differing := sorted(name for name in own if state["head_config"].get(name) != own[name]):
            raise UsageError(
                f"this state is of another MINT head, which differs in {', '.join(differing)}; attach one with the "
                "same arguments"
            )
        load_head_weights(self.head, state["head"])
        self.mixture.stream.load_state_dict(state["stream"])
        if hasattr(self.balance, "load_state_dict"):
            self.balance.load_state_dict(state["balance"])
        self.ledger.load_state_dict(state["ledger"])
        for name in _COUNTS:
            self.facts.pop(name, None)
        self.facts |= state["counts"]
        self.accounting.load_state_dict(state["accounting"])
        self.history.load_state_dict(state["history"])
        self._step = None

    def calibrate(self, nonmembers: Source, *, by_class: bool = False) -> Calibration:
        """See :meth:`Audit.calibrate`; first checks that training reached the head at all."""
        self._reach.confirm()
        self.accounting.settle()
        self.facts |= self.history.facts()
        return super().calibrate(nonmembers, by_class=by_class)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _more_rows(self, x: Tensor) -> Tensor | None:
        if self._step is not None:
            # Whoever goes on after an error, as in a notebook, begins with a new step.
            self.discard()
            raise StepError(
                "the audited model was called twice in training mode before audit.loss(); call it once a step, or "
                "put passes that are not trained on under `with audit.paused():`. If an earlier step failed on its way "
                "to audit.loss(), just go on: its pass is forgotten now, though its rows count as members"
            )
        if not torch.is_grad_enabled():
            raise StepError(
                "the audited model was called in training mode without gradients; call model.eval() first, or put the "
                "pass under `with audit.paused():`"
            )
        check_training_pass(self.balance, x.device)
        self.accounting.forward()
        members = x if self._plain is None else plain_rows(self._plain, x)
        rows = self.mixture.rows(members)
        views = self.mixture.views(members)
        self.ledger.add("members", members)
        self.ledger.add("external", rows[0])
        self.recent.add(members)
        self._views = len(views)
        further = [views, *rows]
        if self._trunk_gradient > 0:
            return torch.cat(further if self._plain is None else [members, *further])
        # A pass of its own leaves batch statistics, and so the model, as they would be without amint.
        self._read(prefix(self.backbone, self.taps, torch.cat([members, *further])), len(members))
        return None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _reached(self, maps: Sequence[Tensor], members: int) -> None:
        self._read(maps if self._plain is None else [x[members:] for x in maps], members)

    def _read(self, maps: Sequence[Tensor], members: int) -> None:
        scaled = [scaled_gradient(x, self._trunk_gradient) for x in maps]
        self._step = (self.head.each(self._reach.watch(scaled)), maps, members, self._views)
