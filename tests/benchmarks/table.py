"""The result: a row for each promise, as markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.sample import Sample, shown

COLUMNS = ("what", "measured", "against", "ratio", "target", "reached")


@dataclass(frozen=True)
class Row:
    """What was `measured`, in `unit`; None when it could not be, and then `note` says why.

    Where it is measured `against` something, the ratio of its median to that of the `reference`, of the same run and
    in the same unit, is what counts, else the median itself. It should be `target` at least, or, with `at_most`, at
    most. `point` is the row's place on a curve: the curve's name and x.
    """

    benchmark: str
    what: str
    measured: Sample | None
    unit: str
    against: str = ""
    reference: Sample | None = None
    target: float | None = None
    at_most: bool = False
    note: str = ""
    point: tuple[str, float] | None = None

    @property
    def ratio(self) -> float | None:
        """To the reference; None without one, or when that is 0."""
        if self.measured is None or self.reference is None or not self.reference.median:
            return None
        return self.measured.median / self.reference.median

    @property
    def counted(self) -> float | None:
        """What is compared with the target; None when one of the two is missing."""
        if self.against:
            return self.ratio
        return self.measured.median if self.measured else None

    @property
    def reached(self) -> bool | None:
        """None when there is no target, or nothing to compare with it."""
        if self.target is None or self.counted is None:
            return None
        return self.counted <= self.target if self.at_most else self.counted >= self.target

    def cells(self) -> tuple[str, ...]:
        """A text for each of `COLUMNS`."""
        target = ""
        if self.target is not None:
            unit = "x" if self.against else self.unit
            target = f"{'at most' if self.at_most else 'at least'} {shown(self.target)} {unit}".strip()
        reference = f"{self.against}: {self.reference} {self.unit}" if self.reference else self.against
        return (
            f"{self.what} [{self.note}]" if self.note else self.what,
            f"{self.measured} {self.unit}".strip() if self.measured else "-",
            reference,
            "" if self.ratio is None else f"{self.ratio:.3g}",
            target,
            {True: "yes", False: "**no**", None: ""}[self.reached],
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "what": self.what,
            "unit": self.unit,
            "measured": self.measured and self.measured.values,
            "against": self.against,
            "reference": self.reference and self.reference.values,
            "ratio": self.ratio,
            "target": self.target,
            "at_most": self.at_most,
            "reached": self.reached,
            "note": self.note,
            "point": self.point,
        }


def markdown(rows: Iterable[Row], about: Iterable[tuple[str, str]]) -> str:
    """The rows as one table, and below it the lines `about` the run."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", *(f"- {name}: {value}" for name, value in about)])
