"""How a jobset stands, as values for people and programs to read. Times are the database's, with their zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from workerbee.job import Counts, FailureGroup

LONGEST = 10


@dataclass(frozen=True)
class Overview:
    """A jobset in a few numbers, all as they were `at` that time.

    `active_at` is when one of its nodes was last heard of, or else when it was created. `nodes_alive` of its nodes are.
    `rate` is jobs a second that became COMPLETE or FAILED over the last minutes, on the nodes that are alive.
    """

    jobset_id: str
    at: datetime
    created_at: datetime
    created_by: str
    active_at: datetime
    counts: Counts
    nodes_alive: int
    rate: float

    @property
    def ended(self) -> bool:
        """Every job is COMPLETE or FAILED."""
        return self.counts.finished

    @property
    def eta(self) -> float | None:
        """Seconds until the end if all goes on as lately; None when nobody can tell."""
        if self.ended:
            return 0.0
        # How long the last jobs take is their own affair: others' pace says nothing of them.
        if not self.rate or not self.counts.pending:
            return None
        return (self.counts.pending + self.counts.claimed) / self.rate


@dataclass(frozen=True)
class Durations:
    """Seconds that completed jobs took. `median` and `p95` are those of `sampled` jobs picked at random, None when the
    sample is empty; `longest` is that of all jobs, None while none has completed."""

    median: float | None
    p95: float | None
    longest: float | None
    sampled: int


@dataclass(frozen=True)
class NodeStatus:
    """One node: a supervisor with its bees.

    `done` jobs became COMPLETE here and `failed` became FAILED, `rate` of both a second over the last minutes, by the
    node's own word, which is up to half a minute old. `stop` is 'drain' or 'now' when it was told to stop, else None.
    `slowest` is seconds, of the longest job that completed here.
    """

    node: int
    host: str
    pid: int
    started_at: datetime
    beat_at: datetime
    ended_at: datetime | None
    alive: bool
    stop: str | None
    bees: int
    done: int
    failed: int
    rate: float
    slowest: float | None


@dataclass(frozen=True)
class BeeStatus:
    """One bee. Since `since`, `seconds` ago, it has held `jobs` jobs, the first or only of which is `job_id`: the one
    that runs, when that takes longer than two seconds. A bee between jobs holds none. The `pid` of one that has just
    been born may not be known yet."""

    bee: int
    node: int
    host: str
    pid: int | None
    jobs: int
    job_id: str | None
    since: datetime | None
    seconds: float | None


@dataclass(frozen=True)
class Status(Overview):
    """A jobset in full: also how long jobs take, what fails (the most frequent first), and who does what.

    Of nodes that have ended only the last are there.
    """

    durations: Durations
    failures: tuple[FailureGroup, ...]
    nodes: tuple[NodeStatus, ...]
    bees: tuple[BeeStatus, ...]

    @property
    def longest_running(self) -> tuple[BeeStatus, ...]:
        """The bees whose jobs have run longest, at most ten, the longest first."""
        working = [bee for bee in self.bees if bee.since is not None]
        return tuple(sorted(working, key=lambda bee: bee.since or self.at)[:LONGEST])
