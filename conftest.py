"""A real PostgreSQL for the whole run, a fresh database for each test, and scripts run as a user would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import psycopg2.extensions
import pytest

from tests.command import JOBS, WORKERBEE
from workerbee.address import resolve
from workerbee.board import Board
from workerbee.loading import set_up
from workerbee.session import Session
from workerbee.slot import Phase
from workerbee.store import Store

ADDRESS_VARIABLES = {
    "dbname": "PGDATABASE",
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
}


@pytest.fixture(scope="session")
def server() -> Iterator[dict[str, str]]:
    """libpq parameters of the server under test: WORKERBEE_TEST_DSN, or an embedded one of this run's own."""
    given = os.environ.get("WORKERBEE_TEST_DSN")
    if given:
        yield {key: str(value) for key, value in psycopg2.extensions.parse_dsn(given).items()}
        return
    from workerbee import embedded

    # Not below pytest's tmp_path, which is closed to the account that root's server runs under.
    home = Path(tempfile.mkdtemp(prefix="workerbee-tests-"))
    home.chmod(0o755)
    try:
        yield embedded.start(home)
    finally:
        # Its warden stops the server once this process is gone; the files can go before that.
        postmaster = home / "pg18" / "data" / "postmaster.pid"
        pid = int(postmaster.read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        psutil.wait_procs([process for process in psutil.process_iter() if process.pid == pid], timeout=30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def parameters(server: dict[str, str], request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """libpq parameters of a database that is this test's alone."""
    name = f"wb_test_{os.getpid()}_{abs(hash(request.node.nodeid)) % 10**9}"

    def ask(query: str, *values: Any) -> None:
        # Connected anew: a test may restart the server meanwhile.
        admin = psycopg2.connect(**server)
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute(query, values or None)
        admin.close()

    ask(f"CREATE DATABASE {name} TEMPLATE template0")
    yield {**server, "dbname": name}
    # Sessions that a killed process left are for the server to notice.
    ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    ask(f"DROP DATABASE {name}")


@pytest.fixture
def address(parameters: dict[str, str]) -> dict[str, Any]:
    """The same as arguments of `postgres_jobset`."""
    return {"database" if key == "dbname" else key: value for key, value in parameters.items()}


@pytest.fixture
def sql(parameters: dict[str, str]) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Ask the database over a connection that workerbee does not know: `sql("SELECT ...", value...)`."""
    connection = psycopg2.connect(**parameters)
    connection.autocommit = True

    def ask(query: str, *values: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    yield ask
    connection.close()


@pytest.fixture
def hive(address: dict[str, Any], parameters: dict[str, str]) -> Iterator[Callable[..., tuple[Board, Session]]]:
    """Set up so many jobs; the board of a node with one bee, and its session."""
    made: list[Board | Session] = []

    def make(jobs: int, kind: type[Session] = Session, patience: float = 0.0) -> tuple[Board, Session]:
        store = Store(psycopg2.connect(**parameters), "lone")
        set_up(store, map(str, range(jobs)), None, lambda _: None)
        board = Board(1)
        board.header.node = store.add_node("host", "machine", 1, 30)
        board.slots[0].move(Phase.ALIVE)
        store.close()
        session = kind(resolve(**address), "lone", "workerbee test bee", patience=patience)
        made.extend((board, session))
        return board, session

    yield make
    for one in made:
        one.close()


@pytest.fixture
def environ(parameters: dict[str, str]) -> dict[str, str]:
    """An environment in which the test's database is the one that libpq finds."""
    ours = {ADDRESS_VARIABLES[key]: value for key, value in parameters.items() if key in ADDRESS_VARIABLES}
    # What pytest sets, the size of its terminal included, is not a user's.
    foreign = ("PG", "PYTEST", "COLUMNS", "LINES")
    others = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**others, **ours, "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def script(environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a script with a user's environment: `script(code, *arguments)`; stderr goes into stdout.

    Whatever is left of it when the test ends is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        path = tmp_path / f"script{len(started)}.py"
        path.write_text(textwrap.dedent(code))
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            env={**environ, **more},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the module `myjobs`, for commands to run in."""
    (tmp_path / "myjobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
def start(environ: dict[str, str], folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `workerbee` with these arguments in that folder."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, stdin: int = subprocess.DEVNULL, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [WORKERBEE, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**environ, **more},
            text=True,
            errors="replace",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def command(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run it to its end: exit code, stdout, stderr."""

    def run(*arguments: str, input: str | None = None, **more: str) -> tuple[int, str, str]:
        process = start(*arguments, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, **more)
        out, err = process.communicate(input, timeout=100)
        return process.returncode, out, err

    return run
