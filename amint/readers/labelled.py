"""Labelled samples from disk: folders of pictures with one subfolder a class, or arrays in an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from amint.errors import InputError
from amint.preprocessing import Preprocessing
from amint.readers.opening import open_submission
from amint.readers.rows import Rejected, printable

__all__ = ["CLASSES", "ClassFolders", "LabelledArrays", "labelled_pair"]

CLASSES = "classes.txt"
# What a label's type can hold.
_LARGEST = 2**63 - 1


class ClassFolders:
    """Pictures in one subfolder a class, as batches of inputs and class numbers; read anew each time.

    Args:
        path: the folder.
        preprocessing: what the model does to a picture.
        numbers: class name -> number.
        expect: the height and width that the model takes.
        batch_size: rows in every batch but the last.

    Attributes:
        rejected: what could not be read the last time.
    """

    def __init__(
        self,
        path: Path,
        preprocessing: Preprocessing,
        numbers: Mapping[str, int],
        expect: tuple[int, int],
        batch_size: int = 256,
    ) -> None:
        self._path, self._numbers = path, {printable(name): number for name, number in numbers.items()}
        self._reader = open_submission(path, preprocessing, batch_size=batch_size, expect=expect)

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Files that the latest pass could not read, with the reasons."""
        return tuple(one for one in self._reader.rejected if one.path != CLASSES)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._reader:
            yield batch.tensor, torch.tensor([self._number(row.path) for row in batch.rows])

    def _number(self, path: str) -> int:
        folder, inside, _ = path.partition("/")
        if not inside:
            raise InputError(f"{path} lies in {self._path} itself; put every picture into the subfolder of its class")
        return self._numbers[folder]


class LabelledArrays(Dataset[tuple[Tensor, int]]):
    """``x`` and ``y`` of an .npz file: float inputs as they are, uint8 pictures through the preprocessing.

    Args:
        path: the file; ``x`` float ``[n, ...]`` or uint8 ``[n, h, w]``, ``[n, h, w, c]`` or ``[n, c, h, w]``, ``y``
            integers ``[n]``.
        preprocessing: for uint8 pictures; None if there is none.
        input_shape: that the model takes, without the batch dimension.

    Raises:
        InputError: not such a file, or inputs of another shape.
    """

    rejected: tuple[Rejected, ...] = ()

    def __init__(self, path: Path, preprocessing: Preprocessing | None, input_shape: tuple[int, ...]) -> None:
        x, y = _arrays(path)
        pictures = x.dtype == np.uint8
        if pictures and preprocessing is None:
            raise InputError(f"{path} holds uint8 pictures, but the bundle has no preprocessing; store float32 inputs")
        self._x, self._y = _channels_last(path, x) if pictures else x, y
        self._preprocessing = preprocessing if pictures else None
        _check_shape(path, x, tuple(self[0][0].shape) if len(y) else input_shape, input_shape)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        x, y = self._x[row], int(self._y[row])
        if self._preprocessing is None:
            return torch.from_numpy(x.astype(np.float32)), y
        pixels = x[:, :, 0] if x.ndim == 3 and x.shape[2] == 1 else x
        return self._preprocessing(Image.fromarray(np.ascontiguousarray(pixels))), y


def labelled_pair(
    members: Path,
    nonmembers: Path,
    preprocessing: Preprocessing | None,
    input_shape: tuple[int, ...],
    count_classes: Callable[[], int],
) -> tuple[ClassFolders | LabelledArrays, ClassFolders | LabelledArrays]:
    """Members and non-members with the same class numbers.

    Subfolders in the order of their names are the classes 0, 1, …; both sides must have the same ones, and all that
    the model knows. A file ``classes.txt`` in one of them, one name a line, gives another order, or names classes that
    have no subfolder.

    Args:
        members, nonmembers: each a folder or an .npz file.
        preprocessing: of the bundle.
        input_shape: of the model, without the batch dimension.
        count_classes: how many classes the model tells apart; asked only where there are class folders.

    Raises:
        InputError: neither a folder of class folders nor an .npz file with ``x`` and ``y``, or classes that differ
            between the sides or from the model's.
    """
    folders = [path for path in (members, nonmembers) if path.is_dir()]
    numbers = _numbers(folders) if folders else {}

    def opened(path: Path) -> ClassFolders | LabelledArrays:
        if not path.is_dir():
            return LabelledArrays(path, preprocessing, input_shape)
        if preprocessing is None or len(input_shape) != 3:
            raise InputError(f"{path} holds files, but the bundle has no preprocessing for pictures; pass .npz files")
        return ClassFolders(path, preprocessing, numbers, (input_shape[1], input_shape[2]))

    pair = opened(members), opened(nonmembers)
    if folders and len(numbers) != (classes := count_classes()):
        # Numbers by name are wrong labels where only some of the classes are there, and nothing later would notice.
        raise InputError(
            f"the model tells {classes} classes apart, {len(numbers)} are named by subfolders or {CLASSES}: "
            f"{printable(', '.join([*list(numbers)[:5], *(['…'] if len(numbers) > 5 else [])]))}. List all classes in "
            f"the model's order in a file {CLASSES}, one name a line, in {printable(str(folders[0]))}; classes without "
            "pictures need no subfolder"
        )
    return pair


def _numbers(folders: list[Path]) -> dict[str, int]:
    found = [_class_names(folder) for folder in folders]
    for folder, present in zip(folders, found, strict=True):
        if not present:
            raise InputError(
                f"{printable(str(folder))} has no class folders; expected a subfolder of pictures for each class"
            )
    lists = [listed for folder in folders if (listed := _listed(folder))]
    if any(listed != lists[0] for listed in lists):
        raise InputError(f"the files {CLASSES} in {folders[0]} and {folders[1]} differ; one of them is enough")
    names = lists[0] if lists else sorted(found[0])
    for folder, present in zip(folders, found, strict=True):
        unknown, lacking = sorted(present - set(names)), sorted(set(names) - present)
        if unknown or (lacking and not lists):
            raise InputError(
                f"the class folders differ: {printable(str(folder))} has {len(present)} of {len(names)} classes, lacks "
                f"{lacking[:5]} and has {unknown[:5]} besides. Subfolders number the classes, so that both sides need "
                f"the same ones; or list all classes in the model's order in a file {CLASSES}, one name a line"
            )
    if len(names) < 2:
        raise InputError(f"{folders[0]} has {len(names)} class folders; at least 2 are needed, or a file {CLASSES}")
    return {name: number for number, name in enumerate(names)}


def _class_names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _listed(folder: Path) -> list[str]:
    path = folder / CLASSES
    if not path.is_file():
        return []
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason}") from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise InputError(f"{path} must hold one class name a line, each once; found {len(names)} names, twice {twice}")
    return names


def _channels_last(path: Path, x: NDArray[Any]) -> NDArray[Any]:
    if all(x.shape[1:]):
        if x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3)):
            return x
        if x.ndim == 4 and x.shape[1] in (1, 3):
            return x.transpose(0, 2, 3, 1)
    raise InputError(
        f"{printable(str(path))}: uint8 pictures are [n, h, w], [n, h, w, c] or [n, c, h, w], with c 1 or 3; found "
        f"{x.shape}"
    )


def _check_shape(path: Path, x: NDArray[Any], found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found == wanted:
        return
    if math.prod(found) == math.prod(wanted):
        hint = "the numbers are as many, so that their axes have to be put in order"
        if found == (*wanted[1:], wanted[0]):
            hint = "store channels first, x.transpose(0, 3, 1, 2)"
    else:
        hint = "store inputs as the model takes them, preprocessed"
    raise InputError(
        f"{printable(str(path))}: the model takes inputs {list(wanted)}, x is {x.dtype} {list(x.shape)} and gives "
        f"inputs {list(found)}; {hint}"
    )


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except FileNotFoundError:
        raise InputError(f"there is nothing at {printable(str(path))}; pass a folder or an .npz file") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        # Of what is no array file at all numpy says only how it could be loaded unsafely.
        why = "" if "allow_pickle" in str(error) else f": {error}"
        raise InputError(
            f"{printable(str(path))} is neither a folder nor an .npz file with arrays x and y of numbers{why}"
        ) from error
    numbers = (x.dtype == np.uint8 or x.dtype.kind == "f") and y.dtype.kind in "iu"
    if not numbers or x.ndim < 2 or y.shape != x.shape[:1]:
        raise InputError(
            f"{printable(str(path))}: x must be float or uint8 [n, ...] and y integers [n]; found {x.dtype} {x.shape} "
            f"and {y.dtype} {y.shape}"
        )
    if len(y) and int(y.max()) > _LARGEST:
        raise InputError(f"{printable(str(path))}: y must be class numbers from 0 up, found {int(y.max())}")
    return x, y
