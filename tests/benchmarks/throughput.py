"""How many jobs that do nothing go through in a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import psycopg2

from tests.benchmarks import limit, pools, queues
from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import JOBSET, run_noops
from tests.benchmarks.peers import best_queue
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row

POOL, EXECUTOR = "multiprocessing.Pool(2).imap_unordered", "ProcessPoolExecutor(2).map"
GRAPHILE = 54_000  # jobs/s of graphile-worker 0.17 (Node), measured on 2 cores in November 2026
# What the claims alone say: starting and ending of the node are left out.
SETTLED = f"""
    SELECT count(*) / extract(epoch FROM max(finished_at) - min(finished_at))::float8 FROM wb__{JOBSET}
    WHERE state = 'COMPLETE'
"""


def named(jobs: int, bees: int, more: str = "") -> str:
    return f"no-op jobs, {bees} bees{more}, {jobs:,} jobs"


def rows(run: Run) -> Iterator[Row]:
    yield from _against_others(run)
    yield from _many_bees(run)
    yield from _many_jobs(run)
    yield from _long_transaction(run)
    yield from _one_at_a_time(run)


def _against_others(run: Run) -> Iterator[Row]:
    jobs = run.jobs(2_000_000)
    ours = named(jobs, 2)
    loops = limit.trials(run, limit.SIZES[1:])  # one at a time comes later, in turns with ours
    trials = {ours: partial(run.noops, jobs, 2), **loops}
    trials |= pools.trial(run, POOL, 1) | pools.trial(run, EXECUTOR, 1000)
    samples = run.measure(trials)
    best = limit.best({name: samples[name] for name in loops})
    pool, executor = pools.named(POOL, 1), pools.named(EXECUTOR, 1000)

    def row(against: str, reference: Sample, target: float, note: str = "") -> Row:
        return Row("throughput", ours, samples[ours], "jobs/s", against, reference, target, note=note)

    yield row(pool, samples[pool], 4)
    yield row(best, samples[best], 0.7)
    yield row("graphile-worker, measured elsewhere", Sample([GRAPHILE]), 4)
    yield row(executor, samples[executor], 1, note="an aim")
    if not run.peers or not queues.installed("pgqueuer"):
        why = "not installed" if run.peers else "measured with --peers"
        yield Row("throughput", ours, samples[ours], "jobs/s", "pgqueuer", target=10, note=f"pgqueuer: {why}")
    else:
        yield row(*best_queue(run, "pgqueuer"), 10)


def _many_bees(run: Run) -> Iterator[Row]:
    jobs = run.jobs(2_000_000)
    few, many = named(jobs, 2, ", in turns with 16"), named(jobs, 16)
    samples = run.measure({few: partial(run.noops, jobs, 2), many: partial(run.noops, jobs, 16)})
    yield Row("throughput", many, samples[many], "jobs/s", few, samples[few], 0.9)


def settled_rate(run: Run, jobs: int) -> float:
    """Jobs a second from the first that was settled to the last."""
    with run.loaded(jobs) as parameters:
        fresh(run_noops, parameters=parameters, bees=2)
        return float(run.server.ask(SETTLED, database=parameters["dbname"])[0][0])


def _many_jobs(run: Run) -> Iterator[Row]:
    few, many = run.jobs(100_000), run.jobs(10_000_000)
    names = [named(jobs, 2, ", from first to last") for jobs in (few, many)]
    samples = run.measure({names[0]: partial(settled_rate, run, few), names[1]: partial(settled_rate, run, many)})
    yield Row("throughput", names[1], samples[names[1]], "jobs/s", names[0], samples[names[0]], 0.9)


@contextlib.contextmanager
def open_transaction(parameters: Parameters) -> Iterator[None]:
    """A session that has seen something, and changed something else, and does not end its transaction."""
    connection = psycopg2.connect(**parameters)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(f"SELECT count(*) FROM wb_ranges__{JOBSET}")
            cursor.execute("CREATE TABLE not_yet ()")
        yield
    finally:
        connection.close()


def watched(run: Run, jobs: int) -> float:
    """Jobs a second while a transaction is open for the whole run."""
    with run.loaded(jobs) as parameters, open_transaction(parameters):
        return jobs / fresh(run_noops, parameters=parameters, bees=2)


def _long_transaction(run: Run) -> Iterator[Row]:
    jobs = run.jobs(1_000_000)
    alone, beside = named(jobs, 2), named(jobs, 2, ", a transaction open all the time")
    samples = run.measure({alone: partial(run.noops, jobs, 2), beside: partial(watched, run, jobs)})
    yield Row("throughput", beside, samples[beside], "jobs/s", alone, samples[alone], 0.8)


def _one_at_a_time(run: Run) -> Iterator[Row]:
    jobs = run.size(50_000, 1_000)
    ours, loop = named(jobs, 2, " claiming one at a time"), limit.named(1, jobs)
    samples = run.measure({ours: partial(run.noops, jobs, 2, "one"), **limit.trials(run, [1])})
    yield Row("throughput", ours, samples[ours], "jobs/s", loop, samples[loop], 0.9)
