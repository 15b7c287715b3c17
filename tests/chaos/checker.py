"""The checker: holds what a round left, in the journal and in the tables, against what is promised.

Nothing here measures time against a limit, but for the few seconds in which a signal must have been heard. What may
happen to a job is decided by what was done to its processes, and both are on record.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.chaos.behaviours import BEHAVIOURS
from tests.chaos.journal import RAISED, RETURNED, Attempt
from tests.chaos.plan import Job
from tests.chaos.records import Disturbance, Hit
from tests.chaos.tables import Failed, Row
from tests.chaos.watches import HICCUP, SLOWNESS

MAX_LOSSES = 10
HEARD_WITHIN = 2.0  # seconds from a signal until no bee of the node claims
# What can keep a node from beating for a lease, and for how many seconds after that it may find no time to.
SILENCING = {
    ("kill_keeper", "kill_supervisor", "stop_supervisor"): 4.0,
    ("stop_keeper", "freeze_network", "restart", "fill_connections"): 8.0,
}
COUNTERS = {"error": "errors", "timeout": "errors", "crash": "crashes", "memory": "crashes", "lost": "losses"}
ENDED_WITHIN = 1.0 + 2.0 * SLOWNESS  # seconds from a job's timeout to its end: it has one to write its stack
DELAYS = ("stop_", "freeze_", "restart", "fill_")  # of a signal, or of a claim that was under way when it came
AT_ONCE = 0.1  # seconds in which a process may be killed between its last line and its return


@dataclass
class Evidence:
    """What a round left; `offset` is the clock of day minus the monotonic clock."""

    jobs: list[Job]
    max_attempts: int
    max_crashes: int
    job_timeout: float | None = None
    leases: dict[int, float] = field(default_factory=dict)  # by node
    offset: float = 0.0
    rows: list[Row] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    signals: list[tuple[float, int, signal.Signals]] = field(default_factory=list)  # when, and to which node
    disturbances: list[Disturbance] = field(default_factory=list)
    fallen: dict[int, float] = field(default_factory=dict)  # nodes whose script ended, and not in order
    hiccups: list[float] = field(default_factory=list)
    summaries: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # of each call that returned: total, complete, failed


class Checker:
    """What is wrong with `evidence`, invariant by invariant."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._job = {job.job_id: job for job in evidence.jobs}
        self._row = {row.job_id: row for row in evidence.rows}
        self._failures: dict[str, list[Failed]] = defaultdict(list)
        self._attempts: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in sorted(evidence.attempts, key=lambda attempt: attempt.began):
            self._attempts[attempt.job_id].append(attempt)
        for failure in evidence.failures:
            self._failures[failure.job_id].append(self._identified(failure))
        self._hits = {hit.pid: hit for hit in evidence.hits}
        self._signals: dict[int, list[float]] = defaultdict(list)
        for at, node, _ in evidence.signals:
            self._signals[node].append(at)
        self.narrow = 0  # jobs run again since their bee was killed in the moment between its last line and its return

    def wrong(self) -> list[str]:
        """Every broken promise, in words."""
        found = [*self._table(), *self._stops()]
        for job_id in sorted(self._job.keys() & self._row.keys()):
            checks = (self._counters, self._end, self._numbers, self._blame, self._reruns, self._overlaps, self._sums)
            found += [f"job {job_id} ({self._job[job_id].does}): {line}" for check in checks for line in check(job_id)]
        return found

    def _identified(self, failure: Failed) -> Failed:
        """With the pid of the attempt that is meant, where the node was lost before it could write that down."""
        if failure.pid:
            return failure
        job_id = failure.job_id
        taken = {f.pid for f in (*self._evidence.failures, *self._failures[job_id]) if f.job_id == job_id}
        for attempt in self._attempts[job_id]:
            before = attempt.began + self._evidence.offset < failure.at
            if before and attempt.node == failure.node and attempt.pid not in taken:
                return replace(failure, pid=attempt.pid)
        return failure

    def _table(self) -> Iterator[str]:
        """No job is lost, none comes from nowhere, each is there once."""
        times = Counter(row.job_id for row in self._evidence.rows)
        yield from (f"job {job_id} is not in the table" for job_id in self._job.keys() - times.keys())
        yield from (f"job {job_id} was never added" for job_id in times.keys() - self._job.keys())
        yield from (f"job {job_id} is there {number} times" for job_id, number in times.items() if number > 1)
        known = self._job.keys()
        yield from (f"job {job_id} was run, and never added" for job_id in self._attempts.keys() - known)
        yield from (f"job {job_id} failed, and was never added" for job_id in self._failures.keys() - known)
        states = Counter(row.state for row in self._evidence.rows)
        for total, complete, failed in self._evidence.summaries:
            if (total, complete, failed) != (len(known), states["COMPLETE"], states["FAILED"]):
                ended = f"{complete} complete and {failed} failed of {total}"
                yield f"a call returned with {ended}, and there are {dict(states)}"

    def _counters(self, job_id: str) -> Iterator[str]:
        row = self._row[job_id]
        counted = Counter(COUNTERS[failure.kind] for failure in self._failures[job_id])
        told = Counter(errors=row.errors, crashes=row.crashes, losses=row.losses)
        if counted != told:
            yield f"its counters say {dict(told)}, its failures {dict(counted)}"

    def _end(self, job_id: str) -> Iterator[str]:
        """It is COMPLETE or FAILED; FAILED exactly if it reached a limit; COMPLETE only if it returned."""
        row, limits = self._row[job_id], self._evidence
        reached = row.errors >= limits.max_attempts or row.crashes >= limits.max_crashes or row.losses >= MAX_LOSSES
        over = row.errors > limits.max_attempts or row.crashes > limits.max_crashes or row.losses > MAX_LOSSES
        if row.state not in ("COMPLETE", "FAILED"):
            yield f"it is {row.state} at the end"
        elif over or reached != (row.state == "FAILED"):
            yield f"it is {row.state} with {row.errors} errors, {row.crashes} crashes, {row.losses} losses"
        if row.state == "COMPLETE" and not any(a.how == RETURNED for a in self._attempts[job_id]):
            yield "it is COMPLETE, and never returned"
        behaviour = BEHAVIOURS[self._job[job_id].does]
        ends_badly = (
            behaviour.kind and not behaviour.once and not (behaviour.kind == "memory" and self._unwatched(job_id))
        )
        if row.state == "COMPLETE" and ends_badly:
            yield f"it is COMPLETE, and always ends in {behaviour.kind}"
        finals = [failure.final for failure in self._failures[job_id]]
        if sum(finals) != (row.state == "FAILED") or (row.state == "FAILED" and not finals[-1]):
            yield f"it is {row.state}, and of its failures these are final: {finals}"

    def _unwatched(self, job_id: str) -> bool:
        """Whether it returned in a node whose supervisor was suspended meanwhile, and saw nothing of it."""
        return any(
            d.name == "stop_supervisor" and d.touches(a.node, a.began, a.ended or a.began)
            for a in self._attempts[job_id]
            if a.how == RETURNED
            for d in self._evidence.disturbances
        )

    def _numbers(self, job_id: str) -> Iterator[str]:
        numbers = [failure.attempt for failure in self._failures[job_id]]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"its failures are numbered {numbers}"

    def _blame(self, job_id: str) -> Iterator[str]:
        """A job is charged only with what it did, or with what we did to its process."""
        behaviour = BEHAVIOURS[self._job[job_id].does]
        for failure in self._failures[job_id]:
            hit = self._hits.get(failure.pid)
            own = failure.kind == behaviour.kind and failure.type in (behaviour.type or failure.type, "")
            if failure.kind == "error" and not own:
                yield f"it never raises {failure.type}: {failure.message[:200]}"
            elif failure.kind == "crash" and not own and not self._was_hit(hit, job_id):
                yield f"it is charged with a crash, {failure.type}, and its bee {failure.pid} was not hit in it: {hit}"
            elif failure.kind == "timeout":
                yield from self._overtime(failure)
            elif failure.kind == "memory" and not own and "ran short" not in failure.message:
                yield f"it is charged with {failure.message}"
            elif failure.kind == "lost" and not self._was_lost(failure):
                yield f"it was lost ({failure.message}), and nothing was done to its node {failure.node}"
        errors = sum(failure.kind == "error" for failure in self._failures[job_id])
        if behaviour.once and errors > 1:
            yield f"it raises once, and is charged with {errors} errors"

    def _overtime(self, failure: Failed) -> Iterator[str]:
        """It ran for longer than it may, and not for much longer."""
        at, limit = failure.at - self._evidence.offset, self._evidence.job_timeout
        began = [a.began for a in self._attempts[failure.job_id] if a.pid == failure.pid and a.began < at]
        took = at - max(began, default=at)
        if limit is None or took < limit - 0.1:
            yield f"it is charged with a timeout after {took:.1f} s"
        elif took > limit + ENDED_WITHIN and not self._was_silenced(failure.node, at - took, at):
            yield f"it was ended after {took:.1f} s, and its limit is {limit} s"

    def _was_hit(self, hit: Hit | None, job_id: str) -> bool:
        return hit is not None and (hit.role == "supervisor" or hit.running in (None, job_id))

    def _was_lost(self, failure: Failed) -> bool:
        at = failure.at - self._evidence.offset
        if failure.node in self._evidence.fallen:
            return True
        if "silent" not in failure.message:
            return any(hit.node == failure.node and hit.role == "supervisor" for hit in self._evidence.hits)
        lease = self._evidence.leases.get(failure.node, 0.0)
        return any(
            d.name in names and d.touches(failure.node, at - lease - delay, at)
            for names, delay in SILENCING.items()
            for d in self._evidence.disturbances
        ) or any(at - lease - HICCUP < hiccup < at + HICCUP for hiccup in self._evidence.hiccups)

    def _was_silenced(self, node: int, begin: float, end: float) -> bool:
        """Whether something kept the node from its duties, besides what only concerns one bee or old rows."""
        names = ("stop_bee", "hold_snapshot")
        return any(d.touches(node, begin, end) and d.name not in names for d in self._evidence.disturbances) or any(
            begin < hiccup < end + 1 for hiccup in self._evidence.hiccups
        )

    def _reruns(self, job_id: str) -> Iterator[str]:
        """A job that returned is not run again, unless that attempt was lost."""
        lost = {failure.pid for failure in self._failures[job_id] if failure.kind == "lost"}
        attempts = self._attempts[job_id]
        for number, attempt in enumerate(attempts):
            last = number == len(attempts) - 1
            if attempt.how != RETURNED or attempt.pid in lost or (last and self._row[job_id].state == "COMPLETE"):
                continue
            condemned = {f.pid for f in self._failures[job_id] if f.kind in ("timeout", "memory")}
            if attempt.pid in condemned or self._killed_while_returning(attempt):
                self.narrow += 1
            elif not last:
                yield f"it returned in {attempt.pid}, and ran again in {attempts[number + 1].pid}"
            else:
                yield f"it returned in {attempt.pid}, and is {self._row[job_id].state}"

    def _killed_while_returning(self, attempt: Attempt) -> bool:
        """Its process was killed after it wrote its last line, and before it could note that it had returned."""
        hit = self._hits.get(attempt.pid)
        if hit is not None and hit.role == "bee":
            return self._was_hit(hit, attempt.job_id) and hit.at > (attempt.ended or 0)
        # A supervisor's second signal, or the end of its grace, kills its bees at a time that is not on record.
        ended = attempt.ended or 0
        last = not any(a.pid == attempt.pid and a.began > attempt.began for a in self._evidence.attempts)
        return last and any(at - AT_ONCE < ended for at in self._signals[attempt.node])

    def _overlaps(self, job_id: str) -> Iterator[str]:
        """No two attempts run at the same time, unless the earlier one was lost."""
        lost = {failure.pid for failure in self._failures[job_id] if failure.kind == "lost"}
        attempts = self._attempts[job_id]
        for number, attempt in enumerate(attempts):
            for earlier in attempts[:number]:
                at_once = attempt.held_by == earlier.pid or (earlier.ended or 0) > attempt.began
                if at_once and earlier.pid not in lost:
                    yield f"it began in {attempt.pid} while it ran in {earlier.pid}"
            if attempt.held_by and attempt.held_by not in {earlier.pid for earlier in attempts[:number]}:
                yield f"it began in {attempt.pid} while {attempt.held_by} had its lock"

    def _sums(self, job_id: str) -> Iterator[str]:
        """Every attempt is accounted for, and every failure is some attempt's."""
        attempts, failures = self._attempts[job_id], self._failures[job_id]
        for pid in {attempt.pid for attempt in attempts} | {failure.pid for failure in failures}:
            mine = [attempt for attempt in attempts if attempt.pid == pid]
            charged = Counter(failure.kind for failure in failures if failure.pid == pid)
            returned = sum(attempt.how == RETURNED for attempt in mine)
            raised = sum(attempt.how == RAISED for attempt in mine)
            if charged["error"] > raised:
                yield f"it raised {raised} times in {pid}, and is charged with {charged['error']} errors"
            if charged.total() - charged["lost"] > len(mine) and not self._was_hit(self._hits.get(pid), job_id):
                yield f"it ran {len(mine)} times in {pid}, and is charged with {dict(charged)}"
            # What was interrupted by order is given back without a word.
            left = len(mine) - returned - charged.total()
            if left > 0 and not self._signals[mine[0].node]:
                yield f"it ran {len(mine)} times in {pid}, of which {left} came to nothing: {dict(charged)}"

    def _stops(self) -> Iterator[str]:
        """A node that was told to stop claims no more."""
        told = {node: min(times) for node, times in self._signals.items() if times}
        for attempt in self._evidence.attempts:
            if attempt.node not in told:
                continue
            ends = [
                d.end
                for d in self._evidence.disturbances
                if d.touches(attempt.node, told[attempt.node], attempt.began) and d.name.startswith(DELAYS)
            ]
            if attempt.began > max([told[attempt.node], *ends]) + HEARD_WITHIN:
                late = attempt.began - told[attempt.node]
                yield f"job {attempt.job_id} began in node {attempt.node} {late:.1f} s after that was told to stop"
