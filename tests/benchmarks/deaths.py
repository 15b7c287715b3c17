"""How soon a dead bee is replaced, and how many may die in a second."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import JOBSET, number_of, work
from tests.benchmarks.run import Run
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row

EVERY = 5  # one of so many jobs dies
BEES = 8
RECORDED = f"""
    SELECT count(DISTINCT pos) FROM wb_failures
    WHERE jobset_id = '{JOBSET}' AND kind = 'crash' AND type = 'SIGSEGV' AND stack LIKE '%%die%%'
"""


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def time_deaths(parameters: Parameters, jobs: int) -> float:
    """The median of the seconds from a bee's SIGSEGV to the start of the next job, where it is the only bee."""
    starts, deaths = (multiprocessing.RawArray("d", jobs) for _ in range(2))

    def sometimes(job_id: str, _data: object) -> None:
        number = number_of(job_id)
        starts[number] = time.monotonic()
        if number % EVERY == 0:
            deaths[number] = time.monotonic()
            die()

    work(parameters, sometimes, processes=1, max_crashes=1)
    events = sorted([(at, "start") for at in starts] + [(at, "death") for at in deaths if at])
    waits = [after - at for (at, kind), (after, _) in itertools.pairwise(events) if kind == "death"]
    return statistics.median(waits)


def die_always(parameters: Parameters) -> tuple[int, float]:
    """How many bees died, with jobs that do nothing else, and seconds of the whole call."""
    begun = time.monotonic()
    summary = work(parameters, lambda _job_id, _data: die(), processes=BEES, max_crashes=1)
    assert summary.failed == summary.total, summary
    return summary.crashed_here, time.monotonic() - begun


def rows(run: Run) -> Iterator[Row]:
    some = run.size(500, 50)
    all_of_them = run.size(2_000, 100)

    def one() -> float:
        with run.loaded(some) as parameters:
            return 1000 * fresh(time_deaths, parameters=parameters, jobs=some)

    def many() -> float:
        with run.loaded(all_of_them) as parameters:
            deaths, seconds = fresh(die_always, parameters=parameters)
            ((recorded,),) = run.server.ask(RECORDED, 0, database=parameters["dbname"])
        assert recorded == all_of_them, f"{recorded} of {all_of_them} stacks"
        return deaths / seconds

    soon = f"from SIGSEGV to the next job in the slot, median of {some // EVERY} deaths"
    often = f"{all_of_them:,} jobs that all segfault, {BEES} bees, each recorded with its stack"
    yield Row("deaths", soon, run.measure({soon: one})[soon], "ms", target=25, at_most=True)
    yield Row("deaths", often, run.measure({often: many})[often], "deaths/s", target=150)
