"""The keeper: a node's housekeeping in the database, in a process that runs no jobs and no user code.

It beats, has bees that died settled for, cuts claims down that take long, takes back those of lost nodes, and counts
what is left. When it finds the supervisor dead, it ends what is left of the node, and that is settled for, too.
"""

from __future__ import annotations

import math
import os
import random
import time
from dataclasses import replace
from typing import Protocol

from workerbee.board import Board, Order
from workerbee.hand import Hand
from workerbee.job import Charge, Limits
from workerbee.logbook import Logbook
from workerbee.orphans import is_alive
from workerbee.session import Session
from workerbee.slot import Phase
from workerbee.undertaker import Undertaker
from workerbee.watch import Watch

COUNT_EVERY = 1.0  # seconds between counts while bees work
COUNTS_APART = 0.02  # seconds between any two of them, and as many times what one takes
COUNT_SHARE = 20
LONG = 2.0  # seconds after which a bee is left only the running job of a claim: a second more than it starts jobs of it
CUT_AGAIN = 0.5  # seconds after which it is tried again, when somebody was at the claim
NOTICED = 0.01  # seconds within which a bee's word is seen by others, however the processor orders what is written
LONGEST_COUNT_PAUSE = 2.0  # and at most while they wait for others


class Reporter(Protocol):
    """Who is told what the keeper finds."""

    def lost(self, charge: Charge) -> None:
        """A job of a lost node is pending again, or FAILED."""

    def counted(self) -> None:
        """The board has new counts."""


class Keeper:
    """Keeps house for the node on `board`, as long as the supervisor that `watch` watches wants it.

    `machine` names those on which process ids mean the same; `undertaker` has the same session.
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
        undertaker: Undertaker,
    ) -> None:
        self._session = session
        self._board = board
        self._header = board.header
        self._limits = limits
        self._lease = lease
        self._machine = machine
        self._watch = watch
        self._reporter = reporter
        self._undertaker = undertaker
        self._logbook = Logbook(session, board)
        self._next_beat = 0.0
        self._next_count = 0.0
        self._next_cut = 0.0
        self._cuts: dict[tuple[int, int], tuple[int, int]] = {}  # the last claim cut of each hand
        self._beaten = self._listening = 0.0
        self._earliest_count = 0.0
        self._count_pause = 0.1
        self._offered = time.monotonic()  # when there was last a job for us to claim, or none at all

    def run(self) -> None:
        """Keep house until the supervisor closes the node, or is dead."""
        while not (self._header.closing and self._undertaker.is_done):
            self._header.seen = time.monotonic()
            self._beat()
            self._undertaker.look()
            self._cut_long()
            self._count()
            if self._watch.wait(min(self._next_beat, self._next_count, self._next_cut) - time.monotonic()):
                # What the last bee has left may be the end of it all, which nobody should have to wait for.
                is_last = all(slot.phase is Phase.EMPTY for slot in self._board.slots)
                earliest = self._header.counted + COUNTS_APART if is_last else self._earliest_count
                self._next_count = min(self._next_count, earliest)
            if self._watch.supervisor_died():
                self._undertaker.bury_all()
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

    def _cut_long(self) -> None:
        """Let no long job hold up others that its bee holds: settle those before it, and give back those after it."""
        self._next_cut = math.inf
        for index, slot in enumerate(self._board.slots):
            if slot.phase is Phase.ALIVE and slot.is_running:
                for which, hand in enumerate(slot.hands):
                    self._cut_if_long((index, which), hand)

    def _cut_if_long(self, place: tuple[int, int], hand: Hand) -> None:
        # Once: the bee may go on meanwhile. What is asked for, it cannot have begun, whatever the database says by now.
        asked, held = hand.asked, hand.number
        number, since = (held + 1, asked) if asked else (held, hand.since)
        # By our own memory: a keeper before us may have died between its word to the bee and that to the database.
        if self._cuts.get(place) == (hand.bee, number) or not (asked or (hand.size > 1 and hand.is_running)):
            return
        if time.monotonic() < since + LONG:
            self._next_cut = min(self._next_cut, since + LONG)
        elif self._cut(hand, held, asked):
            self._cuts[place] = hand.bee, number
        else:
            hand.cut = 0
            self._next_cut = min(self._next_cut, time.monotonic() + CUT_AGAIN)

    def _cut(self, hand: Hand, held: int, asked: float) -> bool:
        hand.cut = held + 1 if asked else held
        # From now on the bee starts nothing of this claim, but it may have been about to.
        time.sleep(NOTICED)
        bee, pos, done = hand.bee, hand.pos, hand.completed_so_far()
        if hand.number != held or hand.asked != asked:
            return True  # it has gone on
        if asked:
            return self._session.call(lambda store: store.take_back(bee, held, done, self._limits))
        return not pos or self._session.call(lambda store: store.cut_claim(bee, held, pos, done))

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
        self._undertaker.introduce_heirs()
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
