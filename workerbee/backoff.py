"""Bees that cannot begin: how soon to try again, and when to stop trying."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from workerbee.board import Board
from workerbee.errors import NodeFailed
from workerbee.slot import Verdict
from workerbee.stopping import Stopping
from workerbee.text import ending

FIRST, LONGEST = 0.1, 30.0  # seconds
LIMIT = 5  # bees in a row that died before they claimed a job, with nothing completed on the node in between
NO_BEES = 60.0  # seconds without a single bee, since no process is to be had, or each is killed


class Backoff:
    """A bee that dies before it claims anything is the node's fault, no job is to blame: a wrong library, a function
    that cannot be loaded, no memory for one more process. When trying on is no use, the node gives up.
    """

    def __init__(self, board: Board, say: Callable[[str], None], stopping: Stopping) -> None:
        self._board = board
        self._say = say
        self._stopping = stopping
        self.until = [0.0] * len(board.slots)  # for each slot, the monotonic second before which it gets no bee
        self._in_a_row = [0] * len(board.slots)
        self._deaths = 0
        self._completed = 0
        self._bees_seen = time.monotonic()

    def ended(self, index: int, code: int | None = None) -> None:
        """The bee of a slot ended in order, or died with exit code `code`."""
        slot = self._board.slots[index]
        if code is None or slot.jobs or slot.hand.pos or slot.verdict is Verdict.ORDERED:
            self._in_a_row[index] = self._deaths = 0
            self._bees_seen = time.monotonic()
            return
        if code == -signal.SIGKILL and not slot.condemned and time.monotonic() - self._bees_seen < NO_BEES:
            # Somebody else's doing, which says nothing yet about whether bees can begin here.
            pause = self._put_off(index)
            self._say(f"bee {index} was killed before it claimed a job, next try in {pause:.1f} s")
            return
        completed = self._board.completed
        self._deaths = 1 if completed > self._completed else self._deaths + 1
        self._completed = completed
        reason = slot.read_reason() or slot.read_note() or ending(code)
        if self._deaths >= LIMIT:
            failure = f"{LIMIT} bees in a row died before they claimed a job; the last: {reason}"
            self._stopping.give_up(NodeFailed(failure))
        else:
            pause = self._put_off(index)
            self._say(f"bee {index} died before it claimed a job ({reason}), next try in {pause:.1f} s")

    def refused(self, index: int, error: OSError, bees: int) -> None:
        """No process, descriptor or memory was to be had for the bee of a slot; there are `bees` others."""
        now = time.monotonic()
        if bees:
            self._bees_seen = now
        pause = self._put_off(index)
        what = f"bee {index} cannot be started ({error.strerror or error})"
        if now - self._bees_seen > NO_BEES:
            self._stopping.give_up(NodeFailed(f"no bee could be started for {NO_BEES:.0f} s; the last try: {what}"))
        else:
            self._say(f"{what}, next try in {pause:.1f} s")

    def _put_off(self, index: int) -> float:
        # Per slot: others that complete jobs meanwhile keep the node going, and must not keep this slot spinning.
        pause: float = min(FIRST * 2 ** min(self._in_a_row[index], 10), LONGEST)
        self._in_a_row[index] += 1
        self.until[index] = time.monotonic() + pause
        return pause
