"""The keeper: a node's housekeeping in the database, in a process that runs no jobs and no user code.

It beats, settles for bees that died, takes back the claims of lost nodes, and counts what is left. When it finds
the supervisor dead, it ends what is left of the node and settles for that, too.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from workerbee.board import Board, Order
from workerbee.description import STACK_LIMIT
from workerbee.job import Charge, Failure, Kind, Limits, Outcome, State
from workerbee.logbook import Logbook
from workerbee.memory import oom_kills
from workerbee.orphans import is_alive
from workerbee.session import Session
from workerbee.slot import Phase, Slot, Verdict
from workerbee.text import ending, storable
from workerbee.watch import Watch

COUNT_EVERY = 1.0  # seconds between counts while bees work
COUNTS_APART = 0.02  # seconds between any two of them, and as many times what one takes
COUNT_SHARE = 20
LONG = 2.0  # seconds after which a claim is cut down to the running job: a second more than bees start jobs of it
CUT_AGAIN = 0.5  # seconds after which it is tried again, when somebody was at the claim
NOTICED = 0.01  # seconds within which a bee's word is seen by others, however the processor orders what is written
LONGEST_COUNT_PAUSE = 2.0  # and at most while they wait for others
# The first line that faulthandler leaves, where the exit code is not ours to see.
FATAL = {
    "Fatal Python error: Segmentation fault": "SIGSEGV",
    "Fatal Python error: Aborted": "SIGABRT",
    "Fatal Python error: Bus error": "SIGBUS",
    "Fatal Python error: Floating point exception": "SIGFPE",  # before Python 3.13
    "Fatal Python error: Floating-point exception": "SIGFPE",
    "Fatal Python error: Illegal instruction": "SIGILL",
}


class Reporter(Protocol):
    """Who is told what the keeper finds."""

    def died(self, slot: int, charge: Charge | None) -> None:
        """A dead bee is settled for; `charge` is what its job was charged with, if one ran."""

    def lost(self, charge: Charge) -> None:
        """A job of a lost node is pending again, or FAILED."""

    def counted(self) -> None:
        """The board has new counts."""


class Keeper:
    """Keeps house for the node on `board`, as long as the supervisor that `watch` watches wants it.

    `machine` names those on which process ids mean the same; `read_log(slot, start)` gives what a bee wrote from
    `start` on.
    """

    def __init__(
        self,
        session: Session,
        watch: Watch,
        board: Board,
        limits: Limits,
        lease: float,
        machine: str,
        reporter: Reporter,
        read_log: Callable[[int, int], str],
    ) -> None:
        self._session = session
        self._board = board
        self._header = board.header
        self._limits = limits
        self._lease = lease
        self._machine = machine
        self._watch = watch
        self._reporter = reporter
        self._read_log = read_log
        self._oom_kills = oom_kills()
        self._logbook = Logbook(session, board)
        self._next_beat = 0.0
        self._next_count = 0.0
        self._next_cut = 0.0
        self._beaten = self._listening = 0.0
        self._earliest_count = 0.0
        self._count_pause = 0.1
        self._offered = time.monotonic()  # when there was last a job for us to claim, or none at all

    def run(self) -> None:
        """Keep house until the supervisor closes the node, or is dead."""
        while not (self._header.closing and self._all_settled()):
            self._header.seen = time.monotonic()
            self._beat()
            self._settle_dead()
            self._cut_long()
            self._count()
            if self._watch.wait(min(self._next_beat, self._next_count, self._next_cut) - time.monotonic()):
                self._next_count = min(self._next_count, self._earliest_count)
            if self._watch.supervisor_died():
                self._bury()
                break
        # The last that people see of the run.
        self._next_count = 0.0
        self._count()
        self._logbook.write()
        self._session.call(lambda store: store.end_node(self._header.node))

    def _beat(self) -> None:
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._session.call(lambda store: store.beat_node(self._header.node, os.getpid()))
        ended = time.monotonic()
        if ended - self._beaten > self._lease / 2:
            self._listening = ended
        self._beaten = ended
        self._rescue()
        self._next_beat = now + self._lease / 4

    def _settle_dead(self) -> None:
        for index, slot in enumerate(self._board.slots):
            if slot.phase is Phase.DEAD:
                charge = self._settle(slot, self._failure(index, slot))
                if charge is not None:
                    is_crash = charge.failure.kind is Kind.CRASH
                    slot.crashed += is_crash
                    # Where no other node could do better, waiting helps no job that crashes.
                    slot.strikes += charge.attempt == 1 and (not is_crash or self._header.others > 0)
                slot.clear()
                slot.move(Phase.EMPTY)
                self._reporter.died(index, charge)

    def _cut_long(self) -> None:
        """Let no long job hold up the others of its claim: settle those before it, and give back those after it."""
        self._next_cut = math.inf
        for slot in self._board.slots:
            if slot.phase is Phase.ALIVE and slot.size > 1 and slot.is_running and slot.cut != slot.number:
                if time.monotonic() < slot.since + LONG:
                    self._next_cut = min(self._next_cut, slot.since + LONG)
                elif not self._cut(slot):
                    self._next_cut = min(self._next_cut, time.monotonic() + CUT_AGAIN)

    def _cut(self, slot: Slot) -> bool:
        bee, number = slot.bee, slot.number
        slot.cut = number
        # From now on the bee starts nothing of this claim, but it may have been about to.
        time.sleep(NOTICED)
        pos, done = slot.pos, slot.completed_so_far()
        if pos and slot.number == number and not self._session.call(lambda s: s.cut_claim(bee, number, pos, done)):
            slot.cut = 0
            return False
        return True

    def _settle(self, slot: Slot, failure: Failure | None) -> Charge | None:
        """Settle what the bee of `slot` held, charging the job that ran with `failure`; None: giving it back."""
        if not slot.bee:
            return None
        done = slot.completed_so_far()
        outcomes = [Outcome(pos, seconds) for pos, seconds in done]
        if failure and slot.is_running:
            outcomes.append(Outcome(slot.pos, time.monotonic() - slot.started, failure))
        bee, number = slot.bee, slot.number
        charges = self._session.call(lambda store: store.settle(bee, number, outcomes, self._limits, drop=True))
        if charges is not None:
            slot.completed += len(done)
            slot.slowest = max([slot.slowest, *(seconds for _, seconds in done)])
        for charge in charges or ():
            slot.failed += charge.state is State.FAILED
            return charge
        return None

    def _failure(self, index: int, slot: Slot) -> Failure | None:
        """What the job that ran in a dead bee is charged with, if that is to blame."""
        verdict, code = slot.verdict, slot.exit_code
        stack, log = self._stack(index), storable(self._read_log(index, slot.log_start), STACK_LIMIT)
        if verdict is Verdict.ORDERED:
            return None
        if verdict is not Verdict.NONE:
            kind = Kind.TIMEOUT if verdict is Verdict.TIMEOUT else Kind.MEMORY
            return Failure(kind, kind.value, slot.read_reason(), stack, log=log)
        message = f"its bee died: {ending(code)}"
        if code == -signal.SIGKILL:
            message += ", sent by nobody here" + self._killer()
        return Failure(Kind.CRASH, ending(code) if code < 0 else "exit", message, stack, exit_code=code, log=log)

    def _killer(self) -> str:
        before, self._oom_kills = self._oom_kills, oom_kills()
        if self._oom_kills > before:
            return f" but the kernel, since memory was short (its oom_kill count rose by {self._oom_kills - before})"
        return " (a person, or a batch system)"

    def _stack(self, index: int) -> str:
        return storable(self._board.stacks[index].tail(STACK_LIMIT), STACK_LIMIT)

    def _rescue(self) -> None:
        """Take back the claims of nodes that died on this machine, or that nobody hears of."""
        node = self._header.node
        session = self._session
        for bee, pids in session.call(lambda store: store.machine_bees(node, self._machine)):
            if not any(map(is_alive, pids)):
                self._lose(bee, "its node on this machine is dead")
        # After an outage every node looks silent, and also when the database only kept all of us waiting. Only who
        # could have heard the others may judge.
        if time.monotonic() - max(session.since, self._listening) < self._lease:
            return
        for bee, host in session.call(lambda store: store.silent_bees(node)):
            self._lose(bee, f"its node on {host} was silent for longer than its lease")
        session.call(lambda store: store.end_silent_nodes())

    def _lose(self, bee: int, message: str) -> None:
        for charge in self._session.call(lambda store: store.lose_bee(bee, message, self._limits)):
            self._reporter.lost(charge)

    def _count(self) -> None:
        if time.monotonic() < self._next_count:
            return
        header = self._header
        # Before asking: the counts speak of nothing that happens after it.
        asked = time.monotonic()
        counts = self._session.call(lambda store: store.counts(header.node))
        answered = time.monotonic()
        if counts.offered or not counts.pending:
            self._offered = answered
        elif answered - self._offered > self._lease:
            # The others have had the first choice for long enough: they are busy.
            counts = replace(counts, offered=counts.pending, others=0)
        waiting = not any(slot.phase is Phase.ALIVE for slot in self._board.slots) and not counts.offered
        header.write_counts(counts, self._board.failed)
        header.order = max(Order(header.order), Order.of(counts.stop))
        header.counted = asked
        self._reporter.counted()
        self._logbook.write_if_due()
        self._count_pause = min(2 * self._count_pause, LONGEST_COUNT_PAUSE) if waiting else 0.1
        pause = random.uniform(0.5, 1) * self._count_pause if waiting else COUNT_EVERY
        self._earliest_count = answered + max(COUNTS_APART, COUNT_SHARE * (answered - asked))
        self._next_count = max(time.monotonic() + pause, self._earliest_count)

    def _all_settled(self) -> bool:
        return not any(slot.phase is Phase.DEAD for slot in self._board.slots)

    def _bury(self) -> None:
        """The supervisor is dead: end what is left of the node, and settle for it."""
        self._header.stop = 1
        for index, slot in enumerate(self._board.slots):
            if slot.phase is Phase.ALIVE:
                slot.move(Phase.DEAD)
            if slot.phase is Phase.DEAD:
                stack = self._stack(index)
                said = stack.partition("\n")[0]
                # Only a process that crashed had the time to write one.
                if said.startswith("Fatal"):
                    failure = Failure(Kind.CRASH, FATAL.get(said, "crash"), said, stack)
                else:
                    failure = Failure(Kind.LOST, "lost", "its supervisor died")
                self._reporter.died(index, self._settle(slot, failure))
