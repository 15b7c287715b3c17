"""What the processes of a node do with their lives: a bee's, and the keeper's."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from setproctitle import setproctitle

from workerbee import embedded, orphans
from workerbee.address import Address
from workerbee.bee import Bee
from workerbee.board import Board, Order
from workerbee.child import kill_group
from workerbee.description import Interrupted
from workerbee.errors import DatabaseError
from workerbee.events import Event, Sender
from workerbee.job import Charge, Claim, Job, Limits
from workerbee.keeper import Keeper
from workerbee.options import NodeOptions
from workerbee.portable import Portable
from workerbee.rotation import rotate
from workerbee.session import Session
from workerbee.slot import Phase, Verdict
from workerbee.text import printable
from workerbee.undertaker import Undertaker
from workerbee.watch import Abandoned, Watch

LOG_TAIL = 16_000  # bytes of a bee's log that go into a failure's record
TITLE_PAUSE = 0.25  # seconds between the names of jobs in the process list
MOST_ERRORS = 3  # in a row, before a bee is replaced: they may be its own


@dataclass(frozen=True)
class Work:
    """All that the processes of a node need to know."""

    address: Address
    jobset_id: str
    function: Portable
    limits: Limits
    options: NodeOptions
    board: Board
    events: Connection
    supervisor: int
    mark: str

    def log(self, index: int) -> Path | None:
        """The file that the bee `index` writes its output to."""
        name = f"{self.jobset_id}-{socket.gethostname()}-{self.supervisor}-bee{index}.log"
        return self.options.log_dir / name if self.options.log_dir else None

    def read_log(self, index: int, start: int) -> str:
        """What the bee `index` has written from byte `start` on, the last of it."""
        path = self.log(index)
        if path is None:
            return ""
        try:
            with path.open("rb") as file:
                file.seek(max(start, file.seek(0, os.SEEK_END) - LOG_TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def title(self, who: str, what: str = "") -> None:
        """Show in the process list who this process is and what it does."""
        setproctitle(f"workerbee {self.jobset_id} {who}{': ' if what else ''}{what}")


def machine_id() -> str:
    """The same for processes that see the same process ids, and for no others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}:{psutil.boot_time():.0f}"


class _Reporter:
    """Tells the supervisor what a bee or the keeper did."""

    def __init__(self, work: Work, index: int) -> None:
        self._work = work
        self._index = index
        self._slot = work.board.slots[index]
        self._sender = Sender(work.events)
        self._log = work.log(index)
        self._interrupted = False
        self.hears_each = work.options.log_dir is not None
        self._name = ""
        self._titled = 0.0

    def holds(self, claim: Claim) -> None:
        # Jobs may be so short that to name each would take as long. Then none is named, rather than a wrong one.
        now = time.monotonic()
        is_due = len(claim.jobs) == 1 and now - self._titled >= TITLE_PAUSE
        if is_due or self._name:
            self._name = printable(claim.jobs[0].job_id, 100) if is_due else ""
            self._titled = now
            self._work.title(f"bee {self._index}", self._name)

    def claimed(self, _job: Job) -> None:
        if self._log:
            with contextlib.suppress(OSError):  # a job has closed it
                self._slot.log_start = rotate(self._log)

    def completed(self, _job: Job) -> None:
        """The board says it."""

    def charged(self, charge: Charge) -> None:
        self._sender.send(Event.of(self._index, charge))

    def died(self, slot: int, charge: Charge | None) -> None:
        event = Event.of(slot, charge) if charge else Event(slot)
        self._sender.send(event)
        if charge and self._work.options.bees is None:
            # The caller's own process is dead; nobody else is left to say why.
            why = (
                f"workerbee: the process died of {event.type} in job '{event.job_id}' ({event.count} of {event.limit})"
            )
            print(why, charge.failure.stack, sep="\n", file=sys.stderr, flush=True)

    def lost(self, charge: Charge) -> None:
        self._sender.send(Event.of(None, charge))

    def counted(self) -> None:
        self._sender.send(Event())
        header = self._work.board.header
        if header.order == Order.NOW and header.catches and not self._interrupted:
            # The caller's own process, in the middle of a job: it looks at the board only after that.
            self._interrupted = True
            os.kill(self._work.supervisor, signal.SIGTERM)

    def outage(self, why: str) -> None:
        header = self._work.board.header
        header.seen = time.monotonic()
        if bool(why) != bool(header.away):
            header.write_why(why)
            header.away = time.monotonic() if why else 0.0
            self._sender.send(Event())
        if why and self._work.address.embedded:
            # Nobody else would start it again: its warden only stops it.
            with contextlib.suppress(DatabaseError):
                embedded.start()

    def read_log(self) -> str:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # whatever the job has made of them
                stream.flush()
        return self._work.read_log(self._index, self._slot.log_start)


def live_as_bee(work: Work, index: int) -> None:
    """The life of one bee's process."""
    slot = work.board.slots[index]
    # The supervisor says it, too, and may die before.
    slot.pid = os.getpid()
    try:
        slot.move(_make_bee(work, index).run())
    except Interrupted:
        # Told to stop while the database was away: the keeper settles what is on the board.
        slot.condemn(Verdict.ORDERED)
    except DatabaseError as error:
        slot.condemn(Verdict.ORDERED)
        work.board.header.refuse(str(error))
    except Exception as error:
        slot.write_note(f"{type(error).__name__}: {error}")
        raise


def _make_bee(work: Work, index: int) -> Bee:
    work.title(f"bee {index}")
    reporter = _Reporter(work, index)
    name = f"workerbee {work.jobset_id} bee {index}"
    bee = Bee(
        Session(work.address, work.jobset_id, name, pausing(work.board, time.sleep), patience=math.inf),
        work.board,
        index,
        work.function.function,
        work.limits,
        reporter,
        lease=work.options.lease,
        claim=work.options.claim,
        most_jobs=_most_jobs(work.options.max_jobs_per_bee),
        most_errors=MOST_ERRORS,
        read_log=reporter.read_log,
        tidy=_stop_timers,
    )
    # A batch system that ends the slot may signal every process in it: the job finishes, as for the supervisor.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: bee.stop())
    os.register_at_fork(after_in_child=_forget_handlers)
    return bee


def _most_jobs(limit: int | None) -> int | None:
    # Not all at once: a node whose bees all start again together does nothing meanwhile.
    return None if limit is None else random.randint(math.ceil(0.75 * limit), limit)


def _stop_timers() -> None:
    # What a job set as a limit to itself, and left running, would kill the next one.
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


def _forget_handlers() -> None:
    # What a job forks must die of the signals that would end any other program.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pausing(board: Board, sleep: Callable[[float], None]) -> Callable[[float], None]:
    """How a bee waits for a database that is away: not on after it was told to stop, nor when others have done it all
    (the keeper may well have a connection, where there is none left for a bee)."""
    header = board.header

    def pause(seconds: float) -> None:
        if header.stop or (header.counted and header.pending == header.claimed == 0):
            raise Interrupted
        sleep(seconds)

    return pause


def live_as_keeper(work: Work, wake: Connection) -> None:
    """The life of the keeper's process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the supervisor says so, or is dead
    work.title("keeper")
    patience = work.options.db_patience
    watch = Watch(work.supervisor, wake.fileno(), lambda: _end_processes(work), patience)
    reporter = _Reporter(work, 0)
    name = f"workerbee {work.jobset_id} keeper"
    # The supervisor decides how long to be patient, for all of the node.
    session = Session(work.address, work.jobset_id, name, watch.pause, patience=math.inf, outage=reporter.outage)
    replaces = work.options.bees is not None
    undertaker = Undertaker(session, work.board, work.limits, reporter.died, work.read_log, replaces=replaces)
    lease = work.options.lease
    keeper = Keeper(session, watch, work.board, work.limits, lease, machine_id(), reporter, undertaker)

    try:
        keeper.run()
    except Abandoned:
        pass  # the next node, or the lease, sees to the claims
    except DatabaseError as error:
        work.board.header.refuse(str(error))


def _end_processes(work: Work) -> None:
    if work.options.bees is None:
        return  # what the caller's own process started is the caller's
    for slot in work.board.slots:
        if slot.phase is Phase.ALIVE and slot.pid:
            kill_group(slot.pid)
    spared = {os.getpid(), work.supervisor}
    orphans.end(set(psutil.pids()) - spared, work.mark)
    # While the database is away the keeper stays; who reads the node's output need not wait for that.
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(null, fd)
    os.close(null)
