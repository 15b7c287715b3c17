"""The run's own PostgreSQL, which it may restart in any way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psycopg2

from tests.helpers import alive, wait_until
from workerbee import embedded


class Server:
    """An embedded server in `home`; stopped by its warden when this process has ended, however it ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.parameters = embedded.start(home)

    @property
    def folder(self) -> Path:
        """Where its socket is."""
        return Path(self.parameters["host"])

    def connect(self, name: str) -> Any:
        """A connection in autocommit mode, by a `name` that tells it from workerbee's."""
        connection = psycopg2.connect(**self.parameters, application_name=f"chaos {name}", connect_timeout=5)
        connection.autocommit = True
        return connection

    def restart(self, number: signal.Signals) -> None:
        """Stop it by SIGINT, fast, or SIGQUIT, as after a power failure; and start it again."""
        self.stop(number)
        embedded.start(self._home)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        postmaster = int((self._home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, number)
        wait_until(lambda: not alive(postmaster), "the server to stop")
