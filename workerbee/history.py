"""What happened to a jobset over time, in steps of the same length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from workerbee.job import Kind


@dataclass(frozen=True)
class History:
    """From `begun` on, in steps of `step` seconds.

    Of each step: how many jobs became COMPLETE, how many FAILED, how many bees there were on the average, and how many
    attempts failed, by kind. `durations` has (seconds, jobs) of a sample of the completed jobs: so many took at least
    so long, and less than the next, a tenth of a decade later.
    """

    jobset_id: str
    begun: datetime
    step: float
    complete: tuple[float, ...]
    failed: tuple[float, ...]
    bees: tuple[float, ...]
    failures: Mapping[Kind, tuple[int, ...]]
    durations: tuple[tuple[float, int], ...]
