"""A hand of a bee: the claim it holds there and how far it has come with it, in memory that survives it."""

from __future__ import annotations

import ctypes
from typing import Any

from workerbee.job import Claim, Job

BATCH = 4096  # the most jobs a claim may hold
JOB_IDS = 131072  # bytes for their ids
NO_NUMBER = 0xFF  # bytes of which make a float that is none


class Hand(ctypes.Structure):
    """A claim of a bee. Times are monotonic seconds, which all processes of a machine share."""

    bee: int  # the claim's row in wb_claims__<id>; 0 while there is none
    number: int  # the claim that `done` speaks of
    lo: int  # that claim's first position, and how many it has
    size: int
    since: float  # when it was asked for
    asked: float  # when it was sent to be settled and the next one asked for, while the answer is still to be read
    cut: int  # set by the keeper: the claim of which nothing more may be started
    pos: int  # the position whose job was started last; 0 between claims
    _job_ids: Any  # of the claim, as many as there is room for
    done: Any  # per position of the claim: the seconds it took to complete, or no number while it has not
    _fields_ = [
        ("bee", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("lo", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("since", ctypes.c_double),
        ("asked", ctypes.c_double),
        ("cut", ctypes.c_int64),
        ("pos", ctypes.c_int64),
        ("_job_ids", ctypes.c_ubyte * JOB_IDS),
        ("done", ctypes.c_float * BATCH),
    ]

    def clear(self) -> None:
        """Hold nothing, in no row."""
        self.bee = self.number = self.lo = self.size = self.cut = self.pos = 0
        self.asked = 0.0

    def hold(self, claim: Claim, since: float) -> None:
        """Speak from now on of `claim`, asked for at the monotonic second `since`."""
        self.pos = 0
        self.asked = 0.0
        self.lo = claim.jobs[0].pos if claim.jobs else 0
        self.size = len(claim.jobs)
        self.since = since
        ids = "\0".join([job.job_id for job in claim.jobs]).encode()[: JOB_IDS - 1] + b"\0"
        ctypes.memmove(self._job_ids, ids, len(ids))
        ctypes.memset(self.done, NO_NUMBER, self.size * ctypes.sizeof(ctypes.c_float))
        # Last: until then the board speaks of the claim before, which is settled.
        self.number = claim.number
        self.bee = claim.bee

    @property
    def is_running(self) -> bool:
        """Whether a job's function has been called, and has not returned."""
        pos, index = self.pos, self._index()
        return pos != 0 and index >= 0 and not self.done[index] >= 0

    def completed_so_far(self) -> list[tuple[int, float]]:
        """The positions of the claim whose function has returned, and the seconds that it took."""
        return [(self.lo + i, seconds) for i, seconds in enumerate(self.done[: self.size]) if seconds >= 0]

    def read_job_id(self) -> str:
        """The id of the job that was started last; "" when there was no room for it."""
        pos, index = self.pos, self._index()
        return self._read_id(index) if pos and index >= 0 else ""

    def read_first(self, data: str | None) -> Job:
        """The first job of the claim, with this data."""
        return Job(self.lo, self._read_id(0), data)

    def _read_id(self, index: int) -> str:
        start = ctypes.addressof(self) + Hand._job_ids.offset
        ids = ctypes.string_at(start, JOB_IDS if index else -1).split(b"\0", self.size)
        return ids[index].decode("utf-8", "ignore") if index < len(ids) else ""

    def _index(self) -> int:
        """Of the job in its claim; -1 when the bee has gone on to another claim between our two looks."""
        index: int = self.pos - self.lo
        return index if index < BATCH else -1
