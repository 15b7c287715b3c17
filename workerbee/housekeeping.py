"""The supervisor's side of the keeper: that there is one, that it works, and what it says of the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from workerbee.board import Board
from workerbee.brood import Brood
from workerbee.child import Child
from workerbee.errors import DatabaseError, NodeFailed
from workerbee.stopping import Stopping
from workerbee.text import ending

KEEPERS = 5  # in a row that may die before they have done anything
AGAIN = 1.0  # seconds before the next try when no process can be made
SILENCE = 5.0  # seconds that a keeper may do nothing at least, since a machine may be slow
BEGINNING = 120.0  # seconds that one may take to begin: a spawned one imports, from a busy file server


class Housekeeping:
    """Keeps a keeper in `brood`, started by `start()`; when that is no use, the node gives up.

    A keeper that does nothing for half the `lease` while the database is there is replaced. `patience` is how long
    the database may be away. Both are seconds.
    """

    def __init__(
        self,
        board: Board,
        brood: Brood,
        start: Callable[[], Child],
        say: Callable[[str], None],
        stopping: Stopping,
        patience: float,
        lease: float,
    ) -> None:
        self._header = board.header
        self._brood = brood
        self._start = start
        self._say = say
        self._stopping = stopping
        self._patience = patience
        self._silence = max(lease / 2, SILENCE)
        self._away = False
        self._lost = 0
        self._started = 0.0
        self._ended = False  # by us
        self._next_try = 0.0

    def reap(self) -> None:
        """Let go of a keeper that has ended."""
        keeper = self._brood.keeper
        if keeper is None or (code := keeper.poll()) is None:
            return
        self._brood.drop_keeper()
        if self._header.closing or self._header.refused:
            return
        self._lost = 0 if self._ended or self._header.counted > self._started else self._lost + 1
        if self._lost >= KEEPERS:
            why = f"{KEEPERS} keepers in a row died before they had done anything; the last: {ending(code)}"
            self._stopping.give_up(NodeFailed(why), grace=0)
        else:
            self._say(f"the keeper died ({ending(code)}), started again")

    def look(self) -> float:
        """See that there is a keeper at work, unless the node has given up; the monotonic second to look again."""
        now = time.monotonic()
        self._mind_outage(now)
        keeper = self._brood.keeper
        if self._header.refused:
            self._stopping.give_up(DatabaseError(self._header.read_why()))
        if keeper is None and self._stopping.failure is None:
            # Also while the node stops: claims go back through it, and nobody else empties a dead bee's slot.
            return self._try_to_start(now)
        if keeper and now > self._limit() and not self._header.away:
            # Stopped, or waiting for an answer that will not come: another one beats before the lease is over. Until
            # it has an answer the database is away, as far as we know: or it would have no time to find that out.
            self._header.write_why("no answer")
            self._header.away = self._header.seen
            self._header.seen = now
            self._ended = True
            keeper.kill()
        return now + self._silence / 4

    def _limit(self) -> float:
        """The monotonic second by which the keeper must have done something more."""
        if self._header.seen < self._started:
            return self._started + max(self._silence, BEGINNING)
        return self._header.seen + self._silence

    def _try_to_start(self, now: float) -> float:
        if now < self._next_try:
            return self._next_try
        try:
            self._brood.add_keeper(self._start())
            self._started = now
            self._ended = False
        except OSError as error:  # no process or descriptor is to be had
            self._next_try = now + AGAIN
            self._say(f"the keeper cannot be started ({error.strerror or error}), next try in {AGAIN:g} s")
        return now + AGAIN

    def _mind_outage(self, now: float) -> None:
        away, why = self._header.away, self._header.read_why()
        if bool(away) != self._away:
            self._away = bool(away)
            what = f"is away ({why}): jobs run on, and their outcomes are kept" if away else "is back"
            self._say(f"the database {what}")
        if away and now - away > self._patience:
            self._stopping.give_up(NodeFailed(f"the database has been away for {self._patience:.0f} s: {why}"))
