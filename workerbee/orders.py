"""That a node is told to end from outside, through the database."""

from __future__ import annotations

import math
import time

from workerbee.board import Board, Order
from workerbee.stopping import Stopping


class Orders:
    """Has the node end when the keeper has found an order to: a drain lets running jobs take what time they need."""

    def __init__(self, board: Board, stopping: Stopping) -> None:
        self._header = board.header
        self._stopping = stopping
        self._obeyed = Order.NONE

    def look(self) -> float:
        """Stop if it is time to; the monotonic second to look again."""
        order = Order(self._header.order)
        if order <= self._obeyed:
            return math.inf  # the keeper wakes the supervisor
        self._obeyed = order
        if order is Order.NOW:
            self._stopping.stop("told to end at once, from outside: running jobs are given back", 0.0)
        else:
            self._stopping.stop("told to end, from outside: no new claims, running jobs may finish", math.inf)
        return time.monotonic()
