"""Training reference models through Lightning's own trainer: one after the other, or several at once if that is faster.

Which way is faster depends on the device and on the model, so it is measured there, with the model that is trained.
"""

from __future__ import annotations

import gc
import logging
import math
import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, Dataset, Subset

from amint.errors import NonFiniteError, UsageError
from amint.fleet import Fleet, check_maker
from amint.seeding import isolated, seed_generators, seeded
from amint.stacking import NotStackableError, Stacked, obstacle

__all__ = ["Job", "Speeds", "measure_speeds", "train_in_processes", "train_models"]

_QUIET = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
_AT_ONCE = 8
_WARM_UP, _TIMED = 5, 15
_log = logging.getLogger("amint")


@dataclass(frozen=True)
class Job:
    """How each model is trained.

    Attributes:
        at_once: how many in one process; None for what is faster.
        others: see :func:`amint.references.train_references`.
    """

    make_module: Callable[[], L.LightningModule]
    dataset: Dataset[Any]
    max_epochs: int
    batch_size: int
    seed: int
    backbone: str
    trainer: Mapping[str, Any] = field(default_factory=dict)
    loader: Mapping[str, Any] = field(default_factory=dict)
    at_once: int | None = None

    def check(self) -> None:
        """Raise UsageError if no models can be made, or not trained at once that shall be, if it can be told before."""
        check_maker(self.make_module)
        if self.at_once is None or self.at_once == 1:
            return
        if self.at_once < 1:
            raise UsageError(f"at_once must be at least 1, or None for what is faster; got {self.at_once}")
        reason = self.obstacle()
        if reason is not None:
            raise NotStackableError(reason)

    def obstacle(self) -> str | None:
        """Why these models cannot be trained at once, as far as it can be told before; None for no reason."""
        with isolated(0):
            return obstacle(self.make_module(), self.trainer)


@dataclass(frozen=True)
class Speeds:
    """What a step costs each way.

    Attributes:
        models: how many were trained at once.
        alone: seconds a step of one model, trained for itself; the median.
        at_once: seconds a step of all, divided by ``models``; infinite if they cannot be trained at once.
        reason: why they cannot.
    """

    models: int
    alone: float
    at_once: float
    reason: str = ""

    @property
    def fastest(self) -> int:
        """How many models to train at once."""
        return self.models if self.at_once < self.alone else 1

    def __str__(self) -> str:
        if self.reason:
            return f"reference models are trained one after the other: {self.reason}"
        return (
            f"a step of a reference model takes {1000 * self.alone:.2f} ms one after the other and "
            f"{1000 * self.at_once:.2f} ms with {self.models} at once"
        )


def train_models(job: Job, fleet: Fleet, numbers: Sequence[int], device: Mapping[str, Any]) -> None:
    """Train the models of these numbers, and write each down when it is finished.

    Args:
        job: how.
        fleet: who sees what, and where models are stored.
        numbers: of the models.
        device: arguments of the trainer that say where.
    """
    at_once = _fastest(job, fleet, numbers, device) if job.at_once is None else job.at_once
    for group in _alike(fleet, numbers, at_once):
        if not _trained(job, fleet, group, device):
            train_models(replace(job, at_once=1), fleet, group, device)


def train_in_processes(job: Job, fleet: Fleet, numbers: Sequence[int], workers: int) -> None:
    """The same in several processes, each with its share of the numbers.

    Raises:
        UsageError: other processes cannot import ``make_module``.
    """
    try:
        pickle.dumps(job.make_module)
    except Exception as error:
        raise UsageError(
            f"several workers need a make_module that other processes can import, not a lambda or a local function "
            f"({error}); or say workers=1"
        ) from error
    spawn(_work, (job, fleet, numbers, workers), nprocs=workers)


def measure_speeds(job: Job, fleet: Fleet, numbers: Sequence[int], device: Mapping[str, Any]) -> Speeds:
    """Train throw-away copies for a few steps each way, on the batches and the device that they will be trained on.

    Args:
        job, device: as in :func:`train_models`.
        fleet: who sees what; nothing is stored.
        numbers: two or more models with equally many rows, to be trained at once; the first one is also trained alone.

    Returns:
        Both times, or the reason why there is only one of them.
    """
    reason = job.obstacle()
    if reason is not None:
        return Speeds(len(numbers), 0.0, math.inf, reason)
    alone = _seconds_a_step(job, fleet, numbers[:1], device)
    try:
        together = _seconds_a_step(job, fleet, numbers, device)
    except Exception as error:
        # As one of them could be trained, whatever it is comes of there being several.
        return Speeds(len(numbers), alone, math.inf, f"{type(error).__name__}: {error}")
    finally:
        # Trainer and module refer to each other, and would keep the device's memory until some later time.
        gc.collect()
    return Speeds(len(numbers), alone, together / len(numbers))


class _Clock(L.Callback):
    """Notes when each step is over, loading included and with all that the device has to do for it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        self._note(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:  # noqa: ARG002
        self._note(pl_module)

    def _note(self, pl_module: L.LightningModule) -> None:
        if pl_module.device.type != "cpu":
            torch.accelerator.synchronize()
        self.times.append(time.perf_counter())


def _seconds_a_step(job: Job, fleet: Fleet, numbers: Sequence[int], device: Mapping[str, Any]) -> float:
    clock, steps = _Clock(), _WARM_UP + _TIMED
    limit = job.trainer.get("max_steps", -1)
    brief = {"max_steps": steps if limit < 0 else min(steps, limit), "callbacks": [clock]}
    _fitted(job, fleet, numbers, {**device, **brief})
    spent = np.diff(clock.times).tolist()
    return statistics.median(spent[_WARM_UP:] or spent or [0.0])


def _fastest(job: Job, fleet: Fleet, numbers: Sequence[int], device: Mapping[str, Any]) -> int:
    """How many to train at once where nobody said: on CUDA what is measured to be faster, else one.

    On CPUs a stacked step was slower, and one after the other gives the same bits after every restart.
    """
    most = max(_alike(fleet, numbers, _AT_ONCE), key=len, default=[])
    if len(most) < 2 or not _on_cuda(job, device):
        return 1
    speeds = measure_speeds(job, fleet, most, device)
    _log.info("%s", speeds)
    return speeds.fastest


def _on_cuda(job: Job, device: Mapping[str, Any]) -> bool:
    if not torch.cuda.is_available():
        return False
    return L.Trainer(**{**_QUIET, **job.trainer, **device}).strategy.root_device.type == "cuda"


def _alike(fleet: Fleet, numbers: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Groups of at most ``at_once`` models with equally many rows, so that their batches have the same shapes."""
    waiting: dict[int, list[int]] = {}
    for number in numbers:
        rows = int(fleet.members[:, number].sum())
        waiting.setdefault(rows, []).append(number)
        if len(waiting[rows]) == at_once:
            yield waiting.pop(rows)
    yield from waiting.values()


def _trained(job: Job, fleet: Fleet, numbers: Sequence[int], device: Mapping[str, Any]) -> bool:
    """Train and store; False if these cannot be trained at once, and nobody said that they must be."""
    try:
        _store_all(job, fleet, numbers, _fitted(job, fleet, numbers, device))
    except (NotStackableError, torch.OutOfMemoryError) as error:
        if len(numbers) == 1 or job.at_once is not None:
            raise
        _log.warning("references %s are trained one after the other: %s", numbers, error)
    else:
        return True
    # Not before the error is gone, which holds what is on the device.
    gc.collect()
    return False


def _fitted(job: Job, fleet: Fleet, numbers: Sequence[int], arguments: Mapping[str, Any]) -> list[L.LightningModule]:
    """These models, trained: several at once."""
    with isolate_rng():
        modules = [_made(job, number) for number in numbers]
        loaders = [_loader(job, fleet, number) for number in numbers]
        trainer = L.Trainer(**{**_QUIET, **job.trainer, "max_epochs": job.max_epochs, **arguments})
        if len(modules) == 1:
            trainer.fit(modules[0], loaders[0])
        else:
            trainer.fit(Stacked(modules), loaders)
    if not trainer.state.finished:
        raise UsageError(f"the training of references {list(numbers)} was stopped; the same call starts it again")
    return modules


def _made(job: Job, number: int) -> L.LightningModule:
    seed_generators(job.seed, number)
    torch.cuda.manual_seed_all(torch.initial_seed())
    return job.make_module()


def _loader(job: Job, fleet: Fleet, number: int) -> DataLoader[Any]:
    rows = Subset(job.dataset, np.flatnonzero(fleet.members[:, number]).tolist())
    options = {"shuffle": True, "generator": seeded(job.seed, number), **job.loader}
    return DataLoader(rows, job.batch_size, **options)


def _store_all(job: Job, fleet: Fleet, numbers: Sequence[int], modules: Sequence[L.LightningModule]) -> None:
    """Write models down; those that diverged are said when the others are there."""
    diverged = []
    for number, module in zip(numbers, modules, strict=True):
        broken = _store(module.get_submodule(job.backbone), fleet, number)
        if broken:
            diverged.append(f"reference {number} diverged: {broken[:3]} hold NaN or infinity")
    if diverged:
        raise NonFiniteError(f"{'; '.join(diverged)}; lower the learning rate")


def _store(network: nn.Module, fleet: Fleet, number: int) -> list[str]:
    """Write one model down unless weights are not finite, whose names are returned."""
    broken = sorted(name for name, weight in network.state_dict().items() if not weight.isfinite().all())
    if not broken:
        fleet.store(number, network)
    return broken


def _work(rank: int, job: Job, fleet: Fleet, numbers: Sequence[int], workers: int) -> None:
    several = torch.cuda.device_count() > 1 and "accelerator" not in job.trainer
    device = {"accelerator": "cuda", "devices": [rank % torch.cuda.device_count()]} if several else {}
    train_models(job, fleet, numbers[rank::workers], device)
