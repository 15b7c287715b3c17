"""A connection that cannot hang: what is not answered in time fails, as if the connection had broken."""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import POLL_OK, POLL_READ

ANSWER = 60.0  # seconds that a statement may take; the server gives up before that (sql/transactions.sql)
ENDLESS = 86400.0  # what libpq calls 0 or less


class Silence(psycopg2.OperationalError):
    """The server has not answered in time."""


class Cursor(psycopg2.extensions.cursor):
    """A cursor whose statement has been answered when `execute` returns."""

    connection: Link

    def execute(self, query: Any, values: Any = None) -> None:
        self.send(query, values)
        self.wait()

    def send(self, query: Any, values: Any) -> None:
        """Have the server begin; its answer is there after `wait`, and until then nothing else can be asked."""
        super().execute(query, values)

    def wait(self) -> None:
        self.connection.wait(ANSWER)


class Link(psycopg2.extensions.connection):
    """A connection in autocommit mode, without COPY; raises `Silence`. `dsn` has a connect_timeout.

    TCP's own timeouts notice a network that is gone. They do not notice a proxy, or a pooler, that still takes
    what we say and has nobody to pass it on to.
    """

    def __init__(self, dsn: str, **_: Any) -> None:
        super().__init__(dsn, async_=1)
        self.cursor_factory = Cursor
        self._answers: select.poll | None = None
        seconds = float(self.get_dsn_parameters()["connect_timeout"])
        self.wait(seconds if seconds > 0 else ENDLESS)
        # From now on the descriptor stays the same.
        self._answers = self._poll(select.POLLIN)

    def wait(self, seconds: float) -> None:
        """Wait until the server has answered."""
        deadline = time.monotonic() + seconds
        while (state := self.poll()) != POLL_OK:
            reads = state == POLL_READ
            poll = (reads and self._answers) or self._poll(select.POLLIN if reads else select.POLLOUT)
            if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                self.close()
                raise Silence(f"no answer within {seconds:.0f} s")

    def _poll(self, events: int) -> select.poll:
        # Not select(), which cannot wait for a descriptor above 1023.
        poll = select.poll()
        poll.register(self.fileno(), events)
        return poll
