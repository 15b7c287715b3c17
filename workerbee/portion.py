"""How many jobs a bee claims at once."""

from __future__ import annotations

from time import monotonic

from workerbee.board import Board
from workerbee.hand import BATCH
from workerbee.job import Claim

SPAN = 0.05  # seconds that the jobs of a claim should take together

# The next claim is made ahead, while the jobs of this one run, if these usually take no longer than so many seconds: of
# long ones a bee holds no second, and what waits must start while it is fresh (bee.FRESH).
SHORT = 0.5
# Nobody may hold jobs ahead while another has none, and what is pending may have been counted a second ago. So there
# must be work for twice so many seconds.
PLENTY = 0.6
MANY = 512  # jobs of a claim that is large enough to be worth a wait
SOBER = 10.0  # seconds for which nothing is claimed ahead after that was in vain
YOUNG = 1.0  # and in a bee's life: while its node starts there is no processor to spare, and it may not live long


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
        self._sober_until = monotonic() + YOUNG

    def next(self) -> int:
        """Neither twice what went well before, nor more than half of an even share of what is left."""
        if self._fixed is not None:
            self._size = self._fixed
        else:
            usual = self._slot.usual
            self._size = max(1, min(2 * self._size, self._share(), int(SPAN / usual) if usual else 1, BATCH))
        return self._size if self._most_jobs is None else min(self._size, self._most_jobs - self._slot.jobs)

    def is_ahead(self, held: Claim) -> bool:
        """Whether another claim is to be made while the jobs of `held` run."""
        return (
            0 < len(held.jobs) <= MANY
            and self._fixed is None
            and self._most_jobs is None
            and 0 < self._slot.usual <= SHORT
            and self._share() * self._slot.mean > PLENTY
            and monotonic() > self._sober_until
        )

    def shrink(self) -> None:
        """The last claim came so late that its jobs could not all be started: a single one next."""
        self._size = 0

    def sober_up(self) -> None:
        """Nothing came of claiming ahead, or too late."""
        self._sober_until = monotonic() + SOBER

    def _share(self) -> int:
        return int(self._header.offered // (2 * self._bees * (1 + self._header.others)))
