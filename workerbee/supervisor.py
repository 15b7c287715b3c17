"""The supervisor: starts bees, replaces those that die, stops them. It runs no job and asks no database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from workerbee.backoff import Backoff
from workerbee.board import Board
from workerbee.brood import LAST_WORDS, Brood
from workerbee.child import Child
from workerbee.events import Event, Receiver
from workerbee.housekeeping import Housekeeping
from workerbee.output import Output
from workerbee.signals import Signals
from workerbee.slot import Phase, Slot, Verdict
from workerbee.stopping import Stopping


class Audience(Protocol):
    """Who sees the run."""

    def happened(self, event: Event) -> None:
        """A failure was charged."""

    def refresh(self) -> float:
        """Show the board as it stands, if it is time to; the seconds until it will be again."""

    def say(self, line: str) -> None:
        """Something about the node as a whole."""

    def started(self, slot: int) -> None:
        """There is a bee in this slot."""

    def died(self, slot: int, code: int) -> None:
        """The bee of this slot has died, with this exit code, negative for a signal."""


class Duty(Protocol):
    """Something to look after besides: a limit, a time."""

    def look(self) -> float:
        """Do what is due; the monotonic second to look again, or sooner if anything happens."""


class Supervisor:
    """Runs a bee in every slot of `board`, and a keeper, until the jobset has no more work or the node is to end.

    `start_bee(index)` starts a bee with the pipes of its output, if the supervisor is to pass that on; `wake()`
    rouses the keeper. `crowd()` is how many bees may run.
    """

    def __init__(
        self,
        board: Board,
        brood: Brood,
        stopping: Stopping,
        housekeeping: Housekeeping,
        start_bee: Callable[[int], tuple[Child, list[Output]]],
        wake: Callable[[], None],
        events: Receiver,
        signals: Signals,
        audience: Audience,
        duties: Sequence[Duty],
        crowd: Callable[[], int],
    ) -> None:
        self._board = board
        self._header = board.header
        self._brood = brood
        self._stopping = stopping
        self._housekeeping = housekeeping
        self._start_bee = start_bee
        self._wake = wake
        self._events = events
        self._signals = signals
        self._audience = audience
        self._duties = duties
        self._crowd = crowd
        self._backoff = Backoff(board, audience.say, stopping)
        self._idle_since = [0.0] * len(board.slots)
        self._given_up = math.inf
        self._obeyed = 0
        self._due = 0.0

    def run(self) -> None:
        """Keep the node working until it is over. Raises `NodeFailed` when bees die before they claim anything, or the
        database stays away; `DatabaseError` when it refuses what bees or keeper need."""
        self._brood.watch(self._events.fd)
        self._brood.watch(self._signals.fd)
        try:
            while True:
                self._reap()
                self._obey()
                self._look_after_duties()
                if self._over():
                    break
                self._maintain()
                self._report()
                self._sleep()
            self._close()
        finally:
            self._brood.abandon()
        if self._stopping.failure:
            raise self._stopping.failure

    def _over(self) -> bool:
        if (self._header.away or self._header.refused) and self._header.stop and not self._brood.bees:
            # Claims go back through the keeper. If there is none, or it gets no hearing, the next node sees to them.
            self._end_soon(LAST_WORDS if self._brood.keeper else 0.0)
        if time.monotonic() > self._given_up:
            return True
        if self._brood.bees or any(slot.phase is not Phase.EMPTY for slot in self._board.slots):
            return False
        return bool(self._header.stop) or self._finished()

    def _finished(self) -> bool:
        header = self._header
        return header.counted > max(self._idle_since) and header.pending == header.claimed == 0

    def _reap(self) -> None:
        for index, bee in list(self._brood.bees.items()):
            if (code := bee.poll()) is not None:
                self._bury(index, code)
        self._housekeeping.reap()

    def _bury(self, index: int, code: int) -> None:
        self._brood.bury(index)
        slot = self._board.slots[index]
        if slot.phase is Phase.ALIVE:
            self._backoff.ended(index, code)
            slot.exit_code = code
            slot.move(Phase.DEAD)
            self._audience.died(index, code)
        else:
            self._backoff.ended(index)
            if slot.phase is Phase.NO_WORK:
                self._idle_since[index] = time.monotonic()
            slot.clear()
            slot.move(Phase.EMPTY)
        self._wake()

    def _obey(self) -> None:
        self._signals.drain()
        arrived = self._signals.stops[self._obeyed :]
        is_first = not self._obeyed
        self._obeyed += len(arrived)
        if arrived and is_first:
            running = sum(slot.is_running for slot in self._board.slots)
            may = f"{running} running jobs may finish within {self._stopping.grace:g} s (once more: kill them)"
            self._stopping.stop(f"{arrived[0].name}: no new claims; {may}")
            arrived = arrived[1:]
        if arrived or time.monotonic() > self._stopping.deadline:
            self._kill_bees()

    def _kill_bees(self) -> None:
        for index, bee in self._brood.bees.items():
            self._board.slots[index].condemn(Verdict.ORDERED)
            bee.kill()
        self._end_soon(LAST_WORDS)

    def _end_soon(self, seconds: float) -> None:
        self._given_up = min(self._given_up, time.monotonic() + seconds)

    def _maintain(self) -> None:
        is_over = self._header.stop or self._finished()
        now = time.monotonic()
        idle = 0
        for index, slot in enumerate(self._board.slots):
            if slot.phase not in (Phase.EMPTY, Phase.PREPARED):
                continue
            if is_over or self._backoff.until[index] > now or len(self._brood.bees) >= self._crowd():
                if slot.phase is Phase.PREPARED:
                    self._give_back(slot)
                continue
            if self._idle_since[index]:
                # It found nothing to do. Another starts only for jobs that have come back since.
                idle += 1
                if self._header.counted < self._idle_since[index] or self._header.offered < idle:
                    continue
                self._idle_since[index] = 0.0
            self._start(index)

    def _give_back(self, slot: Slot) -> None:
        slot.move(Phase.DEAD)
        self._wake()

    def _start(self, index: int) -> None:
        slot = self._board.slots[index]
        slot.move(Phase.ALIVE)
        try:
            bee, outputs = self._start_bee(index)
        except OSError as error:  # no process, descriptor or memory is to be had
            if slot.heir:
                self._give_back(slot)
            else:
                slot.move(Phase.EMPTY)
            self._backoff.refused(index, error, len(self._brood.bees))
            return
        slot.pid = bee.pid
        self._brood.add_bee(index, bee, outputs)
        self._audience.started(index)

    def _look_after_duties(self) -> None:
        self._due = min(duty.look() for duty in (self._housekeeping, *self._duties))

    def _report(self) -> None:
        self._brood.pass_on()
        for event in self._events.receive():
            if event.kind:
                self._audience.happened(event)
        self._due = min(self._due, time.monotonic() + self._audience.refresh())

    def _sleep(self) -> None:
        now = time.monotonic()
        later = [*self._backoff.until, self._stopping.deadline, self._given_up]
        self._brood.wait(min([self._due, *(at for at in later if at > now)]) - now)

    def _close(self) -> None:
        """Let the keeper end the node in the database, but do not wait for it for ever."""
        self._header.closing = 1
        self._wake()
        deadline = min(self._given_up, time.monotonic() + LAST_WORDS)
        keeper = self._brood.keeper
        while keeper and keeper.poll() is None and time.monotonic() < deadline:
            if len(self._signals.stops) > max(1, self._obeyed):
                break
            self._brood.wait(0.05)
            self._signals.drain()
        self._report()
