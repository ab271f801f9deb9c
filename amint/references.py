"""Training a fleet of reference models on random halves of a pool, through Lightning's own trainer.

Source: the design of Carlini et al., "Membership Inference Attacks From First Principles" (arXiv 2112.03570), section
IV, in pairs: two models of a pair are trained on complementary halves, so each sample is in exactly half of the models
and each model gets half of the samples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from amint.batches import inputs_of, is_map_style
from amint.errors import UsageError
from amint.fleet import Fleet, open_design, store_design
from amint.identity import content_digest, model_digest
from amint.reference_training import Job, train_in_processes, train_models
from amint.roles import fingerprints
from amint.seeding import isolated

if TYPE_CHECKING:
    import lightning as L

__all__ = ["random_halves", "train_references"]

_READ_TWICE = 64
_MEANT = {
    "augmented": "what augmentation makes of the samples",
    "dataset": "the inputs of the samples, or their order",
    "input_shape": "the size of the inputs",
    "input_dtype": "the type of the inputs",
    "labels": "what the samples hold beside their inputs",
    "members": "the halves that the seed draws",
    "recipe": "the module's code, its settings or the training arguments",
}


def train_references(
    make_module: Callable[[], L.LightningModule],
    dataset: Dataset[Any],
    *,
    out: str | Path,
    max_epochs: int,
    k: int = 8,
    seed: int = 0,
    batch_size: int = 128,
    backbone: str = "model",
    plain: Dataset[Any] | None = None,
    trainer_arguments: Mapping[str, Any] | None = None,
    loader_arguments: Mapping[str, Any] | None = None,
    workers: int | None = None,
    at_once: int | None = None,
) -> Fleet:
    """Train ``k`` models, or those that are still missing, and write each down as soon as it is finished.

    After a kill at any moment the same call goes on: finished models stay, those that were being trained start again,
    as do those whose files are damaged. As every model has random numbers of its own, that gives the same weights as an
    uninterrupted run, to the bit on a CPU. With several CUDA devices one process a device trains its share of them,
    otherwise this process trains all.

    On a CUDA device several small models train at once where that is faster: a few steps each way are timed first, on
    the device and with the models and batches in question, and the outcome is logged. Models trained at once begin with
    the same weights and see the same batches as those trained one after the other, and end with the same weights up to
    rounding; what is drawn while they train (dropout, augmentation) is drawn anew, so that a restart gives other such
    draws. They cannot be trained at once if anything goes by more than each weight's own value and gradient:
    callbacks and hooks, clipping by norm, LBFGS, control flow that depends on values; they are trained one after the
    other then.

    The same call has the same samples with the same labels and the same augmentation; labels and augmentation that
    ``dataset`` draws anew each time it is read from one seed cannot be compared. Of the arguments of trainer and
    loader, objects such as callbacks count by their type alone.

    Args:
        make_module: makes a new LightningModule, as the target was trained in, not the bare network; called anew for
            each model. With several workers it must be importable, so no lambda.
        dataset: the pool, samples as ``training_step`` takes them, with an index. Samples equal to each other go into
            the same half.
        out: the fleet's folder.
        max_epochs: for the trainer.
        k: how many models, even.
        seed: of the halves and of all training.
        batch_size: for the loader.
        backbone: the classifier's attribute in the LightningModule, dots allowed; "" for the module itself.
        plain: the same samples without random augmentation, in the same order, as the models will be asked about them;
            None where ``dataset`` has none.
        trainer_arguments: further arguments of ``lightning.Trainer``.
        loader_arguments: further arguments of ``DataLoader``, such as ``num_workers`` or ``drop_last``.
        workers: processes; None for one a CUDA device.
        at_once: how many models a process trains at once: 1 for one after the other, None for what is faster on a CUDA
            device and for 1 elsewhere. Models with unequally many rows are not trained at once. ``num_workers`` of the
            loader counts for each model.

    Raises:
        UsageError: an odd number of models, data that cannot be used, another fleet in the folder or one of other data,
            a training that was stopped, or ``at_once`` for models for which that cannot be done.
        NonFiniteError: a model diverged; those that were trained at once with it are stored.
    """
    if k < 2 or k % 2:
        raise UsageError(f"k must be even and at least 2, so that each sample is in half of the models; got {k}")
    job = Job(
        make_module,
        dataset,
        max_epochs,
        batch_size,
        seed,
        backbone,
        trainer_arguments or {},
        loader_arguments or {},
        at_once,
    )
    job.check()
    marks, told = _told(dataset, plain)
    facts = {"k": k, "seed": seed, "rows": len(marks), **told, "backbone": backbone, "recipe": _recipe(job)}
    fleet = _begun(Path(out), make_module, facts, marks)
    pending = fleet.untrained()
    workers = min(workers or max(1, torch.cuda.device_count()), len(pending))
    if workers < 2:
        train_models(job, fleet, pending, {})
    else:
        train_in_processes(job, fleet, pending, workers)
    return Fleet.load(fleet.path, make_module)


def random_halves(marks: NDArray[np.int64], k: int, seed: int) -> NDArray[np.bool_]:
    """Which of ``k`` models is trained on which row: bool ``[N, k]``, each row in exactly ``k / 2``.

    Models 2i and 2i + 1 get complementary halves, as equal in size as they can be; rows with the same fingerprint stay
    together.
    """
    different, which = np.unique(marks, return_inverse=True)
    halves = np.zeros((len(different), k), bool)
    for pair in range(k // 2):
        dice = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed % 2**64, pair])))
        first = dice.permutation(len(different))[: len(different) // 2]
        halves[first, 2 * pair] = True
        halves[:, 2 * pair + 1] = ~halves[:, 2 * pair]
    return halves[which]


def _begun(path: Path, make_module: Callable[[], nn.Module], facts: dict[str, Any], marks: NDArray[np.int64]) -> Fleet:
    """The fleet in the folder if it is the one that is asked for; a new one if there is none."""
    members = random_halves(marks, facts["k"], facts["seed"])
    store_design(path, facts, marks, members)
    fleet = open_design(path, make_module)
    differing = sorted(key for key, value in facts.items() if fleet.facts.get(key) != value)
    if not differing and not np.array_equal(fleet.marks, marks):
        differing = ["dataset"]
    if not differing and not np.array_equal(fleet.members, members):
        differing = ["members"]
    if differing:
        meant = "; ".join(f"{key}: {_MEANT[key]}" for key in differing if key in _MEANT)
        raise UsageError(
            f"{path} holds a fleet that differs in {differing}{f' ({meant})' if meant else ''}; its models cannot be "
            "mixed with others. Choose another folder"
        )
    return fleet


def _told(dataset: Dataset[Any], plain: Dataset[Any] | None) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Fingerprints of the inputs; their shape and type, and hashes of their augmentation and of all else in the rows.

    A hash is None if it comes out another each time.
    """
    rows: Any = dataset if plain is None else plain
    if not is_map_style(dataset) or not is_map_style(rows) or len(rows) != len(dataset):  # type: ignore[arg-type]
        raise UsageError("references need a dataset with an index and a length, and as many plain samples as samples")
    if len(rows) < 2:
        raise UsageError(f"a pool of {len(rows)} samples has no halves")
    with isolated(0):
        marks, labels = _read(dataset, rows, len(rows))
        again, labels_again = _read(dataset, rows, min(len(rows), _READ_TWICE))
    if not np.array_equal(again, marks[: len(again)]):
        raise UsageError(
            "reading the dataset twice gives different samples, so it cannot be known later who was trained on what; "
            "pass the same samples without random augmentation as plain=..."
        )
    with isolated(0):
        first = inputs_of(default_collate(next(_in_batches(rows, 1))))
    return marks, {
        "augmented": _augmented(dataset, rows),
        "labels": content_digest(labels) if labels_again == labels[: len(again)] else None,
        "input_shape": list(first.shape[1:]),
        "input_dtype": str(first.dtype).removeprefix("torch."),
    }


def _read(dataset: Dataset[Any], rows: Dataset[Any], n: int) -> tuple[NDArray[np.int64], list[str]]:
    """Fingerprints of the first ``n`` rows, and hashes of what stands beside the inputs in the dataset."""
    marks, labels = [], []
    # What is both is read once only: reading a large dataset of pictures takes minutes.
    apart: Any = itertools.repeat(None) if dataset is rows else _in_batches(dataset, n)
    for batch, trained in zip(_in_batches(rows, n), apart, strict=False):
        marks.append(fingerprints(inputs_of(default_collate(batch))).cpu().numpy())
        labels += [content_digest(_beside_inputs(row)) for row in (batch if trained is None else trained)]
    return np.concatenate(marks), labels


def _augmented(dataset: Dataset[Any], plain: Dataset[Any]) -> str | None:
    """A hash of what augmentation makes of the first rows from one seed; None if it is nothing, or another each time.

    Augmentation lies in the dataset's code and attributes, which may hold anything; what it does is seen from outside.
    """
    if dataset is plain:
        return None
    once, again, without = (_inputs_from_one_seed(rows) for rows in (dataset, dataset, plain))
    return content_digest(once) if once == again != without else None


def _inputs_from_one_seed(dataset: Dataset[Any]) -> list[str]:
    with isolated(0):
        batches = _in_batches(dataset, min(len(dataset), _READ_TWICE))  # type: ignore[arg-type]
        return [content_digest(_input(row)) for batch in batches for row in batch]


def _in_batches(dataset: Dataset[Any], n: int) -> Iterator[list[Any]]:
    return iter(DataLoader(Subset(dataset, range(n)), 256, collate_fn=list, generator=torch.Generator()))


def _beside_inputs(row: Any) -> Any:
    """A row without its inputs, as :func:`amint.batches.inputs_of` finds them."""
    if isinstance(row, Mapping):
        inputs = next((name for name, value in row.items() if isinstance(value, Tensor | np.ndarray)), None)
        return [(name, value) for name, value in row.items() if name != inputs]
    return list(row[1:]) if isinstance(row, Sequence) and not isinstance(row, str) else None


def _input(row: Any) -> Any:
    """What :func:`_beside_inputs` leaves out of a row."""
    if isinstance(row, Mapping):
        return next((value for value in row.values() if isinstance(value, Tensor | np.ndarray)), None)
    return row[0] if isinstance(row, Sequence) and not isinstance(row, str) and row else row


def _recipe(job: Job) -> str:
    """A hash of how the models are trained: two of these in one fleet would not be of one kind."""
    with isolated(0):
        module = job.make_module()
    try:
        module.get_submodule(job.backbone)
    except AttributeError as error:
        names = [name for name, _ in module.named_children()]
        raise UsageError(
            f"{type(module).__name__} has no submodule {job.backbone!r}, it has {names}; name the classifier with "
            "backbone=..."
        ) from error
    settings = [job.max_epochs, job.batch_size, dict(job.trainer), dict(job.loader)]
    plain = json.dumps(settings, sort_keys=True, default=_setting)
    # A hash that never comes again would be a fleet that cannot be gone on with.
    return hashlib.sha256(f"{model_digest(module, lenient=True)} {plain}".encode()).hexdigest()


def _setting(value: Any) -> str:
    """Functions, arrays and sets by their content; callbacks and samplers change while they are used."""
    told = isinstance(value, FunctionType | MethodType | partial | np.ndarray | np.generic | Tensor | set | frozenset)
    return content_digest(value, lenient=True) if told else type(value).__qualname__
