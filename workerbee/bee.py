"""A bee: claims a job, runs it, says what became of it, and again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

# By name: a job may put others into their modules.
from time import monotonic
from typing import Protocol

from workerbee.board import Board
from workerbee.calling import Calling
from workerbee.description import describe
from workerbee.holdings import Holdings
from workerbee.job import Charge, Claim, Job, JobFunction, Limits, Outcome, State
from workerbee.portion import SPAN, Portion
from workerbee.session import Session
from workerbee.slot import Phase

FRESH = 1.0  # seconds after it was asked for in which jobs of a claim may start; the keeper waits longer (keeper.LONG)
HOLD = 0.05  # seconds between looks at whether the node holds its bees back


class Witness(Protocol):
    """Who is told what a bee does; of each start and end of a job only if it `hears_each`."""

    hears_each: bool

    def holds(self, claim: Claim) -> None:
        """The bee holds another claim."""

    def claimed(self, job: Job) -> None:
        """The job starts now."""

    def completed(self, job: Job) -> None:
        """Its function returned."""

    def charged(self, charge: Charge) -> None:
        """Its attempt failed, and has been recorded."""


class Bee:
    """Works for a jobset, in the process that `run()` is called in, until nothing is pending.

    What it does stands in slot `index` of the board, so that nothing is lost when it dies; `read_log` gives what
    the running job has written to the bee's log; `tidy` is called after each call of the function that was not over in
    an instant, and now and then between claims.

    It claims `claim` jobs at once, or by default as many as should be through within 50 ms, judged by those before,
    and starts them only while nobody can have given them away: by the keeper's rule for claims of many, and by the
    node's `lease`, in seconds. It ends after `most_jobs` jobs, and after `most_errors` errors in a row: they may be its
    own, left by a job that used up its descriptors.
    """

    def __init__(
        self,
        session: Session,
        board: Board,
        index: int,
        function: JobFunction,
        limits: Limits,
        witness: Witness,
        *,
        lease: float,
        claim: int | None = None,
        most_jobs: int | None = None,
        most_errors: int | None = None,
        read_log: Callable[[], str] = str,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._board = board
        self._header = board.header
        self._slot = board.slots[index]
        self._portion = Portion(board, index, claim, most_jobs)
        self._holdings = Holdings(session, board, index, limits, self._portion, os.getpid())
        self._calling = Calling(function, tidy)
        self._witness = witness
        self._lease = lease
        self._most_jobs = most_jobs
        self._most_errors = most_errors
        self._errors = 0  # in a row
        self._read_log = read_log
        self._tidy = tidy
        self._tidied = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Claim no more after the running job; safe to call from a signal handler."""
        self._stopped = True

    def run(self) -> Phase:
        """Claim and run jobs; returns why there are no more to come: NO_WORK, SPENT or STOPPED."""
        reason = self._begin()
        while reason is None:
            failed = self._work_through()
            self._holdings.receive()
            if failed is not None:
                self._charge(failed)
            reason = self._advance()
        self._holdings.drop()
        return reason

    def _begin(self) -> Phase | None:
        """Hold the first claim, as the heir of a dead bee the one that the keeper made; or say why there is none."""
        if not self._holdings.inherit():
            return self._advance()
        self._witness.holds(self._holdings.current.claim)
        return None

    def _work_through(self) -> Outcome | None:
        """Run the jobs of the claim: until no more may be started, or until one fails, and then return how.

        Jobs may be as short as the loop around them: it looks at the clock once for each, says three words to the
        board and calls nobody in vain.
        """
        grip, slot, header = self._holdings.current, self._slot, self._header
        claim, hand, seconds = grip.claim, grip.hand, grip.seconds
        number, done, hears_each, call = claim.number, hand.done, self._witness.hears_each, self._calling.call
        # Others may have the jobs by then.
        may_be_cut = len(claim.jobs) > 1 or grip.ahead
        too_late = hand.since + (min(FRESH, self._lease / 2) if may_be_cut else self._lease / 2)
        started = monotonic()
        for index, job in enumerate(claim.jobs):
            if started > too_late:
                if grip.ahead:
                    self._portion.sober_up()
                else:
                    # Where answers take so long, a single job is all that can be had in time.
                    self._portion.shrink()
                break
            if header.stop or self._stopped or slot.condemned:
                break
            slot.started = started
            hand.pos = job.pos
            # After that was said: the keeper says its word first, and then looks at ours.
            if hand.cut == number:
                break
            if hears_each:
                self._witness.claimed(job)
            ended, raised = call(job, started)
            while slot.condemned and slot.is_over:
                time.sleep(1)  # until we are killed
            if raised is not None:
                failure = describe(raised, self._read_log())
                # The error holds the frames it came through, and so all that the job had in memory.
                raised = None
                slot.raised = 1
                slot.jobs += index + 1
                return Outcome(job.pos, ended - started, failure)
            done[index] = ended - started
            seconds.append(ended - started)
            self._errors = 0
            if hears_each:
                self._witness.completed(job)
            # The end of one is the start of the next.
            started = ended
        slot.jobs += len(seconds)
        hand.pos = 0
        if started > self._tidied + SPAN:
            self._tidied = started
            self._tidy()
        return None

    def _charge(self, failed: Outcome) -> None:
        """Settle what is done and what failed of the claim, and give the rest of it back."""
        charges = self._holdings.settle(self._holdings.current, [failed])
        self._slot.raised = 0
        self._witness.holds(self._holdings.current.claim)
        for charge in charges:
            self._slot.failed += charge.state is State.FAILED
            self._slot.strikes += charge.attempt == 1
            self._errors += 1
        if self._board.may_have_failed_enough:
            # Before the supervisor comes to read it, many more jobs could fail. It says why.
            self._board.stop_if_enough(self._session.call(lambda store: store.counts()).failed)
        for charge in charges:
            self._witness.charged(charge)

    def _advance(self) -> Phase | None:
        """Hold the next claim; or why there is none, with what is done still to be settled."""
        holdings = self._holdings
        if not holdings.current.is_through:
            # The rest of the claim was not started, and goes back.
            holdings.settle(holdings.current)
        while (reason := self._reason_not_to_claim()) is None:
            is_pending = holdings.advance()
            self._witness.holds(holdings.current.claim)
            if holdings.current.claim.jobs:
                return None
            if not is_pending:
                return Phase.NO_WORK
            # Others hold the very rows that are left. They will be through in a moment.
            time.sleep(random.uniform(0, 0.01))
        return reason

    def _reason_not_to_claim(self) -> Phase | None:
        """The reason to end, if there is one, after waiting for as long as the node holds its bees back."""
        if self._header.hold > monotonic():
            self._holdings.give_back()
            self._witness.holds(self._holdings.current.claim)
        while (reason := self._reason_to_end()) is None and self._header.hold > monotonic():
            time.sleep(HOLD)
        return reason

    def _reason_to_end(self) -> Phase | None:
        if self._header.stop or self._stopped:
            return Phase.STOPPED
        if self._slot.condemned:
            # For a job that has ended since. Nobody could condemn us for the next one.
            return Phase.SPENT
        if self._most_jobs is not None and self._slot.jobs >= self._most_jobs:
            return Phase.SPENT
        if self._most_errors is not None and self._errors >= self._most_errors:
            return Phase.SPENT
        return None
