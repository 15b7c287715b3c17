"""How long it takes to get going."""

from __future__ import annotations

import importlib.util
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.fresh import ROOT, fresh
from tests.benchmarks.jobset import ids, number_of, work
from tests.benchmarks.run import Run
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row

IMPORTING = "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"
IMPORTS = {"import workerbee": 80, "from workerbee.postgresql import postgres_jobset": None}  # at most, ms
JOBS = 100


def time_first_job(parameters: Parameters) -> float:
    """Seconds from the call to the first job running, with a new jobset in a database that has had others."""
    starts = multiprocessing.RawArray("d", JOBS)

    def note(job_id: str, _data: object) -> None:
        starts[number_of(job_id)] = time.monotonic()

    begun = time.monotonic()
    work(parameters, note, jobset_id="bench_new", job_ids=ids(JOBS), processes=2)
    return min(starts) - begun


def import_seconds(statement: str) -> float:
    """In a new interpreter."""
    command = [sys.executable, "-c", IMPORTING.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def version_seconds() -> float:
    """Of the whole command."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "workerbee", "--version"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.monotonic() - begun


def rows(run: Run) -> Iterator[Row]:
    def first() -> float:
        with run.loaded(1_000) as parameters:
            return fresh(time_first_job, parameters=parameters)

    yield _row(run, f"from the call to the first job of {JOBS} new ones running, 2 bees", first, 150)
    for statement, target in IMPORTS.items():
        yield _row(run, f"`{statement}`", lambda statement=statement: import_seconds(statement), target)
    if importlib.util.find_spec("workerbee.__main__") is None:
        yield Row("starting", "`workerbee --version`", None, "ms", target=150, at_most=True, note="no such command")
    else:
        yield _row(run, "`workerbee --version`", version_seconds, 150)


def _row(run: Run, what: str, trial: Callable[[], float], target: float | None) -> Row:
    sample = run.measure({what: lambda: 1000 * trial()})[what]
    return Row("starting", what, sample, "ms", target=target, at_most=True)
