"""The jobset that is measured: filled apart, then worked on as a user would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2

from tests.benchmarks.server import Parameters
from workerbee import JobsetSummary
from workerbee.loading import set_up
from workerbee.postgresql import postgres_jobset
from workerbee.store import Store

JOBSET = "bench"


def ids(jobs: int) -> Iterator[str]:
    """So many job ids, of the length of a short path."""
    return (f"input/{number:09d}.png" for number in range(jobs))


def number_of(job_id: str) -> int:
    """Which of `ids` it is, from 0."""
    return int(job_id.removeprefix("input/").removesuffix(".png"))


def load(parameters: Parameters, jobs: int) -> None:
    """Create the jobset with `jobs` jobs, as `postgres_jobset` does."""
    store = Store(psycopg2.connect(**parameters), JOBSET)
    try:
        set_up(store, ids(jobs), None, lambda _line: None)
    finally:
        store.close()


def work(
    parameters: Parameters,
    function: Callable[[str, dict[str, Any]], object],
    *,
    jobset_id: str = JOBSET,
    claim: str = "auto",
    **options: Any,
) -> JobsetSummary:
    """Call `postgres_jobset` on the database that `parameters` lead to."""
    address = {"database" if key == "dbname" else key: value for key, value in parameters.items()}
    return postgres_jobset(jobset_id, function, verbose=False, claim=claim, **address, **options)


def nothing(job_id: str, job_data: dict[str, Any]) -> None:
    """The no-op job."""


def run_noops(parameters: Parameters, bees: int, claim: str = "auto") -> float:
    """Seconds of the whole call, for no-op jobs that are there already; all of them must be done by then."""
    begun = time.monotonic()
    summary = work(parameters, nothing, processes=bees, claim=claim)
    seconds = time.monotonic() - begun
    assert summary.ok, summary
    assert summary.completed_here == summary.total, summary
    return seconds
