"""A slot of the board: what one bee is and does, in memory that survives it."""

from __future__ import annotations

import ctypes
import enum
from typing import Any

from workerbee.hand import Hand
from workerbee.job import Claim
from workerbee.text import fitting

DATA = 4096  # bytes for a job's data


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
    """What one bee is and does. Times are monotonic seconds, which all processes of a machine share.

    A bee has two hands: while it works through the claim in one, the other may settle and claim.
    """

    _phase: int
    pid: int
    exit_code: int  # of a DEAD bee: negative for a signal
    condemned: int  # the verdict on this bee; the first one stays, so it runs nothing more
    _accused: float  # when the job started that the verdict is about
    reason: bytes  # of the verdict, for people
    turn: int  # which hand's claim it works on
    started: float  # when its last job started
    raised: int  # its function raised, and that is to be settled: its time is not running any more
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
    heir: int  # set by the keeper: the row that this bee has from the one before, under which nobody knows its pid
    _has_data: int  # whether the job of a prepared claim has data, and the data, if there is room
    _data: bytes
    hands: Any
    _fields_ = [
        ("_phase", ctypes.c_int64),
        ("pid", ctypes.c_int64),
        ("exit_code", ctypes.c_int64),
        ("condemned", ctypes.c_int64),
        ("_accused", ctypes.c_double),
        ("reason", ctypes.c_char * 256),
        ("turn", ctypes.c_int64),
        ("started", ctypes.c_double),
        ("raised", ctypes.c_int64),
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
        ("hands", Hand * 2),
    ]

    @property
    def phase(self) -> Phase:
        return Phase(self._phase)

    def move(self, to: Phase) -> None:
        """Go to the phase `to`, along an edge that exists."""
        if to not in EDGES[self.phase]:
            raise AssertionError(f"a slot cannot go from {self.phase.name} to {to.name}")
        self._phase = to

    @property
    def hand(self) -> Hand:
        """The one whose claim the bee works on."""
        hand: Hand = self.hands[self.turn]
        return hand

    def clear(self) -> None:
        """Forget the last bee; the counts over the slot's life stay."""
        for hand in self.hands:
            hand.clear()
        self._forget_process()

    def _forget_process(self) -> None:
        self.pid = self.exit_code = self.jobs = 0
        self.note = self.reason = b""
        self.log_start = self.condemned = self.raised = self.heir = 0

    def prepare(self, claim: Claim, since: float) -> None:
        """Forget the last bee, and hold `claim`, of one job, for its heir. Whoever dies on the way leaves a claim that
        nobody has begun."""
        self.hand.hold(claim, since)
        self._forget_process()
        (job,) = claim.jobs
        data = (job.data or "").encode()
        self._has_data = bool(data)
        self._data = data if len(data) < DATA else b""
        self.heir = claim.bee

    def prepared(self) -> Claim | None:
        """The claim that was made for a bee before its birth; None if its data must be asked for."""
        if self._has_data and not self._data:
            return None
        hand = self.hand
        return Claim(hand.bee, hand.number, (hand.read_first(self._data.decode() or None),))

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
        return self.hand.is_running

    def read_reason(self) -> str:
        return self.reason.decode("utf-8", "ignore")

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
        return self.hand.read_job_id()
