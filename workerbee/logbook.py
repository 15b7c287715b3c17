"""A node's logbook in the database: how far it is, now and then, for whoever wants a rate or a history."""

from __future__ import annotations

import time

from workerbee.board import Board
from workerbee.session import Session
from workerbee.slot import Phase

# Seconds between entries: a tenth of the node's age, so that short runs have a history and long ones a short one.
SHORTEST, LONGEST = 1.0, 30.0


class Logbook:
    """Written by the keeper of the node on `board`, when it is at work anyway."""

    def __init__(self, session: Session, board: Board) -> None:
        self._session = session
        self._board = board
        self._begun = time.monotonic()
        self._due = 0.0

    def write_if_due(self) -> None:
        """Make an entry, if the last one is old enough."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + min(LONGEST, max(SHORTEST, (now - self._begun) / 10))
            self.write()

    def write(self) -> None:
        """Make an entry."""
        board = self._board
        self._session.call(
            lambda store: store.run(
                "add_progress",
                node=board.header.node,
                bees=sum(slot.phase is Phase.ALIVE for slot in board.slots),
                complete=board.completed,
                failed=board.failed,
                slowest=board.slowest or None,
            )
        )
