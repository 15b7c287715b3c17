"""What a bee holds, and all that it says to the database of it."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from workerbee.board import Board
from workerbee.grip import Grip
from workerbee.job import Charge, Claim, Limits, Outcome
from workerbee.portion import Portion
from workerbee.session import Session
from workerbee.store import Store


class Holdings:
    """The claims of the bee in slot `index` of `board`, which is the process `pid`: the `current` one, which it works
    through, and at times the `other`, which the database settles and makes anew meanwhile.

    So a bee need not wait for the database between jobs that are short, but not so short that many fit into a claim.
    """

    def __init__(self, session: Session, board: Board, index: int, limits: Limits, portion: Portion, pid: int) -> None:
        self._session = session
        self._header = board.header
        self._slot = board.slots[index]
        self._limits = limits
        self._portion = portion
        self._pid = pid
        self._is_sent = False  # what the database is asked about the other claim
        self.current = Grip(self._slot.hands[self._slot.turn])
        self.other = Grip(self._slot.hands[1 - self._slot.turn])

    def inherit(self) -> bool:
        """Hold the claim that the keeper made for this bee before its birth, if there is one."""
        hand = self._slot.hand
        claim = hand.bee and (self._slot.prepared() or self._session.call(lambda store: store.find_claim(hand.bee)))
        if claim:
            self.current.hold(claim, hand.since)
        return bool(claim)

    def receive(self) -> None:
        """Read what the database says of the other claim, if it was asked: before anything else is."""
        grip = self.other
        if since := grip.hand.asked:

            def read_back(store: Store) -> tuple[Claim | None, bool]:
                return self._read_back(store, grip)

            def answer(store: Store) -> tuple[Claim | None, bool]:
                return store.answer_to_claim(grip.claim)

            following, _ = self._session.call(answer if self._is_sent else read_back, again=read_back)
            self._go_on(grip, following, since, ahead=True)
            if not grip.claim.jobs:
                self._portion.sober_up()

    def advance(self) -> bool:
        """Settle what is done and hold the next claim; whether there is pending work. If so, and the claim is empty,
        others were at the same rows, or the claim before had been taken away: try again."""
        is_pending = True
        if self.other.claim.jobs:
            self.current, self.other = self.other, self.current
            self._slot.turn = 1 - self._slot.turn
        else:
            is_pending = self._claim()
        if self._portion.is_ahead(self.current.claim):
            self._ask()
        elif self.other.seconds:
            # The one that we come from: nobody else sees to it.
            self.settle(self.other)
        return is_pending

    def settle(self, grip: Grip, failures: Sequence[Outcome] = ()) -> list[Charge]:
        """Settle what is done of a claim and what failed, and give the rest of it back; returns the charges."""
        charges = self._settle(grip, failures, drop=False)
        if charges is None:
            grip.let_go()
            return []
        grip.hold(Claim(grip.claim.bee, grip.claim.number + 1), monotonic())
        return charges

    def give_back(self) -> None:
        """Settle what is done, and hold nothing."""
        for grip in (self.other, self.current):
            if grip.claim.jobs:
                self.settle(grip)

    def drop(self) -> None:
        """The same, and leave."""
        grips = [grip for grip in (self.other, self.current) if grip.claim.bee]
        empty = [grip.claim.bee for grip in grips if not grip.claim.jobs]
        dropped = self._session.call(lambda store: store.drop_if_empty(empty)) if empty else []
        for grip in grips:
            if grip.claim.bee not in dropped:
                self._settle(grip, (), drop=True)
            grip.let_go()

    def _settle(self, grip: Grip, failures: Sequence[Outcome], *, drop: bool) -> list[Charge] | None:
        claim, outcomes = grip.claim, [*grip.outcomes(), *failures]
        if not claim.bee:
            return None
        charges = self._session.call(
            lambda store: store.settle(claim.bee, claim.number, outcomes, self._limits, drop=drop, pid=self._pid)
        )
        if charges is not None:
            self._count_done(grip)
        return charges

    def _claim(self) -> bool:
        grip, node = self.current, self._header.node
        if not grip.claim.bee:
            grip.hold(self._session.call(lambda store: store.add_bee(node, self._pid)), monotonic())
            self._slot.heir = 0
        # From before it was asked for: the answer may be long under way, or have to be read back.
        since = monotonic()
        following, is_pending = self._session.call(
            lambda store: store.settle_and_claim(*self._step(grip)), again=lambda store: self._read_back(store, grip)
        )
        self._go_on(grip, following, since)
        return is_pending

    def _ask(self) -> None:
        grip, bee, node = self.other, self.current.claim.bee, self._header.node
        if not grip.claim.bee:
            row = self._session.call(lambda store: store.add_hand(bee, node, self._pid))
            if row is None:
                return
            grip.hold(row, monotonic())
        # The keeper is to know before anyone else can.
        grip.hand.asked = monotonic()
        self._is_sent = self._session.ask(lambda store: store.ask_to_settle_and_claim(*self._step(grip)))

    def _step(self, grip: Grip) -> tuple[Claim, list[float], int, int, bool]:
        return grip.claim, grip.seconds, self._portion.next(), self._header.node, self._header.is_alone

    def _read_back(self, store: Store, grip: Grip) -> tuple[Claim | None, bool]:
        # The connection broke after the statement was sent: the claim's number tells whether it was committed.
        current = store.find_claim(grip.claim.bee)
        if current is not None and current.number == grip.claim.number:
            return store.settle_and_claim(*self._step(grip))
        return current, True

    def _go_on(self, grip: Grip, following: Claim | None, since: float, *, ahead: bool = False) -> None:
        if following is None:
            # A statement that we had given up for lost may have been slow: then the next claim is ours.
            following = self._session.call(lambda store: store.find_claim(grip.claim.bee))
        if following is None:
            # Our node was taken for dead, and the claim was given away: our word counts no more.
            grip.let_go()
            return
        self._count_done(grip)
        grip.hold(following, since, ahead=ahead)

    def _count_done(self, grip: Grip) -> None:
        if grip.seconds:
            self._slot.completed += len(grip.seconds)
            self._slot.slowest = max(self._slot.slowest, *grip.seconds)
            self._slot.learn(sum(grip.seconds) / len(grip.seconds))
