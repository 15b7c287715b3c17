"""PostgreSQL queues of others, set up as their own documentation recommends, on the server that workerbee gets.

Two worker processes; what they do before the first job is not counted, nor is the filling of the queue.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import ids
from tests.benchmarks.run import Run
from tests.benchmarks.server import Parameters

WORKERS = 2
PATIENCE = 600.0  # seconds for all of a trial
AT_ONCE = 5_000  # jobs added in one call

# When the last success was written: a worker that finds the queue empty stays a while longer.
LAST = "SELECT extract(epoch FROM max(created))::float8 FROM pgqueuer_log WHERE status = 'successful'"
# Its tuning guide: larger batches for short jobs, `pgq autovac`, a direct asyncpg connection. Its own benchmark drains
# the queue with uvloop and several consumers in a process. Durability stays at its default, which is ours, too.
PGQUEUER = [{"batch": batch, "consumers": consumers} for batch in (10, 100, 1000) for consumers in (1, 5)]
# It claims one job at a time; async tasks with some concurrency are what its documentation has for short ones. What
# succeeded is deleted, which saves it a growing table.
PROCRASTINATE = [{"concurrency": concurrency, "delete": "successful"} for concurrency in (1, 10, 30)]


def conninfo(parameters: Parameters) -> str:
    return " ".join(f"{name}='{value}'" for name, value in parameters.items())


async def fill_pgqueuer(parameters: Parameters, jobs: int) -> None:
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(**_for_asyncpg(parameters))
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.optimize_autovacuum()
    payloads = [job_id.encode() for job_id in ids(jobs)]
    for start in range(0, jobs, AT_ONCE):
        part = payloads[start : start + AT_ONCE]
        await queries.enqueue(["nothing"] * len(part), part, [0] * len(part))
    await connection.close()


async def drain_pgqueuer(
    parameters: Parameters, ready: Callable[[], None], batch: int, consumers: int
) -> tuple[int, float]:
    import asyncpg
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.domain.types import QueueExecutionMode

    done = 0

    async def nothing(_job: object) -> None:
        nonlocal done
        done += 1

    queuers = []
    for _ in range(consumers):
        queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(**_for_asyncpg(parameters))))
        queuer.entrypoint("nothing")(nothing)
        queuers.append(queuer)
    ready()
    await asyncio.gather(*(queuer.run(batch_size=batch, mode=QueueExecutionMode.drain) for queuer in queuers))
    return done, await (await asyncpg.connect(**_for_asyncpg(parameters))).fetchval(LAST)


def _for_asyncpg(parameters: Parameters) -> dict[str, str]:
    return {"database" if name == "dbname" else name: value for name, value in parameters.items()}


def _app(parameters: Parameters, connections: int) -> Any:
    from procrastinate import App, PsycopgConnector

    return App(connector=PsycopgConnector(conninfo=conninfo(parameters), min_size=connections, max_size=connections))


async def fill_procrastinate(parameters: Parameters, jobs: int) -> None:
    app = _app(parameters, 2)

    @app.task(name="nothing")
    async def nothing(**_job: str) -> None:
        pass

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        values = [{"job_id": job_id} for job_id in ids(jobs)]
        for start in range(0, jobs, AT_ONCE):
            await nothing.batch_defer_async(*values[start : start + AT_ONCE])


async def drain_procrastinate(
    parameters: Parameters, ready: Callable[[], None], concurrency: int, delete: str
) -> tuple[int, float]:
    done = 0
    app = _app(parameters, concurrency + 2)

    @app.task(name="nothing")
    async def nothing(**_job: str) -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        ready()
        await app.run_worker_async(concurrency=concurrency, delete_jobs=delete, wait=False)
        return done, time.time()


QUEUES: dict[
    str, tuple[Callable[..., Awaitable[None]], Callable[..., Awaitable[tuple[int, float]]], list[dict[str, Any]]]
] = {
    "pgqueuer": (fill_pgqueuer, drain_pgqueuer, PGQUEUER),
    "procrastinate": (fill_procrastinate, drain_procrastinate, PROCRASTINATE),
}


def worker(queue: str, parameters: Parameters, settings: dict[str, Any], barrier: Any, results: Any) -> None:
    """One worker process: tells how many jobs it did, and from when to when, in seconds of the epoch."""
    logging.disable(logging.WARNING)
    _, drain, _ = QUEUES[queue]
    begun = 0.0

    def ready() -> None:
        nonlocal begun
        barrier.wait(PATIENCE)
        begun = time.time()

    done, ended = _run(drain(parameters, ready, **settings))
    results.put((done, begun, ended))


def _run(coroutine: Any) -> Any:
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(coroutine)
    import uvloop

    return uvloop.run(coroutine)


def run_queue(queue: str, parameters: Parameters, jobs: int, settings: dict[str, Any]) -> float:
    """Jobs a second, from the moment that both workers are ready until the last job is done."""
    fill, _, _ = QUEUES[queue]
    _run(fill(parameters, jobs))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(WORKERS), context.Queue()
    workers = [
        context.Process(target=worker, args=(queue, parameters, settings, barrier, results), daemon=True)
        for _ in range(WORKERS)
    ]
    for process in workers:
        process.start()
    found = [results.get(timeout=PATIENCE) for _ in workers]
    for process in workers:
        process.join()
    counts, begins, ends = zip(*found, strict=True)
    assert sum(counts) == jobs, counts
    return jobs / (max(ends) - min(begins))


def installed(queue: str) -> bool:
    needed = {"pgqueuer": ("pgqueuer", "asyncpg"), "procrastinate": ("procrastinate", "psycopg")}[queue]
    return all(importlib.util.find_spec(name) for name in needed)


def named(queue: str, settings: dict[str, Any]) -> str:
    return f"{queue} in 2 processes, {', '.join(f'{name} {value}' for name, value in settings.items())}"


def trials(run: Run, queue: str) -> dict[str, partial[float]]:
    """How to measure the queue at each of its settings."""
    jobs = {"pgqueuer": run.size(100_000, 3_000), "procrastinate": run.size(10_000, 300)}[queue]
    settings = QUEUES[queue][2][-1:] if run.quick else QUEUES[queue][2]
    return {named(queue, values): partial(rate, run, queue, jobs, values) for values in settings}


def rate(run: Run, queue: str, jobs: int, settings: dict[str, Any]) -> float:
    with run.server.database() as parameters:
        return fresh(run_queue, queue=queue, parameters=parameters, jobs=jobs, settings=settings)
