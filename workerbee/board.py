"""The board: memory that a node's processes share, with a slot for what each bee is doing.

A slot survives its bee. So when a bee dies, the keeper can read which job was running, and which outcomes the bee
had not yet written to the database. Each field has one writer at a time: the bee while it lives, then whoever
`Phase` says.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import os
from typing import Any

from workerbee.shared import NamelessFile

BATCH = 1024  # the most jobs a claim may hold


class Phase(enum.IntEnum):
    """Where a slot stands; `EDGES` has the moves that exist."""

    EMPTY = 0  # no bee
    ALIVE = 1  # a bee's process exists
    NO_WORK = 2  # the bee ended itself: nothing was pending
    SPENT = 3  # the bee ended itself: it ran as many jobs as one may, too many failed in a row, or it is condemned
    STOPPED = 4  # the bee ended itself: it was told to
    DEAD = 5  # the bee died; what it held has not been settled yet


EDGES = {
    Phase.EMPTY: {Phase.ALIVE},  # the supervisor starts a bee
    # The bee; DEAD: whoever saw it die; EMPTY: the supervisor, when it could not be started at all
    Phase.ALIVE: {Phase.NO_WORK, Phase.SPENT, Phase.STOPPED, Phase.DEAD, Phase.EMPTY},
    Phase.NO_WORK: {Phase.EMPTY},  # the supervisor, once the process is gone
    Phase.SPENT: {Phase.EMPTY},
    Phase.STOPPED: {Phase.EMPTY},
    Phase.DEAD: {Phase.EMPTY},  # the keeper, once the claim is settled
}


class Verdict(enum.IntEnum):
    """Why the supervisor had a bee killed."""

    NONE = 0  # it did not: the bee died of itself
    ORDERED = 1  # its job is not to blame, and goes back
    TIMEOUT = 2  # the running job took longer than it may
    MEMORY = 3  # the running job took more memory than it may


class Order(enum.IntEnum):
    """What the node was told from outside; a later one may only be stricter."""

    NONE = 0
    DRAIN = 1  # claim no more, and end when the running jobs have
    NOW = 2  # give the running jobs back

    @classmethod
    def of(cls, stop: str | None) -> Order:
        """The order that the database has as `stop`."""
        return cls[stop.upper()] if stop else cls.NONE


class Header(ctypes.Structure):
    """What all of a node's processes need to know."""

    stop: int  # set by the supervisor, or with `refused`: claim no more
    closing: int  # set by the supervisor: no bee is left, the keeper may end the node
    node: int  # its row in wb_nodes
    total: int  # the jobset's counts as the keeper last read them, at `counted` (monotonic seconds)
    pending: int
    claimed: int
    failed: int
    offered: int
    others: int
    failed_here: int  # what `Board.failed` was then
    counted: float
    seen: float  # when the keeper was last at work
    away: float  # since when the keeper has had no database, in monotonic seconds; 0 while it has one
    hold: float  # set by the supervisor: bees claim nothing before this monotonic second
    order: int  # set by the keeper: an `Order`
    catches: int  # set by a bee in the caller's process: SIGTERM interrupts its job
    refused: int  # set by the keeper or a bee: the database refuses what no waiting will change
    _why: bytes  # the last that the database said against it
    _fields_ = [
        ("stop", ctypes.c_int64),
        ("closing", ctypes.c_int64),
        ("node", ctypes.c_int64),
        ("total", ctypes.c_int64),
        ("pending", ctypes.c_int64),
        ("claimed", ctypes.c_int64),
        ("failed", ctypes.c_int64),
        ("offered", ctypes.c_int64),
        ("others", ctypes.c_int64),
        ("failed_here", ctypes.c_int64),
        ("counted", ctypes.c_double),
        ("seen", ctypes.c_double),
        ("away", ctypes.c_double),
        ("hold", ctypes.c_double),
        ("order", ctypes.c_int64),
        ("catches", ctypes.c_int64),
        ("refused", ctypes.c_int64),
        ("_why", ctypes.c_char * 1024),
    ]

    def write_why(self, text: str) -> None:
        self._why = _fitting(text, 1023)

    def refuse(self, why: str) -> None:
        """Let the node end, since the database refuses it."""
        if not self.refused:
            self.write_why(why)
            self.refused = self.stop = 1

    def read_why(self) -> str:
        return self._why.decode("utf-8", "ignore")


class Slot(ctypes.Structure):
    """What one bee holds and does. Times are monotonic seconds, which all processes of a machine share."""

    _phase: int
    pid: int
    exit_code: int  # of a DEAD bee: negative for a signal
    _verdict: int
    _accused: int  # what `jobs` was when the verdict was given
    reason: bytes  # of the verdict, for people
    bee: int  # its row in wb_claims__<id>; 0 before it has one
    number: int  # the claim that `done` speaks of
    lo: int  # that claim's first position, and how many it has
    size: int
    since: float  # when it was made
    cut: int  # set by the keeper: the claim of which nothing more may be started
    pos: int  # the position that runs now; 0 between jobs
    started: float
    job_id: bytes  # the running one, shortened
    log_start: int  # where the running job's output begins in the bee's log
    jobs: int  # jobs that this bee has started
    completed: int  # jobs that became COMPLETE, that became FAILED, bees that died in a job: over the slot's life
    failed: int
    crashed: int
    strikes: int  # jobs whose first attempt failed here, over the slot's life
    slowest: float  # seconds of the longest job that completed here, over the slot's life
    mean: float  # of the seconds that jobs take, and how far they are from it: the later ones count more
    deviation: float
    note: bytes  # a dying bee's last words
    done: Any  # per position of the claim: the seconds it took to complete, below 0 while it has not
    _fields_ = [
        ("_phase", ctypes.c_int64),
        ("pid", ctypes.c_int64),
        ("exit_code", ctypes.c_int64),
        ("_verdict", ctypes.c_int64),
        ("_accused", ctypes.c_int64),
        ("reason", ctypes.c_char * 256),
        ("bee", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("lo", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("since", ctypes.c_double),
        ("cut", ctypes.c_int64),
        ("pos", ctypes.c_int64),
        ("started", ctypes.c_double),
        ("job_id", ctypes.c_char * 256),
        ("log_start", ctypes.c_int64),
        ("jobs", ctypes.c_int64),
        ("completed", ctypes.c_int64),
        ("failed", ctypes.c_int64),
        ("crashed", ctypes.c_int64),
        ("strikes", ctypes.c_int64),
        ("slowest", ctypes.c_double),
        ("mean", ctypes.c_double),
        ("deviation", ctypes.c_double),
        ("note", ctypes.c_char * 1024),
        ("done", ctypes.c_float * BATCH),
    ]

    @property
    def phase(self) -> Phase:
        return Phase(self._phase)

    def move(self, to: Phase) -> None:
        """Go to the phase `to`, along an edge that exists."""
        if to not in EDGES[self.phase]:
            raise AssertionError(f"a slot cannot go from {self.phase.name} to {to.name}")
        self._phase = to

    def clear(self) -> None:
        """Forget the last bee; the counts over the slot's life stay."""
        self.pid = self.exit_code = self.bee = self.number = self.lo = self.size = self.cut = self.pos = self.jobs = 0
        self.job_id = self.note = self.reason = b""
        self.log_start = self._verdict = self._accused = 0

    def condemn(self, verdict: Verdict, job: int = 0, reason: str = "") -> None:
        """Say why this bee is killed, and for which of its jobs (what `jobs` was then); the first verdict stays."""
        if not self._verdict:
            self.reason = reason.encode()[:255]
            self._accused = job
            self._verdict = verdict

    @property
    def verdict(self) -> Verdict:
        """Why this bee was killed. If by then it was through with the accused job, no job is to blame."""
        if self._verdict and self._accused != self.jobs:
            return Verdict.ORDERED
        return Verdict(self._verdict)

    @property
    def is_over(self) -> bool:
        """Whether the time of the running job is over, so that nothing it says counts any more."""
        return self._verdict == Verdict.TIMEOUT and self._accused == self.jobs

    @property
    def is_condemned(self) -> bool:
        """Whether there is a verdict: a bee that is still there ends, since another verdict is not possible."""
        return self._verdict != Verdict.NONE

    def read_reason(self) -> str:
        return self.reason.decode("utf-8", "ignore")

    def completed_so_far(self) -> list[tuple[int, float]]:
        """The positions of the claim whose function has returned, and the seconds that it took."""
        return [(self.lo + i, seconds) for i, seconds in enumerate(self.done[: self.size]) if seconds >= 0]

    def learn(self, seconds: float) -> None:
        """Jobs took so long, on the average of a claim.

        The estimate is that of TCP's retransmission timer (Jacobson 1988, RFC 6298)."""
        if not self.mean:
            self.mean, self.deviation = seconds, seconds / 2
        else:
            self.deviation += (abs(seconds - self.mean) - self.deviation) / 4
            self.mean += (seconds - self.mean) / 8

    @property
    def usual(self) -> float:
        """Seconds within which nearly every job has been through; 0 when none was."""
        return self.mean + 4 * self.deviation

    def write_note(self, text: str) -> None:
        """Leave `text` for whoever finds this bee dead."""
        self.note = _fitting(text, 1023)

    def read_note(self) -> str:
        return self.note.decode("utf-8", "ignore")

    def read_job_id(self) -> str:
        return self.job_id.decode("utf-8", "ignore")


class Board:
    """A header, a slot for each of `size` bees, and a file for each one's last stack.

    Goes to a child by fork, or pickled when one is spawned.
    """

    def __init__(self, size: int, file: NamelessFile | None = None, stacks: list[NamelessFile] | None = None):
        length = ctypes.sizeof(Header) + size * ctypes.sizeof(Slot)
        self._file = file or NamelessFile()
        os.truncate(self._file.fd, length)
        memory = mmap.mmap(self._file.fd, length)
        self.header = Header.from_buffer(memory)
        starts = range(ctypes.sizeof(Header), length, ctypes.sizeof(Slot))
        self.slots = [Slot.from_buffer(memory, start) for start in starts]
        self.stacks = stacks or [NamelessFile() for _ in range(size)]

    def __reduce__(self) -> tuple[Any, ...]:
        return Board, (len(self.slots), self._file, self.stacks)

    def close(self) -> None:
        """Let the descriptors go; the memory lives as long as someone maps it."""
        for file in (self._file, *self.stacks):
            file.close()

    @property
    def completed(self) -> int:
        return sum(slot.completed for slot in self.slots)

    @property
    def failed(self) -> int:
        return sum(slot.failed for slot in self.slots)

    @property
    def strikes(self) -> int:
        return sum(slot.strikes for slot in self.slots)

    @property
    def slowest(self) -> float:
        """Seconds of the longest job that completed here."""
        return max(slot.slowest for slot in self.slots)

    @property
    def usual(self) -> float:
        """Seconds within which nearly every job has been through, in the slot where they take longest."""
        return max(slot.usual for slot in self.slots)

    @property
    def crashed(self) -> int:
        return sum(slot.crashed for slot in self.slots)


def _fitting(text: str, size: int) -> bytes:
    return text.encode("utf-8", "backslashreplace").replace(b"\0", b"")[:size]
