"""What a verification found: frozen values, JSON, CSV, plain words.

The three decisions are ``used``, ``no evidence`` and ``cannot tell``; never "not used", which no test can show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from amint import wording
from amint.errors import UsageError
from amint.findings import Control, Provenance, SetTest, bound_level
from amint.items import Decision, Evidence, Items, by_rank
from amint.next_steps import next_steps
from amint.result_files import as_csv, as_json, read_result, write_result

__all__ = ["HEAD", "SCHEMA", "Control", "Decision", "Evidence", "Items", "Provenance", "SetTest", "Verdict", "by_rank"]

SCHEMA = 4
HEAD = "MINT head"


@dataclass(frozen=True)
class Verdict:
    """What is known of a submission.

    Attributes:
        decision: ``used`` if the smallest adjusted p-value of ``tests`` is at most alpha; ``cannot tell`` if nothing
            could be judged, a control failed, or a lone sample could not have reached alpha whatever its score.
        p_value: that smallest adjusted p-value: chance of evidence this strong for the submission, taken together, if
            nothing in it was used; None if nothing could be judged.
        alpha: accepted false-alarm rate of each decision.
        items: one a submitted file, in order; kept as :class:`amint.items.Items`.
        tests: the evidence for the submission as a whole, one entry a kind.
        controls: whether the audit is valid at all.
        reason: why nothing can be told, in plain words; empty otherwise.
        comparison: what the samples were compared with, in plain words.
        by_class: whether the submission as a whole was compared within the classes that the model predicts.
        power: how many samples a verdict on this model takes, :class:`amint.power.PowerCurve` as plain values, or None.
        provenance: where model and head came from.
        calibration_n: number of calibration non-members.
        smallest_p: the smallest p-value a single sample can get.
        created: time, ISO 8601, UTC.
        libraries: name -> version.
    """

    decision: Decision
    p_value: float | None
    alpha: float
    items: Sequence[Evidence]
    tests: tuple[SetTest, ...]
    controls: tuple[Control, ...]
    reason: str
    comparison: str
    power: dict[str, Any] | None
    provenance: Provenance
    calibration_n: int
    smallest_p: float
    created: str
    libraries: dict[str, str]
    by_class: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", Items.of(self.items))

    def __repr__(self) -> str:
        chance = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        return f"<Verdict: {self.decision}{chance}, {len(self.items):,} items>"

    @property
    def _items(self) -> Items:
        return Items.of(self.items)

    @property
    def judged(self) -> Items:
        """The items that have a score."""
        return self._items.take(~np.isnan(self._items.numbers("score")))

    @property
    def rejected(self) -> Items:
        """The items that have none."""
        return self._items.take(np.isnan(self._items.numbers("score")))

    @property
    def counted(self) -> int:
        """How many judged items the set-level tests count: copies, exact and near, once."""
        return self.tests[0].samples if self.tests else 0

    @property
    def flagged(self) -> int:
        """How many items have a p-value of at most alpha, taken one by one."""
        return int((self._items.numbers("p_value") <= self.alpha).sum())

    @property
    def used(self) -> int:
        """How many items are ``used`` after Benjamini-Hochberg."""
        return int(self._items.are("used").sum())

    @property
    def copies(self) -> int:
        """How many judged items are copies of an earlier one."""
        return int(self.judged.are_copies().sum())

    @property
    def near_copies(self) -> int:
        """How many judged items that are no exact copies look nearly like another, and do not count again."""
        return max(0, len(self.judged) - self.copies - self.counted) if self.tests else 0

    @property
    def single(self) -> bool:
        """Whether one sample was judged, copies aside: then the same is said of it as of the submission."""
        return len(self.judged) - self.copies == 1

    @property
    def bound_level(self) -> float:
        """The confidence at which ``members_at_least`` of each test holds: all of them together hold at 1 - alpha."""
        return bound_level(self.alpha, len(self.tests))

    @property
    def contradiction(self) -> bool:
        """Whether the head finds nothing where other evidence is strong, which a failed control leaves open."""
        if self.decision == "cannot tell":
            return False
        found = {test.name: test.adjusted <= self.alpha for test in self.tests}
        return HEAD in found and not found[HEAD] and any(found.values())

    def sentence(self) -> str:
        """The verdict in plain words, with its uncertainty."""
        return wording.sentence(self)

    def values(self) -> dict[str, Any]:
        """Everything, and what follows from it, by name.

        Among it ``counts``: how many were ``submitted`` and ``judged``, how many of these are exact ``copies``, how
        many have a p-value of at most alpha taken one by one (``flagged_before_correction``), and how many are ``used``
        once it is corrected for their number (``used_after_correction``).
        """
        counts = {
            "submitted": len(self.items),
            "judged": len(self.judged),
            "copies": self.copies,
            "flagged_before_correction": self.flagged,
            "used_after_correction": self.used,
        }
        said = {"sentence": self.sentence(), "contradiction": self.contradiction, "next_steps": next_steps(self)}
        return {"schema": SCHEMA, **said, "counts": counts, "bound_level": self.bound_level} | {
            part.name: getattr(self, part.name) for part in fields(self)
        }

    def lines(self) -> Iterator[list[Any]]:
        """One line a submitted file, after the headings."""
        names = [part.name for part in fields(Evidence)]
        yield list(names)
        yield from ([getattr(item, name) for name in names] for item in self.items)

    def to_json(self) -> str:
        """One JSON object, numbers exact."""
        return as_json(self)

    @staticmethod
    def from_json(text: str) -> Verdict:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: another schema, or not a verdict.
        """

        def build(data: dict[str, Any]) -> Verdict:
            parts = {
                "items": Items(Evidence(**item) for item in data["items"]),
                "tests": tuple(SetTest(**test) for test in data["tests"]),
                "controls": tuple(Control(**control) for control in data["controls"]),
                "provenance": Provenance(**data["provenance"]),
            }
            verdict = Verdict(**({name: data[name] for name in Verdict.__dataclass_fields__} | parts))
            if verdict.decision not in get_args(Decision):
                raise UsageError(f"a verdict cannot be {verdict.decision!r}; it is one of {get_args(Decision)}")
            return verdict

        return read_result(text, "verdict", SCHEMA, build)

    def to_csv(self) -> str:
        """One line a submitted file."""
        return as_csv(self)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``verdict.json`` and ``verdict.csv`` into a folder, made if need be."""
        return write_result(self, "verdict", folder)
