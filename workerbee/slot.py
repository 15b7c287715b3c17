"""A slot of the board: what one bee holds and does, in memory that survives it."""

from __future__ import annotations

import ctypes
import enum
from typing import Any

from workerbee.job import Claim, Job
from workerbee.text import fitting

BATCH = 4096  # the most jobs a claim may hold
JOB_IDS = 131072  # bytes for their ids
DATA = 4096  # bytes for a job's data
NO_NUMBER = 0xFF  # bytes of which make a float that is none


class Phase(enum.IntEnum):
    """Where a slot stands; `EDGES` has the moves that exist."""

    EMPTY = 0  # no bee
    ALIVE = 1  # a bee's process exists
    NO_WORK = 2  # the bee ended itself: nothing was pending
    SPENT = 3  # the bee ended itself: it ran as many jobs as one may, too many failed in a row, or it is condemned
    STOPPED = 4  # the bee ended itself: it was told to
    DEAD = 5  # the bee died; what it held has not been settled yet
    PREPARED = 6  # no bee; the keeper has claimed a job for the one that takes the dead one's place


EDGES = {
    Phase.EMPTY: {Phase.ALIVE},  # the supervisor starts a bee
    # The bee; DEAD: whoever saw it die; EMPTY: the supervisor, when it could not be started at all
    Phase.ALIVE: {Phase.NO_WORK, Phase.SPENT, Phase.STOPPED, Phase.DEAD, Phase.EMPTY},
    Phase.NO_WORK: {Phase.EMPTY},  # the supervisor, once the process is gone
    Phase.SPENT: {Phase.EMPTY},
    Phase.STOPPED: {Phase.EMPTY},
    Phase.DEAD: {Phase.EMPTY, Phase.PREPARED},  # the keeper, once the claim is settled
    Phase.PREPARED: {Phase.ALIVE, Phase.DEAD},  # the supervisor starts that bee, or has the keeper give the job back
}


class Verdict(enum.IntEnum):
    """Why the supervisor had a bee killed."""

    NONE = 0  # it did not: the bee died of itself
    ORDERED = 1  # its job is not to blame, and goes back
    TIMEOUT = 2  # the running job took longer than it may
    MEMORY = 3  # the running job took more memory than it may


class Slot(ctypes.Structure):
    """What one bee holds and does. Times are monotonic seconds, which all processes of a machine share."""

    _phase: int
    pid: int
    exit_code: int  # of a DEAD bee: negative for a signal
    condemned: int  # the verdict on this bee; the first one stays, so it runs nothing more
    _accused: float  # when the job started that the verdict is about
    reason: bytes  # of the verdict, for people
    bee: int  # its row in wb_claims__<id>; 0 before it has one
    number: int  # the claim that `done` speaks of
    lo: int  # that claim's first position, and how many it has
    size: int
    since: float  # when it was made
    cut: int  # set by the keeper: the claim of which nothing more may be started
    pos: int  # the position whose job was started last; 0 between claims
    started: float
    raised: int  # its function raised, and that is to be settled: its time is not running any more
    _job_ids: Any  # of the claim, as many as there is room for
    log_start: int  # where the running job's output begins in the bee's log
    jobs: int  # jobs that this bee has started, before those of the claim it works on
    completed: int  # jobs that became COMPLETE, that became FAILED, bees that died in a job: over the slot's life
    failed: int
    crashed: int
    strikes: int  # jobs whose first attempt failed here, over the slot's life
    slowest: float  # seconds of the longest job that completed here, over the slot's life
    mean: float  # of the seconds that jobs take, and how far they are from it: the later ones count more
    deviation: float
    note: bytes  # a dying bee's last words
    heir: int  # set by the keeper: the bee has the row of the one before, and the database does not know its pid
    _has_data: int  # whether the job of a prepared claim has data, and the data, if there is room
    _data: bytes
    done: Any  # per position of the claim: the seconds it took to complete, or no number while it has not
    _fields_ = [
        ("_phase", ctypes.c_int64),
        ("pid", ctypes.c_int64),
        ("exit_code", ctypes.c_int64),
        ("condemned", ctypes.c_int64),
        ("_accused", ctypes.c_double),
        ("reason", ctypes.c_char * 256),
        ("bee", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("lo", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("since", ctypes.c_double),
        ("cut", ctypes.c_int64),
        ("pos", ctypes.c_int64),
        ("started", ctypes.c_double),
        ("raised", ctypes.c_int64),
        ("_job_ids", ctypes.c_ubyte * JOB_IDS),
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
        ("heir", ctypes.c_int64),
        ("_has_data", ctypes.c_int64),
        ("_data", ctypes.c_char * DATA),
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
        self.bee = self.number = self.lo = self.size = 0
        self._forget_process()

    def _forget_process(self) -> None:
        self.pid = self.exit_code = self.cut = self.pos = self.jobs = 0
        self.note = self.reason = b""
        self.log_start = self.condemned = self.raised = self.heir = 0

    def hold(self, claim: Claim, since: float) -> None:
        """Speak from now on of `claim`, asked for at the monotonic second `since`."""
        self.pos = self.raised = 0
        self.lo = claim.jobs[0].pos if claim.jobs else 0
        self.size = len(claim.jobs)
        self.since = since
        ids = "\0".join([job.job_id for job in claim.jobs]).encode()[: JOB_IDS - 1] + b"\0"
        ctypes.memmove(self._job_ids, ids, len(ids))
        ctypes.memset(self.done, NO_NUMBER, self.size * ctypes.sizeof(ctypes.c_float))
        # Last: until then the board speaks of the claim before, which is settled.
        self.number = claim.number
        self.bee = claim.bee

    def prepare(self, claim: Claim, since: float) -> None:
        """Forget the last bee, and hold `claim`, of one job, for its heir. Whoever dies on the way leaves a claim that
        nobody has begun."""
        self.hold(claim, since)
        self._forget_process()
        (job,) = claim.jobs
        data = (job.data or "").encode()
        self._has_data = bool(data)
        self._data = data if len(data) < DATA else b""
        self.heir = 1

    def prepared(self) -> Claim | None:
        """The claim that was made for a bee before its birth; None if its data must be asked for."""
        if self._has_data and not self._data:
            return None
        job = Job(self.lo, self._read_id(0), self._data.decode() or None)
        return Claim(self.bee, self.number, (job,))

    def condemn(self, verdict: Verdict, started: float = 0.0, reason: str = "") -> None:
        """Say why this bee is killed, and for which of its jobs, by the time it `started`; the first verdict stays."""
        if not self.condemned:
            self.reason = reason.encode()[:255]
            self._accused = started
            self.condemned = verdict

    @property
    def verdict(self) -> Verdict:
        """Why this bee was killed. If by then it was through with the accused job, no job is to blame."""
        if self.condemned and self._accused != self.started:
            return Verdict.ORDERED
        return Verdict(self.condemned)

    @property
    def is_over(self) -> bool:
        """Whether the time of the running job is over, so that nothing it says counts any more."""
        return self.condemned == Verdict.TIMEOUT and self._accused == self.started

    @property
    def is_running(self) -> bool:
        """Whether a job's function has been called, and has not returned."""
        pos, index = self.pos, self._index()
        return pos != 0 and index >= 0 and not self.done[index] >= 0

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
        self.note = fitting(text, 1023)

    def read_note(self) -> str:
        return self.note.decode("utf-8", "ignore")

    def read_job_id(self) -> str:
        """The id of the job that was started last; "" when there was no room for it."""
        pos, index = self.pos, self._index()
        return self._read_id(index) if pos and index >= 0 else ""

    def _read_id(self, index: int) -> str:
        start = ctypes.addressof(self) + Slot._job_ids.offset
        ids = ctypes.string_at(start, JOB_IDS if index else -1).split(b"\0", self.size)
        return ids[index].decode("utf-8", "ignore") if index < len(ids) else ""

    def _index(self) -> int:
        """Of the job in its claim; -1 when the bee has gone on to another claim between our two looks."""
        index: int = self.pos - self.lo
        return index if index < BATCH else -1
