"""A connection to the jobset that comes back after the database was away."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2
import psycopg2.extensions

from workerbee.address import Address, link, refusal, said
from workerbee.errors import DatabaseError
from workerbee.store import Store

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
CONFLICT_PATIENCE = 5.0  # seconds that others may be in our way before that is an outage

# What the server says when it cannot do for now what it could do before: SQLSTATEs, or the beginnings of them.
AWAY = (
    "08",  # the connection
    "25006",  # read-only: on purpose, or a standby
    "25P03",  # an administrator's limit on idle transactions,
    "25P04",  # and on all of them
    "53",  # no room: on the disk, in memory, for connections
    "54000",  # no transaction ids are left until somebody vacuums
    "57",  # shut down, starting up, crashed, and what administrators cancel
    "58",  # the server's own files
)
# Others were in our way, or an administrator's limit: the connection is as good as before.
CONFLICT = ("40", "55P03", "55006", "57014")
# Somebody who connects is told nothing but words: these, when there is a server and no place for us. In another
# language they are not understood, and a starter fails at once.
BUSY = re.compile(
    "too many (clients|connections)|remaining connection slots|no more connections allowed"
    "|database system is (starting up|shutting down|in recovery mode|not (yet )?accepting connections)"
)
# What is heard of a server that is shutting down, but also of what is no PostgreSQL at all; and, when there was one a
# moment ago, of one that starts again. A starter soon stops believing it.
CUT = re.compile("closed the connection unexpectedly|terminating connection")
GONE = re.compile("Connection refused|No such file or directory")
CUT_PATIENCE = 10.0  # seconds


class Away(Exception):  # noqa: N818 - it is no error yet
    """The database is away, for now; or, with `conflict`, busy with others. `asked`: it may have heard us."""

    def __init__(self, words: str, *, asked: bool = True, conflict: bool = False) -> None:
        super().__init__(words)
        self.asked = asked
        self.conflict = conflict


class Session:
    """A store that is connected anew when its connection breaks.

    `name` is what the server lists it as. `pause` is how to sleep, in seconds; it may raise to give up early.
    `patience` is how many seconds the database may be away; `outage` is told why with each try that fails, and
    "" when the database is back. `connect` makes the connections. With `starting`, nobody has seen this database
    work yet: one that cannot be connected to raises at once, unless it is only busy.
    """

    def __init__(
        self,
        address: Address,
        jobset_id: str,
        name: str,
        pause: Callable[[float], None] = time.sleep,
        *,
        patience: float,
        outage: Callable[[str], None] = lambda _why: None,
        connect: Callable[[Address, str], psycopg2.extensions.connection] = link,
        starting: bool = False,
    ) -> None:
        self._address = address
        self._jobset_id = jobset_id
        self._name = name
        self._pause = pause
        self._patience = patience
        self._outage = outage
        self._make = connect
        self._starting = starting
        self._met = False  # a starter has heard that there is a server
        self._cut = 0.0  # since when it has been cut off from it, in monotonic seconds
        self._store: Store | None = None
        self._away = True  # for all that others were told
        self.since = 0.0  # when the connection was made, in monotonic seconds

    def call(self, step: Callable[[Store], T], again: Callable[[Store], T] | None = None) -> T:
        """What `step` returns. When the database goes away meanwhile, `again` (by default `step`) is called once it
        is back: it must be safe whether or not the first try was committed. Raises `DatabaseError` when the database
        stays away for longer than its patience, or refuses what no waiting will change; `OSError` when it is this
        process that can open no socket."""
        begun = time.monotonic()
        longest = FIRST_PAUSE
        while True:
            try:
                result = self._try(step)
            except Away as away:
                waited = time.monotonic() - begun
                if waited > self._patience:
                    raise DatabaseError(str(away)) from None
                if not away.conflict or waited > CONFLICT_PATIENCE:
                    self._away = True
                    self._outage(str(away))
                if away.asked:
                    step = again or step
            else:
                if self._away:
                    self._away = False
                    self._outage("")
                return result
            # Jitter, so that a thousand bees do not come back in step.
            self._pause(random.uniform(0, longest))
            longest = min(2 * longest, LONGEST_PAUSE)

    def ask(self, question: Callable[[Store], None]) -> bool:
        """Let `question` send what the next `call` reads the answer to; whether that could be sent."""
        try:
            self._try(question)
        except Away:
            return False
        return True

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _try(self, step: Callable[[Store], T]) -> T:
        try:
            if self._store is None:
                self._store = self._connect()
            return step(self._store)
        except psycopg2.Error as error:
            code = error.pgcode or ""
            if code.startswith(CONFLICT):
                raise Away(f"{self._address}: {said(error)}", conflict=True) from None
            self.close()
            # A connection that breaks has no code; neither has a mistake of ours.
            if code.startswith(AWAY) or (not code and not isinstance(error, psycopg2.ProgrammingError)):
                raise Away(f"{self._address}: {said(error)}") from None
            raise refusal(error, self._address) from None
        except BaseException:
            # In the middle of anything, perhaps.
            self.close()
            raise

    def _connect(self) -> Store:
        try:
            connection = self._make(self._address, self._name)
        except DatabaseError as error:
            if self._starting and not self._is_worth_waiting(str(error)):
                raise
            # With no descriptor left in this process, this raises, too: then it is not the database that is away.
            socket.socket(socket.AF_UNIX).close()
            raise Away(str(error), asked=False) from None
        self._starting = False
        self.since = time.monotonic()
        return Store(connection, self._jobset_id)

    def _is_worth_waiting(self, words: str) -> bool:
        if BUSY.search(words):
            self._met, self._cut = True, 0.0
            return True
        self._cut = self._cut or time.monotonic()
        is_cut = CUT.search(words) or (self._met and GONE.search(words))
        return bool(is_cut) and time.monotonic() - self._cut < CUT_PATIENCE
