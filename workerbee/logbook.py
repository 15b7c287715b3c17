"""A node's logbook in the database: how far it is, now and then, for whoever wants a rate or a history."""

from __future__ import annotations

import math
import time

from workerbee.board import Board
from workerbee.session import Session
from workerbee.slot import Phase

# Seconds between entries: a tenth of the node's age, so that short runs have a history and long ones a short one; and
# the longest when there is no news.
SHORTEST, LONGEST = 1.0, 30.0


class Logbook:
    """Written by the keeper of the node on `board`, when it is at work anyway."""

    def __init__(self, session: Session, board: Board) -> None:
        self._session = session
        self._board = board
        self._begun = time.monotonic()
        self._written = -math.inf
        self._last: dict[str, float | None] = {}

    def write_if_due(self) -> None:
        """Make an entry, if the last one is old enough."""
        now = time.monotonic()
        pause = LONGEST if self._entry() == self._last else (now - self._begun) / 10
        if now >= self._written + min(LONGEST, max(SHORTEST, pause)):
            self.write()

    def write(self) -> None:
        """Make an entry."""
        entry = self._entry()
        self._session.call(lambda store: store.run("add_progress", bare=False, **entry))
        self._last, self._written = entry, time.monotonic()

    def _entry(self) -> dict[str, float | None]:
        board = self._board
        return {
            "node": board.header.node,
            "bees": sum(slot.phase is Phase.ALIVE for slot in board.slots),
            "complete": board.completed,
            "failed": board.failed,
            "slowest": board.slowest or None,
        }
