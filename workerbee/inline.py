"""One bee in the caller's own process: the function sees the caller's objects, a keeper beats beside it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from workerbee.bee import Bee, Interrupted, Witness
from workerbee.board import Phase
from workerbee.brood import LAST_WORDS
from workerbee.child import Child
from workerbee.errors import DatabaseError
from workerbee.job import Charge, Job
from workerbee.lives import pausing
from workerbee.node import Node
from workerbee.session import Session
from workerbee.signals import Signals, noted

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between looks at what others still hold
LOOK_AFTER_KEEPER = 1.0


class Inline:
    """Runs `node` with a single bee here, telling `witness`.

    The first stop signal lets the running job finish within the node's `grace`; the second, or the end of the
    grace, raises in the middle of it. A job in C code that never comes back cannot be interrupted.
    """

    def __init__(self, node: Node, witness: Witness) -> None:
        self._node = node
        self._witness = witness
        self._slot = node.board.slots[0]
        self._header = node.board.header
        self._keeper: Child | None = None
        self._keeper_seen = 0.0
        self._timer: threading.Timer | None = None
        self._interruptible = False

    def run(self) -> signal.Signals | None:
        """Work until there is no more; returns the signal that ended it before. Raises `DatabaseError` when the
        database refuses what the bee or its keeper needs, or stays away."""
        work = self._node.work
        work.title("bee")
        self._look_after_keeper()
        with noted(self._stop) as signals, _stacks_to(self._node.board.stacks[0].fd):
            pause = pausing(self._node.board, signals.wait)
            session = Session(work.address, work.jobset_id, f"workerbee {work.jobset_id} bee", pause)
            bee = Bee(session, self._node.board, 0, work.function.function, work.limits, self)
            try:
                self._interruptible = True
                self._work(bee, session, signals)
            except Interrupted:
                self._slot.ordered = 1  # the keeper gives the job back
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

    def claimed(self, job: Job) -> None:
        self._look_after_keeper()
        self._witness.claimed(job)

    def completed(self, job: Job) -> None:
        self._witness.completed(job)

    def charged(self, charge: Charge) -> None:
        self._witness.charged(charge)

    def _work(self, bee: Bee, session: Session, signals: Signals) -> None:
        pause = FIRST_PAUSE
        while not self._header.stop:
            self._slot.move(Phase.ALIVE)
            self._slot.pid = os.getpid()
            self._slot.move(bee.run())
            self._slot.clear()
            self._slot.move(Phase.EMPTY)
            counts = session.call(lambda store: store.counts())
            while not counts.pending and not self._header.stop:
                if counts.finished:
                    return
                self._look_after_keeper()
                signals.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                counts = session.call(lambda store: store.counts())

    def _stop(self, signals: Signals) -> None:
        self._header.stop = 1
        if not self._interruptible:
            return
        if len(signals.stops) > 1:
            raise Interrupted
        # The end of the grace comes as a second signal, to the thread that the job may be sleeping in.
        main = threading.get_ident()
        grace = self._node.work.options.grace
        self._timer = threading.Timer(grace, lambda: signal.pthread_kill(main, signals.stops[0]))
        self._timer.daemon = True
        self._timer.start()

    def _look_after_keeper(self) -> None:
        now = time.monotonic()
        if now - self._keeper_seen < LOOK_AFTER_KEEPER:
            return
        self._keeper_seen = now
        if self._keeper is None or self._keeper.poll() is not None:
            if self._keeper is not None:
                self._keeper.close()
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
