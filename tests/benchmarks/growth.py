"""How the rate goes with more jobs, and with more bees."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.benchmarks.run import Run
from tests.benchmarks.table import Row
from tests.benchmarks.throughput import named

JOBS = (10_000, 100_000, 1_000_000, 10_000_000)
BEES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def rows(run: Run) -> Iterator[Row]:
    for jobs in JOBS[: run.size(4, 2)]:
        yield _row(run, jobs, 2, ("jobs", jobs))
    jobs = run.jobs(1_000_000)
    for bees in BEES[: run.size(9, 7)]:
        yield _row(run, jobs, bees, ("bees", bees))


def _row(run: Run, jobs: int, bees: int, point: tuple[str, float]) -> Row:
    what = named(jobs, bees)
    sample = run.measure({what: partial(run.noops, jobs, bees)})[what]
    return Row("growth", f"{what}, by {point[0]}", sample, "jobs/s", point=point)
