"""A connection to the jobset that comes back after the database was away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2

from workerbee.address import Address, connect
from workerbee.errors import DatabaseError
from workerbee.store import Store

T = TypeVar("T")

LONGEST_PAUSE = 5.0


class Session:
    """A store that is connected anew when its connection breaks.

    `name` is what the server lists it as. `pause` is how to sleep, in seconds; it may raise to give up early.
    `patience` is how many seconds the database may be away; `outage` is told True with each try that fails, and
    False when there is a connection.
    """

    def __init__(
        self,
        address: Address,
        jobset_id: str,
        name: str,
        pause: Callable[[float], None],
        patience: float,
        outage: Callable[[bool], None] = lambda _away: None,
    ) -> None:
        self._address = address
        self._jobset_id = jobset_id
        self._name = name
        self._pause = pause
        self._patience = patience
        self._outage = outage
        self._store: Store | None = None
        self.since = 0.0  # when the connection was made, in monotonic seconds

    def call(self, step: Callable[[Store], T], again: Callable[[Store], T] | None = None) -> T:
        """What `step` returns. When its connection breaks, `again` (by default `step`) is called over a new one: it
        must be safe whether or not the first try was committed. Raises `DatabaseError` when the database stays
        away for longer than its patience."""
        deadline = time.monotonic() + self._patience
        longest = 0.1
        while True:
            try:
                if self._store is None:
                    self._store = Store(connect(self._address, self._name), self._jobset_id)
                    self.since = time.monotonic()
                    self._outage(False)
                return step(self._store)
            except psycopg2.Error as error:
                if not _gone(error):
                    raise
                self.close()
                step = again or step
                if time.monotonic() > deadline:
                    raise
            except DatabaseError:
                if time.monotonic() > deadline:
                    raise
            self._outage(True)
            # Jitter, so that a thousand bees do not come back in step.
            self._pause(random.uniform(0, longest))
            longest = min(2 * longest, LONGEST_PAUSE)

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        if self._store is not None:
            self._store.close()
            self._store = None


def _gone(error: psycopg2.Error) -> bool:
    # A connection that breaks in the middle of an answer is a plain DatabaseError, told by its having no code.
    return isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)) or error.pgcode is None
