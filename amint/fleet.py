"""A stored fleet of reference models: who was trained on what, and the signals of all of them.

A folder::

    fleet.json               k, seed, rows, the inputs' shape and type, the network's place in the module, hashes of the
                             labels, of augmentation, of the training recipe, and of the two arrays
    marks.npy                int64 [N], fingerprints of the pool's rows
    members.npy              bool [N, k], whether a model was trained on a row
    model_000.safetensors    one network a file, see amint.reference_files
    signals/                 signals computed before, see amint.signal_cache
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amint.batches import inputs_of
from amint.errors import UsageError
from amint.queries import Queries
from amint.reference_files import Tag, probe_of, read_model, unusable, write_model
from amint.roles import fingerprints
from amint.signal_cache import extract_cached, whole_file
from amint.signals import Signals
from amint.targets import POSTERIORS, QUERIED, ClassifierTarget

__all__ = ["DESIGN", "Fleet", "check_maker", "open_design", "store_design"]

DESIGN = "fleet.json"
_FORMAT = {"format": "amint-fleet", "version": 3}
_OF_ALL = {f"reference_{name}": name for name in (POSTERIORS - {"top3"}) | QUERIED}


@dataclass(frozen=True, eq=False, repr=False)
class Fleet:
    """Reference models of one kind, each trained on a random half of a pool of samples.

    Attributes:
        path: the folder.
        make_module: makes the module that the networks were trained in, with any weights.
        facts: what ``fleet.json`` says.
        marks: int64 ``[N]``, fingerprints of the pool's rows, see :func:`amint.roles.fingerprints`.
        members: bool ``[N, k]``, which model was trained on which row.
    """

    path: Path
    make_module: Callable[[], nn.Module]
    facts: dict[str, Any]
    marks: NDArray[np.int64]
    members: NDArray[np.bool_]

    provides = frozenset({*_OF_ALL, "reference_in", "shadow_top3", "shadow_in"})

    def __repr__(self) -> str:
        return f"<Fleet of {self.k} reference models for {len(self.marks):,} rows in {self.path}>"

    @staticmethod
    def load(path: str | Path, make_module: Callable[[], nn.Module]) -> Fleet:
        """Open a fleet; models are read when they are needed.

        Raises:
            UsageError: there is no fleet, not all of its models are trained, a file is damaged, or ``make_module`` is a
                module.
        """
        check_maker(make_module)
        fleet = open_design(Path(path), make_module)
        missing = fleet.untrained()
        if missing:
            first = missing[0]
            raise UsageError(
                f"{len(missing)} of the {fleet.k} reference models in {path} are not trained yet, or their files of no "
                f"use (model {first}: {unusable(fleet.weights_path(first), fleet.tag(first))}); call "
                "train_references again with the same arguments, it trains these and leaves the others"
            )
        return fleet

    @property
    def k(self) -> int:
        """How many models."""
        return int(self.members.shape[1])

    def untrained(self) -> list[int]:
        """Numbers of the models that are not there, or whose files are damaged or of another model."""
        return [number for number in range(self.k) if unusable(self.weights_path(number), self.tag(number))]

    def tag(self, number: int) -> Tag:
        """What the file of one model must say of itself."""
        asked = json.dumps(self.facts, sort_keys=True)
        return Tag(number, hashlib.sha256(asked.encode()).hexdigest())

    def store(self, number: int, network: nn.Module) -> None:
        """Write one trained model down."""
        write_model(self.weights_path(number), network, self.tag(number), self._probe())

    def weights_path(self, number: int) -> Path:
        """Where the weights of one model are, or will be."""
        return self.path / f"model_{number:03d}.safetensors"

    def model(self, number: int) -> nn.Module:
        """One reference model, on the CPU.

        Raises:
            UsageError: its file is damaged or of another model, or ``make_module`` makes another network.
        """
        with torch.random.fork_rng(devices=[]):
            network = self.make_module().get_submodule(self.facts["backbone"])
        read_model(self.weights_path(number), network, self.tag(number), self._probe())
        return network

    def _probe(self) -> Tensor:
        return probe_of(self.facts["input_shape"], self.facts["input_dtype"])

    def membership(self, marks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which models were trained on rows with these fingerprints ``[n]``: bool ``[n, k]``.

        Rows outside the pool were seen by none.
        """
        order = np.argsort(self.marks, kind="stable")
        at = order[np.searchsorted(self.marks, marks, sorter=order).clip(max=len(order) - 1)]
        inside: NDArray[np.bool_] = self.members[at] & (self.marks[at] == marks)[:, None]
        return inside

    def saw(self, marks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether any model was trained on a row, bool ``[n]``; must be False for all calibration data."""
        return np.asarray(self.membership(marks).any(axis=1))

    def signals(
        self,
        batches: Iterable[Any],
        needs: Set[str],
        *,
        classes: int | None = None,
        queries: Queries | None = None,
        cache: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> Signals:
        """Signals of all models in one pass for each, one model in memory at a time.

        ``reference_in`` bool ``[n, k]``; ``reference_`` before a name of :class:`amint.targets.ClassifierTarget`
        float64 ``[n, k]``, for the names that end with ``_queries`` ``[n, k, q]``; ``shadow_top3`` ``[n, 3]`` and
        ``shadow_in`` bool ``[n]`` of model 0.

        Args:
            batches: batches of inputs and labels that come in the same order each time: a loader that does not shuffle
                and draws no random augmentation, or a list.
            needs: names of signals, of those in ``provides``.
            classes: how many classes the target tells apart, see ``ClassifierTarget.count_classes``.
            queries: the same as the target's.
            cache: folder for signals, see :func:`amint.signal_cache.extract_cached`; None for one beside the models.
            device: where the models run.

        Raises:
            UsageError: a signal that references do not have; batches that come once only, or in another order; another
                number of classes; and what measuring raises.
        """
        unknown = sorted(set(needs) - self.provides)
        if unknown:
            raise UsageError(f"references cannot provide {unknown}; they provide {sorted(self.provides)}")
        if iter(batches) is batches:
            raise UsageError("these batches can be read once only, each reference reads them again; pass a DataLoader")
        marks = _marks_of(batches)
        inside = self.membership(np.concatenate(marks) if marks else np.empty(0, np.int64))
        columns: dict[str, NDArray[Any]] = {"reference_in": inside, "shadow_in": inside[:, 0]}
        of_all = {_OF_ALL[name] for name in needs if name in _OF_ALL}
        found = []
        for number in range(self.k):
            wanted = of_all | ({"top3"} if number == 0 and "shadow_top3" in needs else set())
            if wanted:
                target = ClassifierTarget(self.model(number).to(device), classes=classes, queries=queries)
                rows = _in_order(batches, marks)
                found.append(extract_cached(target, rows, wanted, cache or self.path / "signals"))
        if "shadow_top3" in needs:
            columns["shadow_top3"] = found[0]["top3"]
        for name in needs & _OF_ALL.keys():
            columns[name] = np.stack([signals[_OF_ALL[name]] for signals in found], axis=1)
        return Signals({name: columns[name] for name in needs})


def store_design(path: Path, facts: dict[str, Any], marks: NDArray[np.int64], members: NDArray[np.bool_]) -> None:
    """Write down who is to be trained on what, before anything is trained, unless another design is there.

    Of several processes that begin in one folder the first decides, and nobody replaces what it wrote.
    """
    path.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**_FORMAT, **facts, "design": _design(marks, members)}, indent=1).encode()
    _claim(path / DESIGN, content)
    # The arrays follow from what is claimed: after a kill in between, whoever has the same design writes them.
    if (path / DESIGN).read_bytes() == content:
        for name, array in (("marks", marks), ("members", members)):
            if not (path / f"{name}.npy").exists():
                with whole_file(path / f"{name}.npy") as file:
                    np.save(file, array, allow_pickle=False)


def open_design(path: Path, make_module: Callable[[], nn.Module]) -> Fleet:
    """A fleet, its models trained or not.

    Raises:
        UsageError: there is none, or a file is damaged or belongs to another fleet.
    """
    if not (path / DESIGN).is_file():
        raise no_fleet(path)
    try:
        facts = json.loads((path / DESIGN).read_bytes())
        marks, members = (np.load(path / f"{name}.npy", allow_pickle=False) for name in ("marks", "members"))
        if {key: facts[key] for key in _FORMAT} != _FORMAT:
            raise ValueError("another version of amint wrote it; train the references again, in another folder")
        sound = isinstance(facts["backbone"], str) and isinstance(facts["input_shape"], list)
        sound &= isinstance(getattr(torch, facts["input_dtype"]), torch.dtype)
        sound &= (marks.dtype, members.dtype) == (np.dtype(np.int64), np.dtype(np.bool_))
        sound &= members.shape == (facts["rows"], facts["k"]) and marks.shape == (facts["rows"],)
        if not sound or facts["design"] != _design(marks, members):
            raise ValueError("its files do not fit each other")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"there is no readable fleet of references in {path}: {error}") from error
    return Fleet(path, make_module, facts, marks, members)


def check_maker(make_module: Callable[[], nn.Module]) -> None:
    """Refuse a module itself: it can be called, too, and what it says then does not tell what is wrong.

    Raises:
        UsageError: ``make_module`` is a module.
    """
    if isinstance(make_module, nn.Module):
        name = type(make_module).__name__
        raise UsageError(
            f"make_module makes a new module each time it is called, as lambda: {name}(...); found a {name}"
        )


def no_fleet(path: Path) -> UsageError:
    """What to raise where no fleet is."""
    return UsageError(f"there is no fleet of references in {path}; amint.train_references(..., out=...) makes one")


def _design(marks: NDArray[np.int64], members: NDArray[np.bool_]) -> str:
    return hashlib.sha256(marks.astype("<i8").tobytes() + members.tobytes()).hexdigest()


def _claim(path: Path, content: bytes) -> None:
    """A file with this content, whole, unless there is one of this name."""
    if path.exists():
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with whole_file(part) as file:
        file.write(content)
    try:
        with suppress(FileExistsError):
            os.link(part, path)
    except OSError:
        # A file system without hard links.
        with suppress(FileExistsError), path.open("xb") as file:
            file.write(content)
    finally:
        part.unlink()


def _marks_of(batches: Iterable[Any]) -> list[NDArray[np.int64]]:
    return [fingerprints(inputs_of(batch)).cpu().numpy() for batch in batches]


def _in_order(batches: Iterable[Any], marks: list[NDArray[np.int64]]) -> Iterator[Any]:
    """The batches, as long as they are those whose fingerprints these are."""
    for number, (batch, expected) in enumerate(itertools.zip_longest(batches, marks)):
        if batch is None or expected is None or not np.array_equal(_marks_of([batch])[0], expected):
            raise UsageError(
                f"batch {number} is not the same each time the data is read; references must be asked about the very "
                "same samples: use a loader with shuffle=False and without random augmentation"
            )
        yield batch
