"""One bee in the caller's own process: the function sees the caller's objects, a keeper beats beside it."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from workerbee.bee import Bee
from workerbee.board import Order
from workerbee.brood import LAST_WORDS
from workerbee.child import Child
from workerbee.curfew import settling
from workerbee.description import Interrupted
from workerbee.display import Mute, Narrator
from workerbee.errors import DatabaseError
from workerbee.job import Charge, Claim, Job
from workerbee.lives import pausing
from workerbee.node import Node
from workerbee.session import Session
from workerbee.signals import Signals, noted
from workerbee.slot import Phase, Verdict
from workerbee.stopping import Stopping
from workerbee.telling import TellingWitness

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between looks at what others still hold
LOOK_AFTER_KEEPER = 1.0


class Inline:
    """Runs `node` with a single bee here, telling `witness`.

    The first stop signal lets the running job finish within the node's `grace`; the second, or the end of the
    grace, raises in the middle of it, and so do the end of the node's time and the order to end at once. A job in C
    code that never comes back cannot be interrupted, nor one that is run in another thread than the main one.
    """

    def __init__(self, node: Node, witness: Narrator | Mute | TellingWitness) -> None:
        self._node = node
        self._witness = witness
        self._slot = node.board.slots[0]
        self._header = node.board.header
        self._keeper: Child | None = None
        self._keeper_seen = 0.0
        self._timer: threading.Timer | None = None
        self._interruptible = False
        node.stopping = Stopping(node.board, 0, witness.say)
        self._duties = node.duties(node.stopping)
        self._is_over = False

    def run(self) -> signal.Signals | None:
        """Work until there is no more; returns the signal that ended it before. Raises `DatabaseError` when the
        database refuses what the bee or its keeper needs, or stays away."""
        work = self._node.work
        work.title("bee")
        self._look_after_keeper()
        with noted(self._stop) as signals, _stacks_to(self._node.board.stacks[0].fd):
            pause = pausing(self._node.board, signals.wait)
            name = f"workerbee {work.jobset_id} bee"
            session = Session(work.address, work.jobset_id, name, pause, patience=work.options.db_patience)
            options = work.options
            bee = Bee(
                session, self._node.board, 0, work.function.function, work.limits, self,
                lease=options.lease, claim=options.claim,
            )  # fmt: skip
            # Elsewhere there is no handler of ours, and the signal would be the caller's.
            is_ours = threading.current_thread() is threading.main_thread()
            self._header.catches = is_ours and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
            self._set_timer()
            self._look_after_duties()
            try:
                self._interruptible = True
                self._work(bee, session, signals)
            except Interrupted:
                self._slot.condemn(Verdict.ORDERED)  # the keeper gives the job back
                self._look_after_duties()
            finally:
                self._interruptible = False
                if self._timer:
                    self._timer.cancel()
                if self._slot.phase is Phase.ALIVE:
                    self._slot.move(Phase.DEAD)
                session.close()
                self._close()
        if self._header.refused:
            raise DatabaseError(self._header.read_why())
        return signals.stops[0] if signals.stops else None

    # What the bee does is passed on to the witness, and is an occasion to look after the keeper.

    hears_each = True

    def holds(self, _claim: Claim) -> None:
        """The narrator speaks of each job."""

    def claimed(self, job: Job) -> None:
        self._look_after_keeper()
        self._look_after_duties()
        self._witness.claimed(job)

    def completed(self, job: Job) -> None:
        self._witness.completed(job)
        self._look_after_duties()

    def charged(self, charge: Charge) -> None:
        self._witness.charged(charge)
        self._look_after_duties()

    def _work(self, bee: Bee, session: Session, signals: Signals) -> None:
        pause = FIRST_PAUSE
        while not self._header.stop:
            self._look_after_keeper()
            self._slot.move(Phase.ALIVE)
            self._slot.pid = os.getpid()
            self._slot.move(bee.run())
            self._slot.clear()
            self._slot.move(Phase.EMPTY)
            counts = session.call(lambda store: store.counts(self._header.node))
            # The keeper knows when others have had the first choice for long enough.
            while not (counts.offered or (counts.pending and self._header.is_alone)) and not self._header.stop:
                if counts.finished:
                    return
                self._look_after_keeper()
                self._look_after_duties()
                signals.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                counts = session.call(lambda store: store.counts(self._header.node))

    def _stop(self, signals: Signals) -> None:
        self._header.stop = 1
        self._is_over = self._is_over or self._header.order == Order.NOW
        if self._is_over:
            signals.stops.pop()  # it was ours
        if not self._interruptible:
            return
        if self._is_over or len(signals.stops) > 1:
            raise Interrupted
        self._interrupt(min(self._node.work.options.grace, self._time_left()), signals.stops[0])

    def _set_timer(self) -> None:
        if self._header.catches and (left := self._time_left()) < math.inf:
            self._interrupt(left, signal.SIGTERM)

    def _time_left(self) -> float:
        """Seconds until running jobs must be given back."""
        until = self._node.work.options.until
        left = math.inf if until is None else until - time.monotonic()
        return left - settling(left)

    def _interrupt(self, seconds: float, number: int) -> None:
        """Raise in the running job after so many seconds, if it has not ended by then."""
        # As a signal, to the thread that the job may be sleeping in.
        main = threading.get_ident()

        def interrupt() -> None:
            self._is_over = True
            signal.pthread_kill(main, number)

        if self._timer:
            self._timer.cancel()
        self._timer = threading.Timer(max(0.0, seconds), interrupt)
        self._timer.daemon = True
        self._timer.start()

    def _look_after_duties(self) -> None:
        for duty in self._duties:
            duty.look()

    def _look_after_keeper(self) -> None:
        now = time.monotonic()
        if now - self._keeper_seen < LOOK_AFTER_KEEPER:
            return
        self._keeper_seen = now
        if self._keeper is None or self._keeper.poll() is not None:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None
            with contextlib.suppress(OSError):  # no process is to be had: the next look tries again
                self._keeper = self._node.start_keeper()

    def _close(self) -> None:
        self._header.closing = 1
        self._node.wake()
        if self._keeper is not None:
            if self._keeper.wait(LAST_WORDS) is None:
                self._keeper.kill()
                self._keeper.wait(LAST_WORDS)
            self._keeper.close()


@contextlib.contextmanager
def _stacks_to(fd: int) -> Iterator[None]:
    """Let a crash of this process leave its stacks in `fd`, where the keeper finds them."""
    before = faulthandler.is_enabled()
    faulthandler.enable(fd)
    try:
        yield
    finally:
        faulthandler.disable()
        if before and sys.__stderr__ is not None:
            with contextlib.suppress(ValueError, OSError):  # the caller has closed it
                faulthandler.enable(sys.__stderr__)
