"""Every job's way through the states, driven at random and compared with a model that is a few dictionaries."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import psycopg2
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from workerbee.job import Claim, Failure, Kind, Limits, Outcome, State
from workerbee.loading import set_up
from workerbee.store import Store

LIMITS = Limits(max_attempts=2, max_crashes=3, max_losses=2)
KINDS = [Kind.ERROR, Kind.CRASH, Kind.LOST]
FATES = st.sampled_from(["done", "untried", *KINDS])
NUMBERS = itertools.count()


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

    words = Bundle("words")  # claims as they once were: what a bee may still speak of
    connection = None

    @initialize(widths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def create(self, widths):
        name = f"states{next(NUMBERS)}"
        self.store = Store(self.connection, name)
        total = sum(widths)
        set_up(self.store, map(str, range(total)), None, lambda _: None)
        self.jobs = {pos: ModelJob() for pos in range(1, total + 1)}
        self.bees: dict[int, ModelBee] = {}
        self.nodes: dict[int, bool] = {}  # whether they are silent
        self.failures: list[tuple] = []
        # Ranges of such widths, as larger jobsets have them.
        self.ask(f"DELETE FROM wb_ranges__{name}")
        for width, hi in zip(widths, itertools.accumulate(widths), strict=True):
            self.ask(f"INSERT INTO wb_ranges__{name} (attempts, hi, lo) VALUES (0, %s, %s)", hi, hi - width + 1)

    def ask(self, query, *values):
        with self.connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def node(self, choice):
        """One of the nodes there are."""
        if not self.nodes:
            self.add_node()
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
        positions = dict(self.ask(f"SELECT job_id, pos FROM wb__{self.store.jobset_id}"))
        return [(positions[charge.job_id], charge.count, charge.state) for charge in charges]

    # What nodes and bees do.

    @rule()
    def add_node(self):
        self.nodes[self.store.add_node("host", "machine", 1, 30)] = False

    @rule(target=words, choice=st.integers(0, 9))
    def add_bee(self, choice):
        node = self.node(choice)
        claim = self.store.add_bee(node, 1)
        assert claim.bee not in self.bees
        self.bees[claim.bee] = ModelBee(node)
        return claim

    @rule(target=words, claim=words, size=st.integers(1, 8))
    def settle_and_claim(self, claim, size):
        """All that the claim holds is done, and more is claimed."""
        bee, pending = self.bees.get(claim.bee), self.pending()
        done = {job.pos: 0.5 for job in claim.jobs}
        following, was_pending = self.store.settle_and_claim(claim, done, size, 1)
        assert was_pending == bool(pending)
        if bee is None or bee.number != claim.number:
            assert following is None
            return claim
        for pos in bee.held:
            self.jobs[pos].state = State.COMPLETE
        positions = tuple(job.pos for job in following.jobs)
        assert (len(positions) > 0) == (len(pending) > 0)
        assert len(positions) <= size
        assert set(positions) <= pending
        fewest = min((self.jobs[pos].attempts for pos in pending), default=0)
        assert all(job.attempts == self.jobs[job.pos].attempts == fewest for job in following.jobs)
        bee.number, bee.held = bee.number + 1, positions
        assert (following.bee, following.number) == (claim.bee, bee.number)
        return following

    @rule(target=words, claim=words, fates=st.lists(FATES, min_size=8, max_size=8), drop=st.booleans())
    def settle(self, claim, fates, drop):
        """Some of the claim is done, some has failed, the rest goes back; the bee may be gone."""
        bee = self.bees.get(claim.bee)
        fate = dict(zip((job.pos for job in claim.jobs), fates, strict=False))
        outcomes = [
            Outcome(pos, 0.5, None if what == "done" else Failure(what, "type", "message"))
            for pos, what in fate.items()
            if what != "untried"
        ]
        charges = self.store.settle(claim.bee, claim.number, outcomes, LIMITS, drop=drop)
        if bee is None:
            assert charges is None
            return claim
        expected = []
        in_force = bee.number == claim.number
        for pos, what in fate.items() if in_force else ():
            if what == "done":
                self.jobs[pos].state = State.COMPLETE
            elif what != "untried":
                expected.append(self.charge(pos, what))
        assert self.charged(charges) == expected
        if drop:
            # What was claimed since, without a trace, goes back, too.
            del self.bees[claim.bee]
        elif in_force:
            bee.number, bee.held = bee.number + 1, ()
            return Claim(claim.bee, bee.number)
        return claim

    @rule(claim=words)
    def lose_bee(self, claim):
        bee = self.bees.pop(claim.bee, None)
        charges = self.store.lose_bee(claim.bee, "its node was lost", LIMITS)
        assert self.charged(charges) == [self.charge(pos, Kind.LOST) for pos in (bee.held if bee else ())]

    @rule(claim=words)
    def find_claim(self, claim):
        bee, found = self.bees.get(claim.bee), self.store.find_claim(claim.bee)
        if bee is None:
            assert found is None
        else:
            assert (found.number, tuple(job.pos for job in found.jobs)) == (bee.number, bee.held)

    @rule(choice=st.integers(0, 9), silent=st.booleans())
    def fall_silent_or_speak(self, choice, silent):
        node = self.node(choice)
        if silent:
            self.ask("UPDATE wb_nodes SET beat_at = now() - interval '31 s' WHERE node = %s", node)
        else:
            self.store.beat_node(node, 1)
        self.nodes[node] = silent
        silent_bees = {bee for bee, _ in self.store.silent_bees(0)}
        assert silent_bees == {number for number, bee in self.bees.items() if self.nodes[bee.node]}

    @rule(choice=st.integers(0, 9))
    def end_node(self, choice):
        node = self.node(choice)
        self.store.end_node(node)
        for number, bee in list(self.bees.items()):
            if bee.node == node and not bee.held:
                del self.bees[number]

    # What holds after each of these.

    @invariant()
    def the_tables_agree_with_the_model(self):
        name = self.store.jobset_id
        rows = self.ask(f"SELECT pos, state, errors, crashes, losses, finished_at IS NULL FROM wb__{name}")
        assert {pos: tuple(rest) for pos, *rest in rows} == {
            pos: (job.state.value, *(job.failed[kind] for kind in KINDS), job.state is State.PENDING)
            for pos, job in self.jobs.items()
        }
        # Every pending position is in one range or one claim, and nothing else is.
        ranges = self.ask(f"SELECT attempts, generate_series(lo, hi) FROM wb_ranges__{name}")
        assert sorted(pos for _, pos in ranges) == sorted(self.pending())
        assert all(attempts == self.jobs[pos].attempts for attempts, pos in ranges)
        claims = self.ask(f"SELECT bee, number, lo, hi FROM wb_claims__{name}")
        assert {bee: (number, tuple(range(lo, hi + 1)) if lo else ()) for bee, number, lo, hi in claims} == {
            number: (bee.number, bee.held) for number, bee in self.bees.items()
        }
        recorded = self.ask(
            "SELECT pos, attempt, kind, final FROM wb_failures WHERE jobset_id = %s ORDER BY failure", name
        )
        assert recorded == self.failures
        counts, states = self.store.counts(), Counter(job.state for job in self.jobs.values())
        held = sum(len(bee.held) for bee in self.bees.values())
        assert (counts.total, counts.claimed, counts.failed) == (len(self.jobs), held, states[State.FAILED])
        assert (counts.pending, counts.complete) == (states[State.PENDING] - held, states[State.COMPLETE])


def test_states(parameters, monkeypatch):
    connection = psycopg2.connect(**parameters)
    monkeypatch.setattr(Jobset, "connection", connection)
    few = settings(
        max_examples=60, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    try:
        run_state_machine_as_test(Jobset, settings=few)
    finally:
        connection.close()
