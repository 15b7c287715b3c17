"""What a job may not take more of: guards that look at the bees and condemn those that go beyond a limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from workerbee import memory
from workerbee.board import Board
from workerbee.brood import Brood
from workerbee.child import Child
from workerbee.memory import Gauge
from workerbee.slot import Phase, Verdict
from workerbee.text import bytes_shown

WRITING = 0.02  # seconds between looks at whether a stack has been written
WRITTEN = 1.0  # a process that has written none by then will write none
FILL = 4e9  # bytes a second: faster than bees fill memory
SHORTEST, LONGEST = 0.05, 1.0  # seconds between looks at the memory
RELIEF = 5.0  # seconds after which one bee more may run, once memory is not short any more
EASE = 0.75  # of the allowed memory: not short below


class TimeGuard:
    """Condemns bees whose job runs for longer than `limit` seconds, after having them write down where they are."""

    def __init__(self, board: Board, brood: Brood, limit: float) -> None:
        self._board = board
        self._brood = brood
        self._limit = limit
        self._asked: dict[int, tuple[float, float]] = {}  # per slot: when the job began, and when it was asked
        self._sizes: dict[int, int] = {}

    def look(self) -> float:
        """Condemn who is over the limit; the monotonic second to look again."""
        running = [
            index
            for index, slot in enumerate(self._board.slots)
            if slot.phase is Phase.ALIVE and slot.is_running and not slot.raised
        ]
        return min(map(self._look_at, running), default=math.inf)

    def _look_at(self, index: int) -> float:
        slot, now = self._board.slots[index], time.monotonic()
        # Once: the bee may go on to another job meanwhile, which is not to blame.
        begun = slot.started
        end = begun + self._limit
        if now < end:
            return end
        started, asked = self._asked.get(index, (0.0, 0.0))
        if started != begun:
            self._asked[index] = begun, now
            self._sizes[index] = 0
            # Before: the question may end what the job waits for, and it would return as if all were well.
            slot.condemn(Verdict.TIMEOUT, begun, f"ran for longer than {self._limit:g} s (job_timeout)")
            self._brood.bees[index].ask_for_stack()
        elif self._is_written(index) or now > asked + WRITTEN:
            self._brood.bees[index].kill()
            return math.inf
        return now + WRITING

    def _is_written(self, index: int) -> bool:
        before, self._sizes[index] = self._sizes[index], self._board.stacks[index].size()
        return 0 < before == self._sizes[index]


class MemoryGuard:
    """Condemns bees that use more than `limit` bytes, and the fattest one when one of the `gauges` is full.

    While memory is short, no more than `crowd` bees should run.
    """

    def __init__(
        self, board: Board, brood: Brood, limit: int | None, gauges: Sequence[Gauge], say: Callable[[str], None]
    ) -> None:
        self._board = board
        self._brood = brood
        self._limit = limit
        self._gauges = gauges
        self._say = say
        self._due = 0.0
        self._relief = 0.0
        self._condemned: set[tuple[int, Child]] = set()  # which may not be gone yet
        self.crowd = len(board.slots)

    def look(self) -> float:
        """Condemn who must go; the monotonic second to look again."""
        begun = time.monotonic()
        if begun >= self._due:
            self._condemned &= self._brood.bees.items()
            room = min(self._look_at_each(), self._look_at_all())
            now = time.monotonic()
            # Near a limit more often, but never for more than a twentieth of the time.
            self._due = now + max(min(room / FILL, LONGEST), SHORTEST, 20 * (now - begun))
        return self._due

    def _look_at_each(self) -> float:
        if self._limit is None:
            return math.inf
        most = 0
        for index in self._brood.bees:
            started = self._board.slots[index].started
            used = self._used_by(index, self._limit)
            most = max(most, used)
            if used > self._limit:
                reason = f"its bee used {bytes_shown(used)}, more than the {bytes_shown(self._limit)} of memory_limit"
                self._end(index, Verdict.MEMORY, started, reason)
        return max(0.0, self._limit - most)

    def _look_at_all(self) -> float:
        least = math.inf
        for gauge in self._gauges:
            used = gauge.used()
            if used > gauge.allowed and not self._condemned:
                self._make_room(gauge, used)
            least = min(least, gauge.allowed - used)
            if used > EASE * gauge.allowed:
                self._relief = time.monotonic() + RELIEF
        if self.crowd < len(self._board.slots) and time.monotonic() > self._relief:
            self.crowd += 1
            self._relief = time.monotonic() + RELIEF
        return max(0.0, least)

    def _make_room(self, gauge: Gauge, used: int) -> None:
        started = [slot.started for slot in self._board.slots]
        uses = {index: self._used_by(index) for index in self._brood.bees}
        if not uses:
            return
        fattest = max(uses, key=lambda index: uses[index])
        share = bytes_shown(uses[fattest])
        short = f"{gauge.name} ran short: {bytes_shown(used)} used, {bytes_shown(gauge.allowed)} allowed"
        # Where others have filled the memory, no job of ours is to blame, and the last bee's end would change nothing.
        if uses[fattest] > gauge.allowed / len(self._board.slots):
            self._end(fattest, Verdict.MEMORY, started[fattest], f"its bee used most, {share}, when {short}")
        elif len(uses) > 1:
            self._end(fattest, Verdict.ORDERED)
        else:
            return
        self.crowd = max(1, min(self.crowd, len(uses)) - 1)
        self._say(f"{short}; a bee with {share} was ended, {self.crowd} may run for now")

    def _used_by(self, index: int, unless_above: int = 0) -> int:
        return memory.used_by(memory.tree(self._brood.bees[index].pid), unless_above)

    def _end(self, index: int, verdict: Verdict, started: float = 0.0, reason: str = "") -> None:
        bee = self._brood.bees[index]
        self._condemned.add((index, bee))
        self._board.slots[index].condemn(verdict, started, reason)
        bee.kill()
