"""A node that fails everything must not eat the attempts of the whole jobset: its bees pause."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from workerbee.board import Board

FEW = 10  # jobs in a row whose first attempt fails, on a node whose jobs have been completing
FIRST, LONGEST = 1.0, 60.0  # seconds


class Probation:
    """Holds all bees of a node back when jobs fail in a row and none completes, for pauses that double.

    What is counted is first attempts: those who failed before, come last, all together, and fail again. Where most
    jobs fail by their own fault, a row is longer before it says anything about the node.
    """

    def __init__(self, board: Board, say: Callable[[str], None]) -> None:
        self._board = board
        self._say = say
        self._completed = 0
        self._strikes_before = 0  # when the row began
        self._paused_at = 0  # strikes at the last pause
        self._pause = FIRST

    def look(self) -> float:
        """Hold the bees back, or let them go; the monotonic second to look again."""
        completed, strikes = self._board.completed, self._board.strikes
        if completed > self._completed:
            self._completed = completed
            self._strikes_before = self._paused_at = strikes
            self._pause = FIRST
            self._board.header.hold = 0.0
        # A row of n means the same where one in s completes as a row of n / s does where all complete.
        few = FEW * (completed + self._strikes_before + 1) / (completed + 1)
        if strikes - self._paused_at >= few:
            self._paused_at = strikes
            self._board.header.hold = time.monotonic() + self._pause
            row = strikes - self._strikes_before
            self._say(f"{row} jobs in a row failed here and none completed: bees pause for {self._pause:g} s")
            self._pause = min(2 * self._pause, LONGEST)
        return math.inf  # whoever charges or completes a job wakes the supervisor
