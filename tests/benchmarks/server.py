"""A PostgreSQL of the run's own, as durable as workerbee's users have it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2

from tests.helpers import alive, wait_until
from workerbee import cluster, embedded

Parameters = dict[str, str]


class Server:
    """An embedded server in a temporary folder, with the settings that it gives every user."""

    def __init__(self) -> None:
        # Root's server runs as somebody else, who has to get there.
        self.home = Path(tempfile.mkdtemp(prefix="workerbee-benchmarks-"))
        self.home.chmod(0o755)
        self.parameters: Parameters = embedded.start(self.home)
        self._numbers = count()
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert self.setting(setting) == "on", setting

    @property
    def psql(self) -> Path:
        """The program."""
        return cluster.find_programs(self.home / "pg18", cluster.find_package()) / "psql"

    def setting(self, name: str) -> str:
        return str(self.ask(f"SHOW {name}")[0][0])

    def ask(self, query: str, *values: object, database: str = cluster.DATABASE) -> list[tuple[Any, ...]]:
        """The rows that `query` yields, over a connection of its own."""
        connection = psycopg2.connect(**{**self.parameters, "dbname": database})
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def create_database(self, template: str = "template0") -> Parameters:
        """A copy of `template`. Its files are copied between two checkpoints, so that all trials begin alike."""
        name = f"bench_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return {**self.parameters, "dbname": name}

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[Parameters]:
        """A copy of `template` for one trial."""
        parameters = self.create_database(template)
        try:
            yield parameters
        finally:
            self.ask(f"DROP DATABASE {parameters['dbname']} WITH (FORCE)")

    def stop(self) -> None:
        """Stop it, and remove all that it stored."""
        postmaster = int((self.home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGINT)
        wait_until(lambda: not alive(postmaster), "the server to stop")
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for as long as it is needed."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()
