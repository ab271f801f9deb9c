"""What a verification found: frozen values, JSON, CSV, plain words.

The three decisions are ``used``, ``no evidence`` and ``cannot tell``; never "not used", which no test can show.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from amint.errors import UsageError

__all__ = ["SCHEMA", "Decision", "Evidence", "Verdict"]

SCHEMA = 1
Decision = Literal["used", "no evidence", "cannot tell"]
# The wide forms of these characters begin a formula too, in some languages.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_TINY = 0.0001


@dataclass(frozen=True)
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
    """

    path: str
    decision: Decision
    score: float | None = None
    p_value: float | None = None
    adjusted: float | None = None
    note: str = ""
    sha256: str | None = None
    copy_of: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What is known of a submission.

    Attributes:
        decision: ``used`` if the set-level p-value is at most alpha.
        p_value: set level: chance of scores this high or higher, taken together, if nothing submitted was used; None if
            nothing could be judged.
        alpha: accepted false-alarm rate of each decision.
        items: one a submitted file, in order.
        calibration_n: number of calibration non-members.
        smallest_p: the smallest p-value a single sample can get, 1 / (calibration_n + 1).
        bundle_sha256: identity of the bundle, or None for a model in memory.
        method: how the MINT head came about.
        created: time, ISO 8601, UTC.
        libraries: name -> version.
    """

    decision: Decision
    p_value: float | None
    alpha: float
    items: tuple[Evidence, ...]
    calibration_n: int
    smallest_p: float
    bundle_sha256: str | None
    method: str
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
        """How many items are copies of an earlier one."""
        return sum(item.copy_of is not None for item in self.items)

    def sentence(self) -> str:
        """The verdict in plain words, with its uncertainty."""
        submitted, n = len(self.items), len(self.judged)
        if self.p_value is None:
            nothing = {0: "nothing was submitted", 1: "the submitted file could not be judged"}
            return f"Cannot tell: {nothing.get(submitted, f'none of the {submitted} files could be judged')}."
        rejected = f"{submitted - n} of {submitted} files could not be judged."
        return " ".join([self._together(n, self.p_value), *self._singly(n), *([rejected] if submitted > n else [])])

    def _together(self, n: int, p_value: float) -> str:
        p = f"p < {_TINY:.4f}" if p_value < _TINY else f"p = {p_value:.2g}"
        chance = f"({p}; accepted false-alarm rate {self._rate})"
        samples = "the judged sample" if n == 1 else f"taken together, the {n} judged samples"
        if self.copies:
            samples += f" ({self.copies} exact {'copy' if self.copies == 1 else 'copies'} not counted again)"
        higher = f"higher than data that was not used would {chance}."
        if self.decision == "used":
            return f"Used: {samples} {'scores' if n == 1 else 'score'} {higher}"
        whole = " for the submission as a whole" if self.used else ""
        return f"No evidence of use{whole}: {samples} {'does' if n == 1 else 'do'} not score clearly {higher}"

    def _singly(self, n: int) -> list[str]:
        said = []
        if n > 1 and self.used:
            they = "1 sample stands out on its own" if self.used == 1 else f"{self.used} samples stand out on their own"
            but = "" if self.decision == "used" else "But "
            said.append(f"{but}{they}; on average, at most {self._rate} of samples like these are false alarms.")
        elif n > 1:
            said.append("No sample stands out on its own.")
        if self.decision != "used":
            rest = "it was" if n == 1 else "the others were" if self.used else "they were"
            said.append(f"This does not show that {rest} not used.")
        return said

    @property
    def _rate(self) -> str:
        return f"{100 * self.alpha:g}%"

    def to_json(self) -> str:
        """One JSON object, numbers exact."""
        counts = {
            "submitted": len(self.items),
            "judged": len(self.judged),
            "copies": self.copies,
            "flagged": self.flagged,
            "used": self.used,
        }
        values = {"schema": SCHEMA, "sentence": self.sentence(), "counts": counts} | asdict(self)
        return json.dumps(values, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Verdict:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: another schema, or not a verdict.
        """
        try:
            data = json.loads(text)
            schema = data["schema"]
            if schema != SCHEMA:
                raise UsageError(f"this verdict has schema {schema!r}, expected {SCHEMA}; use the amint that wrote it")
            fields = {name: data[name] for name in Verdict.__dataclass_fields__}
            verdict = Verdict(**(fields | {"items": tuple(Evidence(**item) for item in data["items"])}))
            # NaN is no JSON, though Python reads it; and nothing but the three decisions can be meant.
            verdict.to_json()
            unknown = {verdict.decision, *(item.decision for item in verdict.items)} - set(get_args(Decision))
        except UsageError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(f"this is not a verdict that amint wrote: {error!r}") from error
        if unknown:
            raise UsageError(f"a verdict cannot be {sorted(unknown)}; it is one of {get_args(Decision)}")
        return verdict

    def to_csv(self) -> str:
        """One line a submitted file."""
        text = io.StringIO()
        # All text in quotes: a lone carriage return would otherwise end a line.
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        names = list(Evidence.__dataclass_fields__)
        writer.writerow(names)
        writer.writerows([_cell(getattr(item, name)) for name in names] for item in self.items)
        return text.getvalue()

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``verdict.json`` and ``verdict.csv`` into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "verdict.json", folder / "verdict.csv"
        for path, text in zip(paths, (self.to_json(), self.to_csv()), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def by_rank(items: Sequence[Evidence]) -> list[Evidence]:
    """The most suspicious first, those that could not be judged last."""
    return sorted(items, key=lambda item: -float("inf") if item.score is None else item.score, reverse=True)


def _cell(value: Any) -> Any:
    # A spreadsheet runs a cell that begins like a formula, and file names come from strangers.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
