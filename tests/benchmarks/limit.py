"""The bare SQL loop: workerbee's tables and statements, and nothing else of it.

`python -m tests.benchmarks.limit` runs it alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial

import psycopg2

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import JOBSET
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample, shown
from tests.benchmarks.server import Parameters, running
from tests.benchmarks.table import Row
from workerbee.queries import composed

SIZES = (1, 128, 512, 1024, 4096)
LEFT = f"SELECT count(*) FROM wb__{JOBSET} WHERE state <> 'COMPLETE'"


def drain(parameters: Parameters, size: int) -> None:
    """Settle and claim `size` jobs at a time until there are no more."""
    connection = psycopg2.connect(**parameters)
    connection.autocommit = True
    queries = {name: query.as_string(connection) for name, query in composed(JOBSET).items()}
    with connection.cursor() as cursor:

        def ask(name: str, **values: object) -> list[tuple]:
            cursor.execute(queries[name], {"jobset_id": JOBSET, **values})
            return cursor.fetchall()

        ((node,),) = ask("add_node", host=socket.gethostname(), machine="", pid=os.getpid(), lease=3600)
        ((bee, total, _),) = ask("add_bee", node=node, pid=os.getpid())
        known = {"bee": bee, "node": node, "total": total, "size": size, "alone": True, "room": None}
        number, first, done = 0, 0, 0
        while first is not None:
            took = "{" + str([0] * done)[1:-1] + "}"
            rows = ask("settle_and_claim", number=number, first=first, took=took, **known)
            number += 1
            # Position NULL: nothing is pending; 0: others hold what is.
            first = rows[0][0]
            done = len(rows) if first else 0
    connection.close()


def run_loops(parameters: Parameters, processes: int, size: int) -> float:
    """Seconds from start to end of so many processes, that together complete every job."""
    context = multiprocessing.get_context("fork")
    begun = time.monotonic()
    loops = [context.Process(target=drain, args=(parameters, size)) for _ in range(processes)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    seconds = time.monotonic() - begun
    connection = psycopg2.connect(**parameters)
    with connection.cursor() as cursor:
        cursor.execute(LEFT)
        assert cursor.fetchone() == (0,)
    connection.close()
    return seconds


def rate(run: Run, jobs: int, size: int, processes: int = 2) -> float:
    """Jobs a second."""
    with run.loaded(jobs) as parameters:
        return jobs / fresh(run_loops, parameters=parameters, processes=processes, size=size)


def trials(run: Run, sizes: Sequence[int] = SIZES) -> dict[str, partial[float]]:
    """The loop at each of `sizes`; one at a time, with fewer jobs."""
    jobs = {size: run.size(50_000 if size == 1 else 2_000_000, 1_000) for size in sizes}
    return {named(size, jobs[size]): partial(rate, run, jobs[size], size) for size in sizes}


def named(size: int, jobs: int) -> str:
    return f"bare SQL loop in 2 processes, {size} at a time, {jobs:,} jobs"


def best(samples: dict[str, Sample]) -> str:
    """The name of the fastest of the loops among `samples`."""
    return max((name for name in samples if name.startswith("bare SQL")), key=lambda name: samples[name].median)


def rows(run: Run) -> Iterator[Row]:
    for name, sample in run.measure(trials(run)).items():
        yield Row("limit", name, sample, "jobs/s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limit", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200_000, help="default: %(default)d")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)d")
    parser.add_argument("--size", type=int, nargs="*", default=SIZES, help="jobs at a time (default: %(default)s)")
    given = parser.parse_args()
    with running() as server:
        run = Run(server, quick=True, peers=False)
        for size in given.size:
            print(f"{size} at a time: {shown(rate(run, given.jobs, size, given.processes))} jobs/s", flush=True)


if __name__ == "__main__":
    main()
