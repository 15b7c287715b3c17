"""What happened to a jobset over time, in steps of the same length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from workerbee.job import Kind
from workerbee.status import Overview
from workerbee.store import Store
from workerbee.survey import overview, sampled_percent

MOST_STEPS = 200


@dataclass(frozen=True)
class History:
    """From `begun` on, in at most 200 steps of `step` seconds; `jobset` is how it stands after them.

    Of each step: how many jobs became COMPLETE, how many FAILED, how many bees there were on the average, and how many
    attempts failed, by kind. Fractions come of entries in the nodes' logbooks that lie between steps. `durations` has
    (seconds, jobs) of a sample of the completed jobs: so many took at least so long, and less than a tenth of a decade
    longer.
    """

    jobset: Overview
    begun: datetime
    step: float
    complete: tuple[float, ...]
    failed: tuple[float, ...]
    bees: tuple[float, ...]
    failures: Mapping[Kind, tuple[int, ...]]
    durations: tuple[tuple[float, int], ...]


def history(store: Store) -> History:
    """Read it from the nodes' logbooks, the failures, and a sample of the jobs."""
    now = overview(store)
    ((begun, seconds),) = store.run("find_span")
    steps = min(MOST_STEPS, max(1, math.ceil(seconds)))  # nodes make no more than an entry a second
    step = seconds / steps or 1.0
    scale = {"begun": begun, "step": step, "steps": steps}
    done = [[0.0] * steps for _ in range(3)]
    for number, *sums in store.run("sum_progress", **scale):
        for series, value in zip(done, sums, strict=True):
            series[number] = value
    failures: dict[Kind, list[int]] = {}
    for number, kind, count in store.run("sum_failures", **scale):
        failures.setdefault(Kind(kind), [0] * steps)[number] += count
    percent = sampled_percent(now.counts.total, now.counts.complete)
    complete, failed, bees = map(tuple, done)
    return History(
        now,
        begun,
        step,
        complete,
        failed,
        bees,
        {kind: tuple(failures[kind]) for kind in Kind if kind in failures},
        tuple((10 ** (tenth / 10), count) for tenth, count in store.run("sum_durations", percent=percent)),
    )
