"""The supervisor: starts bees, replaces those that die, stops them. It runs no job and asks no database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from workerbee import backoff
from workerbee.backoff import Backoff
from workerbee.board import Board, Phase
from workerbee.brood import LAST_WORDS, Brood
from workerbee.child import Child
from workerbee.errors import DatabaseError, NodeFailed, WorkerbeeError
from workerbee.events import Event, Receiver
from workerbee.output import Output
from workerbee.signals import Signals
from workerbee.text import ending

KEEPERS = 5  # keepers that may die before the node gives up


class Audience(Protocol):
    """Who sees the run."""

    def happened(self, event: Event) -> None:
        """A failure was charged."""

    def refresh(self) -> float:
        """Show the board as it stands, if it is time to; the seconds until it will be again."""

    def say(self, line: str) -> None:
        """Something about the node as a whole."""


class Supervisor:
    """Runs a bee in every slot of `board`, and a keeper, until the jobset has no more work or it is told to stop.

    `start_bee(index)` starts a bee with the pipes of its output, if the supervisor is to pass that on;
    `start_keeper()` a keeper, which `wake()` rouses. `mark` begins the mark of all that bees start. `grace` is
    what running jobs have after a stop, `patience` how long the database may be away, both in seconds.
    """

    def __init__(
        self,
        board: Board,
        start_bee: Callable[[int], tuple[Child, list[Output]]],
        start_keeper: Callable[[], Child],
        wake: Callable[[], None],
        events: Receiver,
        signals: Signals,
        audience: Audience,
        mark: str,
        grace: float,
        patience: float,
    ) -> None:
        self._board = board
        self._header = board.header
        self._start_bee = start_bee
        self._start_keeper = start_keeper
        self._wake = wake
        self._events = events
        self._signals = signals
        self._audience = audience
        self._grace = grace
        self._patience = patience
        self._away = False
        self._brood = Brood(mark)
        self._backoff = Backoff(len(board.slots))
        self._idle_since = [0.0] * len(board.slots)
        self._keepers_lost = 0
        self._deadline: float | None = None
        self._given_up = float("inf")
        self._refresh = 0.0
        self._obeyed = 0
        self._failure: WorkerbeeError | None = None

    @property
    def fds(self) -> list[int]:
        """The descriptors that are the supervisor's alone, for a child to close."""
        return self._brood.fds

    def run(self) -> None:
        """Keep the node working until it is over. Raises `NodeFailed` when bees die before they claim anything, or the
        database stays away; `DatabaseError` when it refuses what bees or keeper need."""
        self._brood.watch(self._events.fd)
        self._brood.watch(self._signals.fd)
        try:
            while not self._over():
                self._reap()
                self._obey()
                self._mind_outage()
                self._maintain()
                self._report()
                self._sleep()
            self._mind_outage()
            self._close()
        finally:
            self._brood.abandon()
        if self._failure:
            raise self._failure

    def _over(self) -> bool:
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
        if self._brood.keeper and (code := self._brood.keeper.poll()) is not None:
            self._lose_keeper(code)

    def _bury(self, index: int, code: int) -> None:
        self._brood.bury(index)
        slot = self._board.slots[index]
        if slot.phase is Phase.ALIVE:
            self._judge(index, code)
            slot.exit_code = code
            slot.move(Phase.DEAD)
        else:
            self._backoff.lived(index)
            if slot.phase is Phase.NO_WORK:
                self._idle_since[index] = time.monotonic()
            slot.clear()
            slot.move(Phase.EMPTY)
        self._wake()

    def _judge(self, index: int, code: int) -> None:
        """Count a bee that died before it claimed anything against this node: no job is to blame."""
        slot = self._board.slots[index]
        if slot.jobs or slot.ordered:
            self._backoff.lived(index)
            return
        reason = slot.read_note() or ending(code)
        pause = self._backoff.died(index, self._board.completed)
        if pause is None:
            failure = f"{backoff.LIMIT} bees in a row died before they claimed a job; the last: {reason}"
            self._give_up(NodeFailed(failure))
        else:
            self._audience.say(f"bee {index} died before it claimed a job ({reason}), next try in {pause:.1f} s")

    def _lose_keeper(self, code: int) -> None:
        self._brood.drop_keeper()
        if not self._header.closing and not self._header.refused:
            self._keepers_lost += 1
            self._audience.say(f"the keeper died ({ending(code)}), started again")
            if self._keepers_lost >= KEEPERS:
                self._give_up(NodeFailed(f"the keeper died {KEEPERS} times; the last: {ending(code)}"))

    def _give_up(self, failure: WorkerbeeError) -> None:
        self._failure = self._failure or failure
        self._stop(0 if self._brood.keeper is None else self._grace)

    def _obey(self) -> None:
        self._signals.drain()
        arrived, self._obeyed = self._signals.stops[self._obeyed :], len(self._signals.stops)
        if arrived and self._deadline is None:
            running = sum(slot.pos != 0 for slot in self._board.slots)
            self._stop(self._grace)
            self._audience.say(
                f"{arrived[0].name}: no new claims; {running} running jobs may finish within {self._grace:g} s "
                "(once more: kill them)"
            )
            arrived = arrived[1:]
        if arrived or (self._deadline is not None and time.monotonic() > self._deadline):
            self._kill_bees()

    def _stop(self, grace: float) -> None:
        self._header.stop = 1
        if self._deadline is None:
            self._deadline = time.monotonic() + grace

    def _kill_bees(self) -> None:
        for index, bee in self._brood.bees.items():
            self._board.slots[index].ordered = 1
            bee.kill()
        self._end_soon()

    def _end_soon(self, seconds: float = LAST_WORDS) -> None:
        # Claims go back through the keeper; where the database is away, only the next node or the lease can do that.
        self._given_up = min(self._given_up, time.monotonic() + seconds)

    def _mind_outage(self) -> None:
        away = self._header.away
        if bool(away) != self._away:
            self._away = bool(away)
            why = f" ({self._header.read_why()})" * bool(self._header.read_why())
            what = f"is away{why}: jobs run on, and their outcomes are kept" if away else "is back"
            self._audience.say(f"the database {what}")
        if away and time.monotonic() - away > self._patience:
            failure = f"the database has been away for {self._patience:.0f} s: {self._header.read_why()}"
            self._give_up(NodeFailed(failure))
        if away and self._header.stop and not self._brood.bees:
            self._end_soon()
        if self._header.refused:
            self._mind_refusal()

    def _mind_refusal(self) -> None:
        if self._failure is None:
            self._failure = DatabaseError(self._header.read_why())
            self._stop(self._grace)
        if not self._brood.bees:
            # Without a keeper nobody settles, and there is nowhere to do it.
            self._end_soon(LAST_WORDS if self._brood.keeper else 0.1)

    def _maintain(self) -> None:
        # Also while the node stops: claims go back through it, and a dead bee's slot is emptied by nobody else.
        if self._brood.keeper is None and self._failure is None:
            self._brood.add_keeper(self._start_keeper())
        if self._header.stop or self._finished():
            return
        now = time.monotonic()
        idle = 0
        for index, slot in enumerate(self._board.slots):
            if slot.phase is not Phase.EMPTY or self._backoff.until[index] > now:
                continue
            if self._idle_since[index]:
                # It found nothing to do. Another starts only for jobs that have come back since.
                idle += 1
                if self._header.counted < self._idle_since[index] or self._header.pending < idle:
                    continue
                self._idle_since[index] = 0.0
            self._start(index)

    def _start(self, index: int) -> None:
        slot = self._board.slots[index]
        slot.move(Phase.ALIVE)
        bee, outputs = self._start_bee(index)
        slot.pid = bee.pid
        self._brood.add_bee(index, bee, outputs)

    def _report(self) -> None:
        self._brood.pass_on()
        for event in self._events.receive():
            if event.kind:
                self._audience.happened(event)
        self._refresh = time.monotonic() + self._audience.refresh()

    def _sleep(self) -> None:
        now = time.monotonic()
        later = [*self._backoff.until, self._deadline or 0.0, self._given_up]
        due = min([self._refresh, *(at for at in later if at > now)])
        self._brood.wait(due - now)

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
