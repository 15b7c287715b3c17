"""That a node is to end before its jobset does: by when, and whether that is a failure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from workerbee.board import Board
from workerbee.errors import WorkerbeeError


class Stopping:
    """What all who may end a node share. Bees claim no more from then on; `deadline` is the monotonic second at which
    running jobs are given back, `grace` seconds later unless somebody says otherwise.

    `failure` is the error when the node gave up, and `say` tells people of other reasons, the first of which is `why`.
    """

    def __init__(self, board: Board, grace: float, say: Callable[[str], None]) -> None:
        self._header = board.header
        self.grace = grace
        self._say = say
        self.deadline = math.inf
        self.failure: WorkerbeeError | None = None
        self.why = ""

    def stop(self, why: str, grace: float | None = None) -> None:
        """Let the node end in order."""
        self._end(grace)
        self.why = self.why or why
        self._say(why)

    def give_up(self, failure: WorkerbeeError, grace: float | None = None) -> None:
        """Let the node end since going on is no use; of several failures the first stays."""
        self.failure = self.failure or failure
        self._end(grace)

    def hurry(self, deadline: float) -> None:
        """Give running jobs back at that monotonic second, if they were to have more time."""
        self.deadline = min(self.deadline, deadline)

    def _end(self, grace: float | None) -> None:
        self._header.stop = 1
        self.hurry(time.monotonic() + (self.grace if grace is None else grace))
