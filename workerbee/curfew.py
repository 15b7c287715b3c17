"""When a node ends before its jobset does: its time is over, or too many jobs have failed."""

from __future__ import annotations

import math
import time

from workerbee.board import Board
from workerbee.stopping import Stopping


def settling(seconds: float) -> float:
    """Of `seconds` that a node has, those to keep for giving claims back."""
    return min(2.0, seconds / 10)


class Curfew:
    """Has the node ended by the monotonic second `until`: no new claims when jobs have been taking longer than the
    time that is left, and what still runs shortly before its end is given back.
    """

    def __init__(self, board: Board, until: float, stopping: Stopping) -> None:
        self._board = board
        self._stopping = stopping
        self._end = until - settling(until - time.monotonic())

    def look(self) -> float:
        """Stop if it is time to; the monotonic second to look again."""
        if self._board.header.stop:
            # Whoever ended the node may have given it more time than it has.
            self._stopping.hurry(self._end)
            return math.inf
        left = self._end - time.monotonic()
        usual = self._board.usual
        if left > usual:
            # Jobs may take longer by then.
            return time.monotonic() + max((left - usual) / 2, 0.05)
        why = f"{max(0.0, left):.1f} s are left, and jobs have been taking {usual:.1f} s"
        self._stopping.stop(f"the time is nearly over ({why}): no new claims", max(0.0, left))
        return time.monotonic()


class FailureLimit:
    """Has the node stop when `most` jobs of the jobset are FAILED, or if that is a float, such a share of them."""

    def __init__(self, board: Board, most: int | float, stopping: Stopping) -> None:
        self._header = board.header
        self._most = most
        self._stopping = stopping

    def look(self) -> float:
        """Let bees know the limit, and stop if it is reached; the monotonic second to look again."""
        header = self._header
        header.most_failed = most = self._limit(header.total)
        failed = header.enough or header.failed
        is_enough = header.enough or 0 < most <= failed
        if is_enough and not (self._stopping.why or self._stopping.failure):
            self._stopping.stop(f"{failed} jobs are FAILED, max_failures is {most}: no new claims")
        return math.inf  # whoever changes a count wakes the supervisor

    def _limit(self, total: int) -> int:
        # Rounded, since 7 % of 100 would be 7.000000000000001.
        return self._most if isinstance(self._most, int) else max(1, math.ceil(round(total * self._most, 6)))
