"""What a verification found: frozen values, JSON, CSV, plain words.

The three decisions are ``used``, ``no evidence`` and ``cannot tell``; never "not used", which no test can show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from amint import wording
from amint.errors import UsageError
from amint.findings import Control, Provenance, SetTest
from amint.result_files import as_csv, as_json, read_result, write_result

__all__ = ["HEAD", "SCHEMA", "Control", "Decision", "Evidence", "Provenance", "SetTest", "Verdict", "by_rank"]

SCHEMA = 3
HEAD = "MINT head"
Decision = Literal["used", "no evidence", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one submitted sample.

    Attributes:
        path: the file's path inside the submission, or its row number.
        decision: ``used`` if the adjusted p-value is at most alpha.
        score: MINT logit, higher = more likely used; None if it could not be judged.
        p_value: chance of a score this high or higher for a sample that was not used.
        adjusted: the p-value after Benjamini-Hochberg over the submission.
        note: why it could not be judged, or what was done to the file before.
        sha256: of the file's bytes, or None.
        copy_of: path of an earlier sample that is the same input to the model; copies count once in the set-level test.
        confidence: log of the largest class probability that the model gives it, or None.
        predicted: the class that the model predicts, or None.
    """

    path: str
    decision: Decision
    score: float | None = None
    p_value: float | None = None
    adjusted: float | None = None
    note: str = ""
    sha256: str | None = None
    copy_of: str | None = None
    confidence: float | None = None
    predicted: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What is known of a submission.

    Attributes:
        decision: ``used`` if the smallest adjusted p-value of ``tests`` is at most alpha; ``cannot tell`` if nothing
            could be judged or a control failed.
        p_value: that smallest adjusted p-value: chance of evidence this strong for the submission, taken together, if
            nothing in it was used; None if nothing could be judged.
        alpha: accepted false-alarm rate of each decision.
        items: one a submitted file, in order.
        tests: the evidence for the submission as a whole, one entry a kind.
        controls: whether the audit is valid at all.
        reason: why nothing can be told, in plain words; empty otherwise.
        comparison: what the samples were compared with, in plain words.
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
    items: tuple[Evidence, ...]
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

    @property
    def judged(self) -> tuple[Evidence, ...]:
        """The items that have a score."""
        return tuple(item for item in self.items if item.score is not None)

    @property
    def flagged(self) -> int:
        """How many items have a p-value of at most alpha, taken one by one."""
        return sum(item.p_value is not None and item.p_value <= self.alpha for item in self.items)

    @property
    def used(self) -> int:
        """How many items are ``used`` after Benjamini-Hochberg."""
        return sum(item.decision == "used" for item in self.items)

    @property
    def copies(self) -> int:
        """How many judged items are copies of an earlier one."""
        return sum(item.copy_of is not None for item in self.judged)

    @property
    def contradiction(self) -> bool:
        """Whether the head finds nothing where other evidence of the same verdict is strong."""
        found = {test.name: test.adjusted <= self.alpha for test in self.tests}
        return HEAD in found and not found[HEAD] and any(found.values())

    def sentence(self) -> str:
        """The verdict in plain words, with its uncertainty."""
        return wording.sentence(self)

    def values(self) -> dict[str, Any]:
        """Everything, and what follows from it, by name."""
        counts = {
            "submitted": len(self.items),
            "judged": len(self.judged),
            "copies": self.copies,
            "flagged": self.flagged,
            "used": self.used,
        }
        said = {"sentence": self.sentence(), "contradiction": self.contradiction}
        return {"schema": SCHEMA, **said, "counts": counts} | {
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
                "items": tuple(Evidence(**item) for item in data["items"]),
                "tests": tuple(SetTest(**test) for test in data["tests"]),
                "controls": tuple(Control(**control) for control in data["controls"]),
                "provenance": Provenance(**data["provenance"]),
            }
            verdict = Verdict(**({name: data[name] for name in Verdict.__dataclass_fields__} | parts))
            unknown = {verdict.decision, *(item.decision for item in verdict.items)} - set(get_args(Decision))
            if unknown:
                raise UsageError(f"a verdict cannot be {sorted(unknown)}; it is one of {get_args(Decision)}")
            return verdict

        return read_result(text, "verdict", SCHEMA, build)

    def to_csv(self) -> str:
        """One line a submitted file."""
        return as_csv(self)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``verdict.json`` and ``verdict.csv`` into a folder, made if need be."""
        return write_result(self, "verdict", folder)


def by_rank(items: Sequence[Evidence]) -> list[Evidence]:
    """The most suspicious first, those that could not be judged last."""
    return sorted(items, key=lambda item: -float("inf") if item.score is None else item.score, reverse=True)
