"""How fast a jobset is set up from a generator, and what that takes of the launcher's memory."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2

from tests.benchmarks.fresh import fresh
from tests.benchmarks.jobset import JOBSET, ids, load
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.server import Parameters
from tests.benchmarks.table import Row
from workerbee.loading import set_up
from workerbee.store import Store

DEALING = {"create_staging", "copy_staging"}


def measure_loading(parameters: Parameters, jobs: int) -> tuple[float, float]:
    """Seconds, and by how many MB the most memory that this process had at a time has grown."""
    psycopg2.connect(**parameters).close()  # what the driver loads is not counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_megabytes()
    begun = time.monotonic()
    load(parameters, jobs)
    return time.monotonic() - begun, peak_megabytes() - before


def peak_megabytes() -> float:
    """The most memory that this process has had resident. getrusage would count its parent's, from before exec."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


class Recorder(Store):
    """A store that keeps a list of what it ran: the names of queries, and their text for a jobset of `total` jobs."""

    def __init__(self, connection: Any, jobset_id: str, total: int) -> None:
        super().__init__(connection, jobset_id)
        self.steps: list[tuple[str, str]] = []
        self._jobs = total

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._note(self._begin)  # which goes with the first statement
        with super().transaction():
            yield

    def run(self, name: str, **values: Any) -> list[tuple[Any, ...]]:
        self._note(name, **values)
        return super().run(name, **values)

    def _note(self, name: str, **values: Any) -> None:
        shown = {**values, "jobset_id": self.jobset_id, **({"total": self._jobs} if "total" in values else {})}
        with self.connection.cursor() as cursor:
            text = cursor.mogrify(self._queries[name], shown).decode()
        self.steps.append((name, text.rstrip("; \n") + ";"))

    def copy(self, name: str, file: Any) -> None:
        self.steps.append((name, self._queries[name]))
        super().copy(name, file)


def steps(run: Run, jobs: int) -> list[tuple[str, str]]:
    """All that workerbee has the server do for a new jobset, noted down from a small one."""
    with run.server.database() as parameters:
        store = Recorder(psycopg2.connect(**parameters), JOBSET, jobs)
        try:
            set_up(store, ids(1), None, lambda _line: None)
        finally:
            store.close()
        return store.steps


def copying(statement: str, file: Path) -> str:
    """psql's way of the server's COPY ... FROM STDIN."""
    return "\\" + " ".join(statement.split()).rstrip(";").replace("FROM STDIN", f"FROM '{file}'")


def script_of(recorded: list[tuple[str, str]], file: Path) -> str:
    """For psql: the same steps, with the ids from `file`."""
    return "\n".join(copying(text, file) if name == "copy_staging" else text for name, text in recorded)


def script_without_dealing(recorded: list[tuple[str, str]], file: Path) -> str:
    """For psql: the same tables and indexes, from a `file` that has each job's position already."""
    lines = []
    for name, text in recorded:
        if name == "deal_jobs":
            lines.append(copying(f"COPY wb__{JOBSET} (pos, job_id) FROM STDIN", file))
        elif name not in DEALING:
            lines.append(text)
    return "\n".join(lines)


def run_psql(run: Run, script: str) -> float:
    """Seconds that psql takes for the script."""
    with run.server.database() as parameters, tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        options = [f"--{name}={parameters[name]}" for name in ("host", "port", "dbname")]
        options += [f"--username={parameters['user']}", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
        begun = time.monotonic()
        command = [run.server.psql, *options, f"--file={file.name}", "--output=/dev/null"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return time.monotonic() - begun


def rows(run: Run) -> Iterator[Row]:
    jobs = run.size(1_000_000, 5_000)
    grown: dict[int, list[float]] = {}

    def trial(jobs: int) -> float:
        with run.server.database() as parameters:
            seconds, megabytes = fresh(measure_loading, parameters=parameters, jobs=jobs)
        grown.setdefault(jobs, []).append(megabytes)
        return jobs / seconds

    recorded = steps(run, jobs)
    with tempfile.TemporaryDirectory() as folder:
        plain, dealt = Path(folder) / "ids", Path(folder) / "dealt"
        plain.write_text("".join(f"{job_id}\t\\N\n" for job_id in ids(jobs)))
        dealt.write_text("".join(f"{pos}\t{job_id}\n" for pos, job_id in enumerate(ids(jobs), 1)))
        ours = f"loading {jobs:,} ids from a generator"
        same = f"psql with the same statements, {jobs:,} ids from a file"
        less = f"psql with the same tables, {jobs:,} ids from a file that has their places"
        samples = run.measure(
            {
                ours: partial(trial, jobs),
                same: lambda: jobs / run_psql(run, script_of(recorded, plain)),
                less: lambda: jobs / run_psql(run, script_without_dealing(recorded, dealt)),
            }
        )
    yield Row("loading", ours, samples[ours], "jobs/s", same, samples[same], 0.7)
    yield Row("loading", ours, samples[ours], "jobs/s", less, samples[less])
    many = run.size(10_000_000, 50_000)
    run.measure({f"loading {many:,} ids from a generator": partial(trial, many)})
    for number, megabytes in grown.items():
        what = f"the launcher grows, loading {number:,} ids"
        yield Row("loading", what, Sample(megabytes), "MB", target=30, at_most=True)
