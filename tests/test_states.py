"""Every job's way through the states, driven at random and compared with a model that is a few dictionaries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import psycopg2
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from workerbee.job import Claim, Failure, Kind, Limits, Outcome, State
from workerbee.loading import set_up
from workerbee.store import Store

LIMITS = Limits(max_attempts=2, max_crashes=3, max_losses=2)
KINDS = [Kind.ERROR, Kind.CRASH, Kind.LOST]
FATES = st.lists(st.sampled_from(["done", "untried", *KINDS]), min_size=8, max_size=8)
CHOICE = st.integers(0, 100)
JOBS = 24


@dataclass
class ModelJob:
    state: State = State.PENDING
    failed: Counter = field(default_factory=Counter)  # attempts, by kind

    @property
    def attempts(self):
        return sum(self.failed.values())


@dataclass
class ModelBee:
    node: int
    number: int = 0
    held: tuple[int, ...] = ()


class Jobset(RuleBasedStateMachine):
    """Bees of several nodes do what bees do, in any order; their words may come late."""

    store: Store

    @initialize(widths=st.lists(st.integers(1, 9), min_size=JOBS, max_size=JOBS))
    def begin_anew(self, widths):
        self.jobs = {pos: ModelJob() for pos in range(1, JOBS + 1)}
        self.bees: dict[int, ModelBee] = {}
        self.nodes: dict[int, bool] = {}  # whether they are silent
        self.failures: list[tuple] = []
        self.claims: list[Claim] = []  # as they once were: what a bee may still speak of
        self.ask("DELETE FROM wb_claims__states; DELETE FROM wb_ranges__states; DELETE FROM wb_failures")
        self.ask("SELECT setseed(0)")  # so that what fails can be repeated
        self.ask("UPDATE wb__states SET state = 'PENDING', finished_at = NULL, errors = 0, crashes = 0, losses = 0")
        # Ranges as larger jobsets have them.
        lo = 1
        for width in widths:
            hi = min(lo + width - 1, JOBS)
            if lo <= hi:
                self.ask("INSERT INTO wb_ranges__states (attempts, hi, lo) VALUES (0, %s, %s)", hi, lo)
            lo = hi + 1

    def ask(self, query, *values):
        with self.store.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def node(self, choice):
        """One of the nodes there are, or with a choice below 0 a new one."""
        if not self.nodes or choice < 0:
            self.nodes[self.store.add_node("host", "machine", 1, 30)] = False
        return list(self.nodes)[choice % len(self.nodes)]

    def pending(self):
        held = {pos for bee in self.bees.values() for pos in bee.held}
        return {pos for pos, job in self.jobs.items() if job.state is State.PENDING} - held

    def charge(self, pos, kind):
        job = self.jobs[pos]
        job.failed[kind] += 1
        if job.failed[kind] >= LIMITS.of(kind):
            job.state = State.FAILED
        self.failures.append((pos, job.attempts, kind.value, job.state is State.FAILED))
        return pos, job.failed[kind], job.state

    def charged(self, charges):
        positions = dict(self.ask("SELECT job_id, pos FROM wb__states"))
        return [(positions[charge.job_id], charge.count, charge.state) for charge in charges]

    # What nodes and bees do. Numbers are indices into what there is.

    @rule(choice=CHOICE, new=st.booleans())
    def add_bee(self, choice, new):
        self.hire(self.node(-1 if new else choice))

    @rule(choice=CHOICE, size=st.integers(1, 8))
    def work_on(self, choice, size):
        """All that a bee holds is done, and it claims more."""
        self.settle_and_claim(self.claim(choice), size)

    @rule(choice=CHOICE, size=st.integers(0, 8), fates=FATES, drop=st.booleans())
    def stop_work(self, choice, size, fates, drop):
        """Something has failed, or the bee has ended or died."""
        self.settle(self.claim(choice, size), fates, drop)

    @rule(choice=CHOICE, size=st.integers(0, 8), fates=FATES)
    def die_and_leave(self, choice, size, fates):
        """A bee has died, and another takes its place."""
        self.settle_for_heir(self.claim(choice, size), fates)

    @rule(choice=CHOICE, size=st.integers(0, 8))
    def lose_bee(self, choice, size):
        number = self.claim(choice, size).bee
        bee = self.bees.pop(number)
        charges = self.store.lose_bee(number, "its node was lost", LIMITS)
        assert self.charged(charges) == [self.charge(pos, Kind.LOST) for pos in bee.held]
        assert self.store.lose_bee(number, "again", LIMITS) == []

    @rule(choice=CHOICE, size=st.integers(1, 8), fates=FATES, word=st.sampled_from(["claim", "settle", "drop", "heir"]))
    def speak_late(self, choice, size, fates, word):
        """What is said of a claim that may be long gone: by the bee, or by the keeper, from a board not up to date."""
        if not self.claims:
            return
        claim = self.claims[choice % len(self.claims)]
        if word == "claim":
            self.settle_and_claim(claim, size)
        elif word == "heir":
            self.settle_for_heir(claim, fates)
        else:
            self.settle(claim, fates, word == "drop")

    @rule(choice=CHOICE)
    def add_hand(self, choice):
        """A bee is to hold a second claim; it may be asked twice."""
        bee = abs(self.claim(choice).bee)
        claim = self.store.add_hand(bee, self.node(choice), 1)
        if bee not in self.bees:
            assert claim is None
            return
        assert all(claim.number > old.number for old in self.claims if old.bee == -bee and -bee not in self.bees)
        hand = self.bees.setdefault(-bee, ModelBee(self.node(choice), claim.number))
        assert (claim.bee, claim.number) == (-bee, hand.number)
        self.claims.append(claim)

    @rule(choice=CHOICE, fates=FATES)
    def take_back(self, choice, fates):
        """The keeper gives back what a bee with a long job holds besides, by a word that may be late."""
        if not self.claims:
            return
        claim = self.claims[choice % len(self.claims)]
        fates = [what if what in ("done", "untried") else "untried" for what in fates]
        done = [(outcome.pos, outcome.seconds) for outcome in self.outcomes(claim, fates)]
        bee = self.bees.get(claim.bee)
        assert self.store.take_back(claim.bee, claim.number, done, LIMITS) == (bee is not None)
        if bee is None or bee.number not in (claim.number, claim.number + 1):
            return
        if bee.number == claim.number:
            self.expect(claim, fates)
        bee.number, bee.held = bee.number + 1, ()

    @rule(choice=CHOICE, silent=st.booleans())
    def fall_silent_or_speak(self, choice, silent):
        node = self.node(choice)
        if silent:
            self.ask("UPDATE wb_nodes SET beat_at = now() - interval '31 s' WHERE node = %s", node)
        else:
            self.store.beat_node(node, 1)
        self.nodes[node] = silent
        silent_bees = {bee for bee, _ in self.store.silent_bees(0)}
        assert silent_bees == {number for number, bee in self.bees.items() if self.nodes[bee.node]}

    @rule(choice=CHOICE)
    def end_node(self, choice):
        node = self.node(choice)
        self.store.end_node(node)
        for number, bee in list(self.bees.items()):
            if bee.node == node and not bee.held:
                del self.bees[number]

    def hire(self, node):
        claim = self.store.add_bee(node, 1)
        assert claim.bee not in self.bees
        self.bees[claim.bee] = ModelBee(node)
        self.nodes[node] = False  # it was heard
        self.claims.append(claim)

    def claim(self, choice, size=0):
        """The claim of one of the bees, as it stands in the database: of up to `size` jobs, if it had none."""
        if not self.bees:
            self.hire(self.node(0))
        number = list(self.bees)[choice % len(self.bees)]
        if size and not self.bees[number].held:
            self.settle_and_claim(Claim(number, self.bees[number].number), size)
        found, bee = self.store.find_claim(number), self.bees[number]
        assert (found.number, tuple(job.pos for job in found.jobs)) == (bee.number, bee.held)
        return found

    def settle_and_claim(self, claim, size):
        bee, pending = self.bees.get(claim.bee), self.pending()
        following, was_pending = self.store.settle_and_claim(claim, [0.5] * len(claim.jobs), size, 1)
        if bee is None or bee.number != claim.number:
            assert following is None
            return
        assert was_pending == bool(pending)
        for pos in bee.held:
            self.jobs[pos].state = State.COMPLETE
        positions = tuple(job.pos for job in following.jobs)
        assert (len(positions) > 0) == (len(pending) > 0)
        assert len(positions) <= size
        assert set(positions) <= pending
        fewest = min((self.jobs[pos].attempts for pos in pending), default=0)
        assert all(self.jobs[job.pos].attempts == fewest for job in following.jobs)
        bee.number, bee.held = bee.number + 1, positions
        assert (following.bee, following.number) == (claim.bee, bee.number)
        self.claims.append(following)

    def settle(self, claim, fates, drop):
        bee = self.bees.get(claim.bee)
        charges = self.store.settle(claim.bee, claim.number, self.outcomes(claim, fates), LIMITS, drop=drop)
        if bee is None:
            assert charges is None
            return
        in_force = bee.number == claim.number
        assert self.charged(charges) == (self.expect(claim, fates) if in_force else [])
        if drop:
            # What was claimed since, without a trace, goes back, too.
            del self.bees[claim.bee]
        elif in_force:
            bee.number, bee.held = bee.number + 1, ()

    def settle_for_heir(self, claim, fates):
        bee, outcomes = self.bees.get(claim.bee), self.outcomes(claim, fates)
        charges, following = self.store.settle_for_heir(
            claim.bee, claim.number, outcomes, LIMITS, pid=1, node=1, alone=True
        )
        if bee is None:
            assert charges is following is None
            return
        assert self.charged(charges) == (self.expect(claim, fates) if bee.number == claim.number else [])
        bee.held = ()
        pending = self.pending()
        assert (following is not None) == bool(pending)
        if following is None:
            del self.bees[claim.bee]
            return
        bee.number, bee.held = bee.number + 1, tuple(job.pos for job in following.jobs)
        assert (following.bee, following.number, len(bee.held)) == (claim.bee, bee.number, 1)
        assert set(bee.held) <= pending
        self.claims.append(following)

    def outcomes(self, claim, fates):
        return [
            Outcome(job.pos, 0.5, None if what == "done" else Failure(what, "type", "message"))
            for job, what in zip(claim.jobs, fates, strict=False)
            if what != "untried"
        ]

    def expect(self, claim, fates):
        """Settle in the model; what is charged."""
        expected = []
        for job, what in zip(claim.jobs, fates, strict=False):
            if what == "done":
                self.jobs[job.pos].state = State.COMPLETE
            elif what != "untried":
                expected.append(self.charge(job.pos, what))
        return expected

    # What holds after each of these.

    @invariant()
    def the_tables_agree_with_the_model(self):
        rows = self.ask("SELECT pos, state, errors, crashes, losses, finished_at IS NULL FROM wb__states")
        assert {pos: tuple(rest) for pos, *rest in rows} == {
            pos: (job.state.value, *(job.failed[kind] for kind in KINDS), job.state is State.PENDING)
            for pos, job in self.jobs.items()
        }
        # Every pending position is in one range or one claim, and nothing else is.
        ranges = self.ask("SELECT attempts, generate_series(lo, hi) FROM wb_ranges__states")
        assert sorted(pos for _, pos in ranges) == sorted(self.pending())
        assert all(attempts == self.jobs[pos].attempts for attempts, pos in ranges)
        claims = self.ask("SELECT bee, number, lo, hi FROM wb_claims__states")
        assert {bee: (number, tuple(range(lo, hi + 1)) if lo else ()) for bee, number, lo, hi in claims} == {
            number: (bee.number, bee.held) for number, bee in self.bees.items()
        }
        recorded = self.ask("SELECT pos, attempt, kind, final FROM wb_failures ORDER BY failure")
        assert recorded == self.failures
        counts, states = self.store.counts(), Counter(job.state for job in self.jobs.values())
        held = sum(len(bee.held) for bee in self.bees.values())
        assert (counts.total, counts.claimed, counts.failed) == (len(self.jobs), held, states[State.FAILED])
        assert (counts.pending, counts.complete) == (states[State.PENDING] - held, states[State.COMPLETE])


def test_states(parameters, monkeypatch):
    store = Store(psycopg2.connect(**parameters), "states")
    set_up(store, map(str, range(JOBS)), None, lambda _: None)
    monkeypatch.setattr(Jobset, "store", store, raising=False)
    many = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # to make a failure's steps fewer would take minutes
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Jobset, settings=many)
    finally:
        store.close()
