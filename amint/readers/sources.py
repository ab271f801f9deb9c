"""What every kind of submission looks like to the reader: named entries, each opened only if it is to be judged."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from amint.errors import InputError
from amint.readers.limits import Limits
from amint.readers.rows import is_litter, printable

__all__ = ["Entry", "Source", "check_members", "check_size", "member_name", "refusal", "repeated", "too_much"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a submission.

    Attributes:
        name: unique within the submission, printable.
        read: gives its bytes, at most the number it is called with, or raises InputError with the reason why not.
            Good until the next entry is asked for.
        note: what the reader has to say of it even if it can be judged.
        stamp: changes whenever its file does; "" for a part of a file, which changes only with the whole.
    """

    name: str
    read: Callable[[int], bytes]
    note: str = ""
    stamp: str = ""


class Source(Protocol):
    """A submission: ``len`` is the number of entries that iterating yields, each time the same ones."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...


def refusal(reason: str) -> Callable[[int], bytes]:
    """The ``read`` of an entry that cannot be read."""

    def read(_: int) -> bytes:
        raise InputError(reason)

    return read


def check_size(size: int, max_bytes: int) -> None:
    """Raises:
    InputError: a file of ``size`` bytes is empty or above the limit.
    """
    if size == 0:
        raise InputError("an empty file")
    if size > max_bytes:
        raise InputError(f"{size:,} bytes, more than the limit of {max_bytes:,}")


def check_members(found: int, limits: Limits, shown: str) -> None:
    """Raises:
    InputError: the submission has more entries than the limit.
    """
    if found > limits.members:
        raise InputError(
            f"{shown} holds more than {limits.members:,} entries, the limit; submit it in parts or raise Limits.members"
        )


def too_much(shown: str, packed: int, limits: Limits) -> InputError:
    """The refusal of a submission of ``packed`` bytes that unpacks to more than the limit."""
    return InputError(
        f"{shown} has {packed:,} bytes and unpacks to more than {limits.unpacked(packed):,}, the limit; submit it in "
        "parts or, if you trust it, unpack it and submit the folder, where what is too large is one row with a reason"
    )


def member_name(raw: str) -> str | None:
    """How a member of an archive is shown; None for folders' litter, which is left out as in a folder on disk.

    >>> print(member_name("./photos/a\x1b.png"), member_name("../a.png"), member_name("__MACOSX/._a.png"))
    photos/a\\x1b.png ../a.png None
    """
    name = raw.rstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    # Some packers write the separator of Windows.
    if any(is_litter(part) for part in name.replace("\\", "/").split("/")):
        return None
    return printable(name) or "(no name)"


def repeated(names: Iterable[str]) -> dict[str, str]:
    """The names that occur more than once, and the reason why none of their members is judged."""
    return {
        name: f"{times} members have this name; which of them is meant cannot be told"
        for name, times in Counter(names).items()
        if times > 1
    }
