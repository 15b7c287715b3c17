"""What a job that does nothing has the server write and keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import JOBSET, run_noops
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.table import Row

TABLES = {
    name: f"wb{suffix}__{JOBSET}" for name, suffix in (("jobs", ""), ("ranges", "_ranges"), ("claims", "_claims"))
}
PAGES = "SELECT wal_fpi::float8 FROM pg_stat_wal"
POSITION = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"
UPDATES = "SELECT n_dead_tup, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s"
SIZE = "SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)"


def look(run: Run, jobs: int) -> dict[str, float]:
    """All that is of interest about the server before and after no-op jobs, by the name and unit of its row."""
    with run.loaded(jobs) as parameters:

        def ask(query: str, *values: object) -> tuple[Any, ...]:
            return run.server.ask(query, *values, database=parameters["dbname"])[0]

        tables = {name: ask(SIZE, table, table) for name, table in TABLES.items()}
        (begun,), (pages,) = ask(POSITION), ask(PAGES)
        fresh(run_noops, parameters=parameters, bees=2)
        (ended,), (more_pages,) = ask(POSITION), ask(PAGES)
        found = {
            "WAL written, bytes/job": (ended - begun) / jobs,
            "of it whole pages, pages/1000 jobs": 1000 * (more_pages - pages) / jobs,
            "table of jobs when loaded, bytes/job": tables["jobs"][0] / jobs,
            "its indexes, bytes/job": tables["jobs"][1] / jobs,
        }
        for name, table in TABLES.items():
            dead, updates, hot = ask(UPDATES, table)
            found[f"dead rows left in the table of {name}, rows/job"] = dead / jobs
            found[f"updates of {name} that are HOT, %"] = 100 * hot / updates if updates else 100.0
            found[f"growth of the table of {name} with its indexes, bytes/job"] = (
                sum(ask(SIZE, table, table)) - sum(tables[name])
            ) / jobs
        return found


def rows(run: Run) -> Iterator[Row]:
    jobs = run.jobs(1_000_000)
    found: list[dict[str, float]] = []

    def trial() -> float:
        found.append(look(run, jobs))
        return found[-1]["WAL written, bytes/job"]

    run.measure({f"WAL per no-op job, 2 bees, {jobs:,} jobs, after a checkpoint": trial})
    for name in found[0]:
        what, _, unit = name.rpartition(", ")
        yield Row("wal", f"{what}, {jobs:,} no-op jobs", Sample(values[name] for values in found), unit)
