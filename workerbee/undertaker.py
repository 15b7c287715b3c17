"""The undertaker: settles what dead bees held, charges the job that was the end of one, and sees to its heir."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from workerbee.board import Board
from workerbee.description import STACK_LIMIT
from workerbee.hand import Hand
from workerbee.job import Charge, Claim, Failure, Kind, Limits, Outcome, State
from workerbee.memory import oom_kills
from workerbee.session import Session
from workerbee.slot import Phase, Slot, Verdict
from workerbee.store import Store
from workerbee.text import ending, storable

# The first line that faulthandler leaves, where the exit code is not ours to see.
FATAL = {
    "Fatal Python error: Segmentation fault": "SIGSEGV",
    "Fatal Python error: Aborted": "SIGABRT",
    "Fatal Python error: Bus error": "SIGBUS",
    "Fatal Python error: Floating point exception": "SIGFPE",  # before Python 3.13
    "Fatal Python error: Floating-point exception": "SIGFPE",
    "Fatal Python error: Illegal instruction": "SIGILL",
}


class Undertaker:
    """Settles for the bees of `board` that are dead, and says `died(slot, charge)` of each; the charge is what its job
    was charged with, if one ran.

    `read_log(slot, start)` gives what a bee wrote from `start` on. With `replaces` others take the places of those that
    a job has killed, and one such *heir* begins with a job that is claimed here: a new connection takes the server
    longer than all else that a death costs, so the heir has one only when it has something to say.
    """

    def __init__(
        self,
        session: Session,
        board: Board,
        limits: Limits,
        died: Callable[[int, Charge | None], None],
        read_log: Callable[[int, int], str],
        *,
        replaces: bool,
    ) -> None:
        self._session = session
        self._board = board
        self._header = board.header
        self._limits = limits
        self._died = died
        self._read_log = read_log
        self._replaces = replaces
        self._oom_kills = oom_kills()

    @property
    def is_done(self) -> bool:
        return not any(slot.phase in (Phase.DEAD, Phase.PREPARED) for slot in self._board.slots)

    def look(self) -> None:
        """Settle for those that have died."""
        for index, slot in enumerate(self._board.slots):
            if slot.phase is Phase.PREPARED and self._header.closing:
                slot.move(Phase.DEAD)  # the supervisor starts no bee any more
            if slot.phase is Phase.DEAD:
                charge = self._settle(slot, self._failure(index, slot))
                if charge is not None:
                    is_crash = charge.failure.kind is Kind.CRASH
                    slot.crashed += is_crash
                    # Where no other node could do better, waiting helps no job that crashes.
                    slot.strikes += charge.attempt == 1 and (not is_crash or self._header.others > 0)
                if slot.heir:
                    slot.move(Phase.PREPARED)
                else:
                    slot.clear()
                    slot.move(Phase.EMPTY)
                self._died(index, charge)

    def bury_all(self) -> None:
        """The supervisor is dead, and so are all bees: settle for them."""
        self._header.stop = 1
        for index, slot in enumerate(self._board.slots):
            if slot.phase in (Phase.ALIVE, Phase.PREPARED):
                slot.move(Phase.DEAD)
            if slot.phase is Phase.DEAD:
                stack = self._stack(index)
                said = stack.partition("\n")[0]
                # Only a process that crashed had the time to write one.
                if said.startswith("Fatal"):
                    failure = Failure(Kind.CRASH, FATAL.get(said, "crash"), said, stack)
                else:
                    failure = Failure(Kind.LOST, "lost", "its supervisor died")
                self._died(index, self._settle(slot, failure))

    def introduce_heirs(self) -> None:
        """Write down which process each heir is."""
        heirs = {slot.heir: slot for slot in self._board.slots if slot.heir and slot.phase is Phase.ALIVE and slot.pid}
        if heirs:
            pids = [slot.pid for slot in heirs.values()]
            for bee in self._session.call(lambda store: store.introduce_bees(list(heirs), pids)):
                heirs[bee].heir = 0

    def _settle(self, slot: Slot, failure: Failure | None) -> Charge | None:
        """Settle what the bee of `slot` held, charging the job that ran with `failure`; None: giving it back."""
        slot.heir = 0
        for hand in slot.hands:
            if hand.bee and not hand.is_running:
                self._settle_hand(slot, hand, None)
                hand.clear()
        return self._settle_hand(slot, slot.hand, failure) if slot.hand.bee else None

    def _settle_hand(self, slot: Slot, hand: Hand, failure: Failure | None) -> Charge | None:
        done = hand.completed_so_far()
        outcomes = [Outcome(pos, seconds) for pos, seconds in done]
        if failure:
            outcomes.append(Outcome(hand.pos, time.monotonic() - slot.started, failure))
        since = time.monotonic()
        charges, claim = self._session.call(lambda store: self._write(store, slot, hand, outcomes))
        if charges is not None:
            slot.completed += len(done)
            slot.slowest = max([slot.slowest, *(seconds for _, seconds in done)])
        for charge in charges or ():
            slot.failed += charge.state is State.FAILED
        if self._board.may_have_failed_enough:
            # Before the next bee begins: it would be one job more that fails.
            self._board.stop_if_enough(self._session.call(lambda store: store.counts()).failed)
        if claim is not None:
            slot.prepare(claim, since)
        return charges[0] if charges else None

    def _write(
        self, store: Store, slot: Slot, hand: Hand, outcomes: list[Outcome]
    ) -> tuple[list[Charge] | None, Claim | None]:
        header = self._header
        held = hand.bee, hand.number, outcomes, self._limits
        is_charged = bool(outcomes) and outcomes[-1].failure is not None
        if is_charged and self._replaces and not header.stop and header.hold <= time.monotonic():
            return store.settle_for_heir(*held, pid=slot.pid, node=header.node, alone=header.is_alone)
        return store.settle(*held, pid=slot.pid, drop=True), None

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
