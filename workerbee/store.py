"""A jobset in the database: one connection, a method per step of a job's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workerbee.channel import Connection
from workerbee.job import (
    Charge,
    Claim,
    Counts,
    Failure,
    FailureGroup,
    Job,
    Kind,
    Limits,
    Outcome,
    State,
)
from workerbee.nodes import Nodes

ROOM = 65536  # bytes of ids and data that the kernels on the way can hold, while nobody reads them


class Store(Nodes):
    """The jobset `jobset_id` over one `connection`, which it owns."""

    def __init__(self, connection: Connection, jobset_id: str) -> None:
        super().__init__(connection, jobset_id)
        self._total: int | None = None

    def total(self) -> int | None:
        """How many jobs the jobset has; None when it does not exist."""
        if self._total is None:
            for total, isolation in self.run("find_jobset"):
                self._know(total, isolation)
        return self._total

    def _know(self, total: int, isolation: str) -> None:
        self._total, self._is_isolated = total, isolation == "read committed"

    def counts(self, node: int = 0) -> Counts:
        """The jobs by state, at one instant, as `node` sees them; costs the same however many there are."""
        return Counts(*self.run("count_jobs", node=node)[0])

    def failure_groups(self, most: int) -> list[FailureGroup]:
        """The `most` frequent failures, grouped by kind and message."""
        return [FailureGroup(Kind(kind), *rest) for kind, *rest in self.run("group_failures", most=most)]

    # A bee's way: add, claim and settle again and again, drop.

    def add_bee(self, node: int, pid: int) -> Claim:
        """Make a bee known, with an empty claim."""
        rows = self.run("add_bee", node=node, pid=pid)
        if not rows:
            raise self._dropped()
        ((bee, total, isolation),) = rows
        self._know(total, isolation)
        return Claim(bee, 0)

    def add_hand(self, bee: int, node: int, pid: int) -> Claim | None:
        """Let `bee` hold a second claim, in the row with the negative number; None when it has lost the first."""
        rows = self.run("add_hand", bee=bee, node=node, pid=pid)
        return Claim(-bee, rows[0][0]) if rows else None

    def settle_and_claim(
        self, claim: Claim, seconds: Sequence[float], size: int, node: int, alone: bool = True
    ) -> tuple[Claim | None, bool]:
        """In one commit, mark the jobs of the claim COMPLETE, each with its seconds, and claim up to `size` others.

        Unless the node is `alone`, jobs that failed on it last are left to others.
        Returns the new claim and whether there was pending work (an empty claim despite it means that others were
        at the same rows: try again). The claim is None when somebody has taken the old one away; then nothing was
        written.
        """
        step = _step(claim, seconds, size, node, alone)
        return _following(claim, self.run("settle_and_claim", bare=True, total=self.total(), room=None, **step))

    def ask_to_settle_and_claim(
        self, claim: Claim, seconds: Sequence[float], size: int, node: int, alone: bool
    ) -> None:
        """The same, for whoever has something else to do before reading the `answer_to_claim`. What is too large to
        wait for that is not claimed."""
        step = _step(claim, seconds, size, node, alone)
        self.ask("settle_and_claim", bare=True, total=self.total(), room=ROOM, **step)

    def answer_to_claim(self, claim: Claim) -> tuple[Claim | None, bool]:
        """What came of settling `claim` and claiming others."""
        return _following(claim, self.answer())

    def settle(
        self,
        bee: int,
        number: int,
        outcomes: Sequence[Outcome],
        limits: Limits,
        *,
        drop: bool,
        pid: int | None = None,
    ) -> list[Charge] | None:
        """Write `outcomes`, what became of the claim `number` of `bee`, and release what it held besides.

        With `drop` the bee is gone, and so is its row; otherwise it holds an empty claim with the next number. A
        dead bee may have claimed once more without a trace: then its outcomes are in already, and that newer
        claim is released. The bee is the process `pid`, by default the one in its row. Returns the charges, or None
        when the claim had been taken away: nothing is written.
        """
        with self.transaction():
            rows = self.run("hold_claim", bee=bee)
            if not rows:
                return None
            if rows[0][0] != number:
                if not drop:
                    return []  # we wrote them already: only the answer was lost
                outcomes = []
            charges = self._write_off(bee, rows[0], outcomes, limits, pid)
            self.run("drop_bee" if drop else "empty_claim", bee=bee)
            return charges

    def settle_for_heir(
        self, bee: int, number: int, outcomes: Sequence[Outcome], limits: Limits, *, pid: int, node: int, alone: bool
    ) -> tuple[list[Charge] | None, Claim | None]:
        """Like `settle` with `drop`, for a dead bee on `node` that another one is to replace: in the same commit its
        row gets a job for that one. Also returns this claim, or None when there was none to be had: then the row is
        gone.
        """
        with self.transaction():
            rows = self.run("leave_claim", bee=bee)
            if not rows:
                return None, None
            in_force = rows[0][0] == number
            charges = self._write_off(bee, rows[0], outcomes if in_force else [], limits, pid)
            claim, _ = self.settle_and_claim(Claim(bee, rows[0][0]), [], 1, node, alone)
            if claim is not None and claim.jobs:
                return charges, claim
            self.run("drop_bee", bee=bee)
            return charges, None

    def drop_if_empty(self, bees: list[int]) -> list[int]:
        """Those of the `bees` that hold nothing are gone, and returned: most do, when there is no work left."""
        return [bee for (bee,) in self.run("drop_if_empty", bees=bees)]

    def _write_off(
        self, bee: int, row: tuple[Any, ...], outcomes: Sequence[Outcome], limits: Limits, pid: int | None
    ) -> list[Charge]:
        """Settle and release all that the claim in the bee's `row` holds."""
        _, attempts, lo, hi, known_as, node = row
        mine = [] if lo is None else range(lo, hi + 1)
        outcomes = [outcome for outcome in outcomes if outcome.pos in mine]
        done = {o.pos: o.seconds for o in outcomes if o.failure is None}
        if done:
            self.run("complete_jobs", done=list(done), seconds=list(done.values()), node=node)
        by = {"bee": abs(bee), "pid": known_as if pid is None else pid, "node": node}
        charges = [
            charge
            for o in outcomes
            if o.failure
            for charge in self._charge(o.pos, o.pos, o.seconds, o.failure, limits, **by)
        ]
        settled = {outcome.pos for outcome in outcomes}
        self._release(attempts, [pos for pos in mine if pos not in settled])
        return charges

    def take_back(self, bee: int, number: int, done: Sequence[tuple[int, float]], limits: Limits) -> bool:
        """Leave `bee` nothing of its claim `number`, of which `done` are COMPLETE, each with its seconds, and nothing
        of the one after it, which it has not begun. False, and nothing happens, while another is at that claim."""
        with self.transaction():
            rows = self.run("seize_claim", bee=bee)
            if not rows:
                return False
            if rows[0][0] in (number, number + 1):
                outcomes = [Outcome(*one) for one in done] if rows[0][0] == number else []
                self._write_off(bee, rows[0], outcomes, limits, None)
                self.run("empty_claim", bee=bee)
            return True

    def cut_claim(self, bee: int, number: int, pos: int, done: Sequence[tuple[int, float]]) -> bool:
        """Leave of the claim `number` of `bee` only `pos`, which runs: the positions of `done` are COMPLETE, each with
        its seconds, the rest is released. False, and nothing happens, while another is at that claim, or after it."""
        with self.transaction():
            rows = self.run("seize_claim", bee=bee)
            if not rows or rows[0][0] != number:
                return False
            ((_, attempts, lo, hi, _, node),) = rows
            seconds = {p: s for p, s in done if lo <= p <= hi and p != pos}
            if seconds:
                self.run("complete_jobs", done=list(seconds), seconds=list(seconds.values()), node=node)
            self._release(attempts, [p for p in range(lo, hi + 1) if p != pos and p not in seconds])
            self.run("cut_claim", bee=bee, number=number, pos=pos)
            return True

    def _release(self, attempts: int, positions: list[int]) -> None:
        ranges = _ranges(positions)
        if ranges:
            lows, highs = map(list, zip(*ranges, strict=True))
            self.run("release_jobs", attempts=attempts, lows=lows, highs=highs)

    def _charge(
        self, lo: int, hi: int, seconds: float | None, failure: Failure, limits: Limits, **by: Any
    ) -> list[Charge]:
        limit = limits.of(failure.kind)
        rows = self.run(
            "charge_jobs",
            lo=lo,
            hi=hi,
            seconds=seconds,
            limit=limit,
            kind=failure.kind.value,
            counter=failure.kind.counter,
            type=failure.type,
            message=failure.message,
            stack=failure.stack,
            exit_code=failure.exit_code,
            log=failure.log,
            **by,
        )
        return [Charge(job_id, failure, attempt, count, limit, State(state)) for job_id, state, attempt, count in rows]

    def find_claim(self, bee: int) -> Claim | None:
        """What `bee` holds by the database's word; None when it has been taken away."""
        rows = self.run("find_claim", bee=bee)
        if not rows:
            return None
        return Claim(bee, rows[0][0], tuple(Job._make(job) for _, *job in rows if job[0]))

    def introduce_bees(self, bees: list[int], pids: list[int]) -> list[int]:
        """Each of the `bees` is now the process with the pid in the same place; returns those that were written down.

        Not those at which somebody is: then there is a next time."""
        return [bee for (bee,) in self.run("introduce_bees", bees=bees, pids=pids)]

    def lose_bee(self, bee: int, message: str, limits: Limits) -> list[Charge]:
        """Take away what `bee` holds, since its node is lost; each job of it is charged with that.

        Not while somebody is at it: then there is a next time.
        """
        with self.transaction():
            rows = self.run("seize_claim", bee=bee)
            if not rows:
                return []
            ((_, _, lo, hi, pid, node),) = rows
            failure = Failure(Kind.LOST, "lost", message)
            charges = []
            if lo is not None:
                charges = self._charge(lo, hi, None, failure, limits, bee=abs(bee), pid=pid, node=node)
            self.run("drop_bee", bee=bee)
            return charges


def _step(claim: Claim, seconds: Sequence[float], size: int, node: int, alone: bool) -> dict[str, Any]:
    return {
        "bee": claim.bee,
        "number": claim.number,
        "first": claim.jobs[0].pos if claim.jobs else 0,
        # As a literal: psycopg2 makes a list an expression, each item of which the server's parser goes through.
        "took": "{" + str([int(one * 1e6) for one in seconds])[1:-1] + "}",
        "size": size,
        "node": node,
        "alone": alone,
    }


def _following(claim: Claim, rows: list[tuple[Any, ...]]) -> tuple[Claim | None, bool]:
    if not rows:
        return None, True
    pos = rows[0][0]
    return Claim(claim.bee, claim.number + 1, tuple(map(Job._make, rows)) if pos else ()), pos is not None


def _ranges(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending positions as pairs of the first and the last of each run without a gap."""
    ranges: list[tuple[int, int]] = []
    for pos in positions:
        if ranges and ranges[-1][1] == pos - 1:
            ranges[-1] = ranges[-1][0], pos
        else:
            ranges.append((pos, pos))
    return ranges
