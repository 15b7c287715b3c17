"""What else people use: pools in memory, and PostgreSQL queues. Each in the setting that is best for it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import pools, queues
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.table import Row


def best_queue(run: Run, queue: str) -> tuple[str, Sample]:
    """Its fastest setting, and the jobs a second there."""
    return max(run.measure(queues.trials(run, queue)).items(), key=lambda item: item[1].median)


def rows(run: Run) -> Iterator[Row]:
    for pool in pools.POOLS:
        if not pools.installed(pool):
            yield Row("peers", pool, None, "jobs/s", note="not installed")
            continue
        for chunksize in (1, 1000):
            for name, sample in run.measure(pools.trial(run, pool, chunksize)).items():
                yield Row("peers", f"{name}, nothing durable", sample, "jobs/s")
    for queue in queues.QUEUES:
        if not queues.installed(queue):
            yield Row("peers", queue, None, "jobs/s", note="not installed")
            continue
        for name, sample in run.measure(queues.trials(run, queue)).items():
            yield Row("peers", name, sample, "jobs/s")
