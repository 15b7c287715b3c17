"""What was measured several times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


class Sample:
    """The values of a measurement's rounds, all in one unit; its `median` stands for it."""

    def __init__(self, values: Iterable[float]) -> None:
        self.values = list(values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return shown(self.median)
        return f"{shown(self.median)} ({shown(min(self.values))} to {shown(max(self.values))})"


def shown(number: float) -> str:
    """Three digits of it: more would promise too much."""
    if abs(number) >= 1000:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:.3g}"
