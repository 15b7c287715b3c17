"""The words of a jobset as values: states, kinds of failure, jobs, claims, outcomes. Imports nothing of ours."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

JobFunction = Callable[[str, dict[str, Any]], object]


class State(str, enum.Enum):
    """Where a job stands.

    PENDING -> CLAIMED    a bee claims it
    CLAIMED -> COMPLETE   its function returned
    CLAIMED -> PENDING    the attempt failed, or the bee gave the job back without one
    CLAIMED -> FAILED     the attempt failed, and it was the last that the limits allow
    FAILED -> PENDING     a person has it retried, or reset
    COMPLETE -> PENDING   a person has it reset; nothing else leads out of COMPLETE
    """

    PENDING = "PENDING"
    CLAIMED = "CLAIMED"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"


class Kind(str, enum.Enum):
    """How an attempt failed."""

    ERROR = "error"  # the function raised
    TIMEOUT = "timeout"  # it ran for longer than it may, and its bee was killed
    CRASH = "crash"  # it took its bee down, by a signal or by leaving the process
    MEMORY = "memory"  # its bee used more memory than it may, and was killed
    LOST = "lost"  # its node went silent or died, so nobody knows how far it came

    @property
    def counter(self) -> str:
        """The job's count that this kind adds to: a hang is an error that says nothing, a glutton as good as dead."""
        return {"error": "errors", "timeout": "errors", "lost": "losses"}.get(self.value, "crashes")


@dataclass(frozen=True)
class Limits:
    """How many failed attempts a job may have by each counter of `Kind`; with the last one it is FAILED."""

    max_attempts: int = 3
    max_crashes: int = 3
    max_losses: int = 10

    def of(self, kind: Kind) -> int:
        """The limit that an attempt of this `kind` counts against."""
        limits = {"errors": self.max_attempts, "crashes": self.max_crashes, "losses": self.max_losses}
        return limits[kind.counter]


class Job(NamedTuple):
    """One job as its bee sees it."""

    pos: int
    job_id: str
    data: str | None  # JSON text: parsed just before the call, so that a batch holds no object trees


@dataclass(frozen=True)
class Claim:
    """A bee's right to run `jobs`, which are at successive positions.

    `number` grows with each of the bee's claims, so a late word names an old one.
    """

    bee: int
    number: int
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why an attempt did not complete, as kept in `wb_failures`; every text is bounded and storable."""

    kind: Kind
    type: str  # the exception's class, the signal's name, or "exit"
    message: str
    stack: str = ""
    exit_code: int | None = None
    log: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of the attempt at position `pos` after `seconds`: it completed, or `failure` says why not."""

    pos: int
    seconds: float | None
    failure: Failure | None = None


@dataclass(frozen=True)
class Charge:
    """A failure after it was counted: the job's `count` by this counter so far, of `limit`; `state` since then.

    `attempt` counts the job's failed attempts of every kind.
    """

    job_id: str
    failure: Failure
    attempt: int
    count: int
    limit: int
    state: State


@dataclass(frozen=True)
class Counts:
    """How many jobs of a jobset are in each state, all at one instant.

    For the node that asks, `offered` of the pending ones may be claimed, `others` is how many nodes live beside it, and
    `stop` is 'drain' or 'now' when it was told to stop.
    """

    total: int
    pending: int
    claimed: int
    failed: int
    offered: int = field(default=0, compare=False)
    others: int = field(default=0, compare=False)
    stop: str | None = field(default=None, compare=False)

    @property
    def complete(self) -> int:
        return self.total - self.pending - self.claimed - self.failed

    @property
    def finished(self) -> bool:
        """Every job is COMPLETE or FAILED."""
        return self.pending == self.claimed == 0


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one kind and message, with the id of one such job."""

    kind: Kind
    type: str
    message: str
    count: int
    example: str


@dataclass(frozen=True)
class JobsetSummary:
    """How a jobset stands when a call ends, and what this node did for it.

    `total`, `complete` and `failed` count the jobset's jobs, whoever ran them. `completed_here` and `failed_here` are
    the jobs that reached those states on this node; `crashed_here` counts its bees that died in a job without having
    been killed for time or memory, and `bees_started` its bees, replacements not counted. `setup_seconds` is the time
    until the first bee was started, `seconds` the time from then on. `stopped` says why the node ended before the
    jobset did: it was told to, its time was over, or too many jobs had failed.
    """

    jobset_id: str
    total: int
    complete: int
    failed: int
    completed_here: int
    failed_here: int
    crashed_here: int
    bees_started: int
    setup_seconds: float
    seconds: float
    stopped: str = ""

    @property
    def ok(self) -> bool:
        """Every job of the jobset is COMPLETE."""
        return self.complete == self.total

    def __str__(self) -> str:
        left = self.total - self.complete - self.failed
        parts = [f"{self.complete} of {self.total} jobs complete", f"{self.failed} failed"]
        if left:
            parts.append(f"{left} left")
        here = f"{self.completed_here} completed"
        if self.failed_here:
            here += f", {self.failed_here} failed"
        if self.crashed_here:
            here += f", {self.crashed_here} crash{'es' * (self.crashed_here != 1)}"
        bees = f"{self.bees_started} bee{'s' * (self.bees_started != 1)}"
        return f"jobset '{self.jobset_id}': {', '.join(parts)}; here {here} in {self.seconds:.1f} s by {bees}"
