"""How many jobs a bee claims at once."""

from __future__ import annotations

from workerbee.board import Board
from workerbee.slot import BATCH

SPAN = 0.05  # seconds that the jobs of a claim should take together


class Portion:
    """The size of the next claim of the bee in slot `index`: `fixed`, or what fits into the span, judged by how long
    jobs have been taking; never so much that the bee would run more than `most_jobs` in its life."""

    def __init__(self, board: Board, index: int, fixed: int | None, most_jobs: int | None) -> None:
        self._header = board.header
        self._slot = board.slots[index]
        self._bees = len(board.slots)
        self._fixed = fixed
        self._most_jobs = most_jobs
        self._size = 1

    def next(self) -> int:
        """Neither twice what went well before, nor more than half of an even share of what is left."""
        if self._fixed is not None:
            self._size = self._fixed
        else:
            share = self._header.offered // (2 * self._bees * (1 + self._header.others))
            usual = self._slot.usual
            self._size = max(1, min(2 * self._size, share, int(SPAN / usual) if usual else 1, BATCH))
        return self._size if self._most_jobs is None else min(self._size, self._most_jobs - self._slot.jobs)

    def shrink(self) -> None:
        """The last claim came so late that its jobs could not all be started: a single one next."""
        self._size = 0
