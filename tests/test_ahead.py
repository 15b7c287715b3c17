"""Claims made ahead: while a job runs, what the bee's other hand holds is settled and made anew."""

from __future__ import annotations

import math
import time

import psycopg2
import pytest

from tests.helpers import PLENTY, Indifferent, wait_until
from workerbee import Jobset, portion
from workerbee.address import resolve
from workerbee.bee import Bee
from workerbee.job import Claim, Job, Limits, State
from workerbee.keeper import Keeper
from workerbee.session import Session
from workerbee.slot import Phase
from workerbee.store import Store

CLAIMS = "SELECT count(*) FROM wb_claims__lone WHERE lo IS NOT NULL"
ROWS = "SELECT count(*) FROM wb_claims__lone"
COMPLETE = "SELECT count(*) FROM wb__lone WHERE state = 'COMPLETE'"
OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'workerbee test bee'"


@pytest.fixture
def bee(hive, monkeypatch):
    """A bee for twenty jobs that calls `function(run)` in its `run`-th, and keeps `runs`, what it ran. `work()` has it
    run them all."""
    # What a test does in a job may take its time.
    monkeypatch.setattr(portion, "SHORT", math.inf)
    monkeypatch.setattr(portion, "SOBER", 0.0)
    monkeypatch.setattr(portion, "YOUNG", 0.0)
    monkeypatch.setattr("workerbee.bee.FRESH", 600.0)

    def make(function, kind=Bee, session=Session, **more):
        board, session = hive(20, session, patience=30)
        board.header.offered = PLENTY
        board.header.counted = 1.0  # there is no other node

        def job(job_id, _data):
            runs.append(job_id)
            try:
                function(len(runs))
            except BaseException as error:
                failed.append(error)
                raise

        def work():
            assert lone.run() is Phase.NO_WORK
            assert failed == []

        lone = kind(session, board, 0, job, Limits(max_attempts=1), Indifferent(), lease=3600, **more)
        failed, runs = [], []
        lone.board, lone.work, lone.runs = board, work, runs
        return lone

    return make


def assert_all_ran_once(lone, sql):
    assert sorted(lone.runs, key=int) == [str(n) for n in range(20)]
    assert sql(COMPLETE) == [(20,)]
    assert sql(ROWS) == [(0,)]
    assert lone.board.completed == 20


def wait_for_claims(sql, run):
    """Until there is an answer to what was asked before the `run`-th job."""
    wait_until(lambda: sql(CLAIMS) == [(2,)] and sql(COMPLETE) == [(run - 1,)], "the next claim")


def test_while_a_job_runs_the_one_before_is_settled_and_another_claimed(bee, sql):
    complete = []

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            complete.extend(sql(COMPLETE))

    lone = bee(job)
    lone.work()
    assert complete == [(4,)]
    assert_all_ran_once(lone, sql)


def test_people_see_one_bee_with_all_that_it_holds(bee, sql, address):
    seen = []

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            jobset = Jobset("lone", **address)
            status, (number,) = jobset.status(), *sql("SELECT max(bee) FROM wb_claims__lone")
            seen.append([(held.bee, held.jobs, held.job_id) for held in status.bees] == [(number, 2, lone.runs[-1])])
            seen.append([node.bees for node in status.nodes] == [1])
            seen.append([one.bee for one in jobset.jobs() if one.state is State.CLAIMED] == [number, number])
            seen.append(sql("SELECT bee FROM wb_jobs__lone WHERE state = 'CLAIMED'") == [(number,), (number,)])

    lone = bee(job)
    lone.work()
    assert seen == [True] * 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lone: setattr(lone.board.header, "offered", 3),
        lambda _: setattr(portion, "SHORT", 1e-9),
        lambda lone: (setattr(portion, "SOBER", 600.0), lone._portion.sober_up()),
    ],
    ids=["few are left", "jobs take long", "it was in vain"],
)
def test_otherwise_a_bee_holds_one_claim(bee, sql, spoil):
    held = []

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            spoil(lone)
        if run > 5:
            held.extend(sql(CLAIMS))

    lone = bee(job)
    lone.work()
    # The one that had been made ahead is worked through, and settled at once.
    assert held == [(1,)] * 15
    assert_all_ran_once(lone, sql)


@pytest.mark.parametrize("more", [{"claim": 1}, {"claim": 2}, {"most_jobs": 100}])
def test_nor_when_their_number_is_given(bee, sql, more):
    held = []
    lone = bee(lambda _: held.extend(sql(CLAIMS)), **more)
    lone.work()
    assert set(held) == {(1,)}


def test_what_is_large_is_not_claimed_ahead(bee, sql, monkeypatch):
    held = []

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            # An answer that does not fit between the server and a bee that does not read it.
            sql("UPDATE wb__lone SET data = json_build_object('a', repeat('x', 9000000)) WHERE state = 'PENDING'")
            monkeypatch.setattr(portion, "SOBER", 600.0)
        if run == 8:
            # It is not tried again at once.
            sql("UPDATE wb__lone SET data = NULL WHERE state = 'PENDING'")
        if run > 5:
            wait_until(lambda: sql(f"SELECT 1 {OURS} AND state = 'idle'"), "the server to have said it")
            held.extend(sql(CLAIMS))

    lone = bee(job)
    lone.work()
    assert held == [(1,)] * 15
    assert_all_ran_once(lone, sql)


@pytest.fixture
def cut(sql):
    """Break the bee's connection."""
    return lambda: wait_until(lambda: sql(f"SELECT pg_terminate_backend(pid, 60000) {OURS}"), "a session to end")


@pytest.fixture
def locker(parameters):
    """Another session, which can be at the rows of the claims."""
    connection = psycopg2.connect(**parameters)
    yield connection
    connection.close()


def wait_until_blocked(sql):
    wait_until(lambda: sql(f"SELECT 1 {OURS} AND wait_event_type = 'Lock'"), "the bee to be blocked")


def test_an_answer_that_is_lost_is_read_back(bee, sql, cut):
    def job(run):
        if run in (5, 8, 15):
            wait_for_claims(sql, run)
            cut()

    lone = bee(job)
    lone.work()
    assert_all_ran_once(lone, sql)


def test_a_question_that_is_lost_is_asked_again(bee, sql, cut, locker):
    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            locker.cursor().execute("SELECT FROM wb_claims__lone FOR UPDATE")
        if run == 6:
            wait_until_blocked(sql)
            cut()
            locker.rollback()
            settled.extend(sql(COMPLETE))

    settled = []
    lone = bee(job)
    lone.work()
    assert settled == [(4,)]
    assert_all_ran_once(lone, sql)


def test_a_question_that_cannot_be_sent_is_asked_later(bee, sql):
    class Broken(Session):
        asked = 0

        def ask(self, question):
            self.asked += 1
            if self.asked % 5 == 0:
                self._store.connection.close()
            return super().ask(question)

    lone = bee(lambda _: None, session=Broken)
    lone.work()
    assert_all_ran_once(lone, sql)


def test_a_conflict_with_others_is_no_end(bee, sql, locker):
    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            locker.cursor().execute("SELECT FROM wb_claims__lone FOR UPDATE")
        if run == 6:
            wait_until_blocked(sql)
            sql(f"SELECT pg_cancel_backend(pid) {OURS}")
            wait_until(lambda: sql(f"SELECT 1 {OURS} AND state = 'idle'"), "the statement to be cancelled")
            locker.rollback()

    lone = bee(job)
    lone.work()
    assert_all_ran_once(lone, sql)


def test_a_late_word_of_the_keeper_is_not_taken_for_a_later_row(bee, sql, parameters):
    said = []

    def job(run):
        slot = lone.board.slots[0]
        if run == 2:
            wait_for_claims(sql, run)
            other = slot.hands[1 - slot.turn]
            said.append((other.bee, other.number, other.completed_so_far()))
            # Meanwhile another node takes the row away, and the bee makes it anew.
            assert len(store.lose_bee(other.bee, "for a test", Limits())) == 1
        if run > 2 and slot.hand.bee == said[0][0]:
            before = sql(held, slot.hand.bee)
            if store.take_back(*said[0], Limits()):
                assert sql(held, slot.hand.bee) == before
                said.append("late")

    held = "SELECT number, lo FROM wb_claims__lone WHERE bee = %s"
    store = Store(psycopg2.connect(**parameters), "lone")
    lone = bee(job)
    lone.work()
    store.close()
    assert said[1:]
    assert sql(COMPLETE) == [(20,)]


@pytest.fixture
def keeper(address, monkeypatch):
    """Make one that finds everything long."""
    monkeypatch.setattr("workerbee.keeper.LONG", 0.0)
    sessions = []

    def make(board):
        sessions.append(Session(resolve(**address), "lone", "workerbee test keeper", patience=0))
        return Keeper(sessions[-1], None, board, Limits(), 3600, "machine", None, None)

    yield make
    for session in sessions:
        session.close()


def test_a_keeper_takes_back_what_another_had_only_said(bee, sql, keeper):
    claims = []

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            slot = lone.board.slots[0]
            other = slot.hands[1 - slot.turn]
            other.cut = other.number + 1
            keeper(lone.board)._cut_long()
            claims.extend(sql(CLAIMS))

    lone = bee(job)
    lone.work()
    assert claims == [(1,)]
    assert_all_ran_once(lone, sql)


@pytest.mark.parametrize("asked", [False, True])
def test_a_keeper_that_is_slow_leaves_a_later_claim_alone(hive, keeper, monkeypatch, asked):
    board, _ = hive(2)
    hand = board.slots[0].hand
    jobs = tuple(Job(pos, str(pos), None) for pos in (1, 2))

    def go_on(number):
        hand.hold(Claim(1, number, jobs), 0.0)
        if asked:
            hand.asked = number
        else:
            hand.pos = 1

    class SlowClock:
        sleep = time.sleep

        def monotonic(self):
            # Between its look at the hand and all that it does about it.
            if hand.number == 7:
                go_on(8)
            return time.monotonic()

    slow = keeper(board)
    go_on(7)
    monkeypatch.setattr("workerbee.keeper.time", SlowClock())
    monkeypatch.setattr(slow, "_session", None)
    slow._cut_if_long((0, 0), hand)
    assert hand.cut in (7, 8)


def test_a_witness_hears_of_every_claim(hive, parameters):
    class Listener(Indifferent):
        def holds(self, claim):
            heard.append([job.job_id for job in claim.jobs])

    def job(job_id, _data):
        ran.append([job_id])
        if len(ran) == 2:
            raise ValueError

    heard, ran = [], []
    board, session = hive(4)
    store = Store(psycopg2.connect(**parameters), "lone")
    # An heir: its first claim was made for it.
    claim, _ = store.settle_and_claim(store.add_bee(board.header.node, 1), [], 1, board.header.node)
    store.close()
    board.slots[0].prepare(claim, time.monotonic())
    assert Bee(session, board, 0, job, Limits(max_attempts=1), Listener(), lease=30).run() is Phase.NO_WORK
    assert ran[0] == [claim.jobs[0].job_id]
    assert heard == [ran[0], ran[1], [], ran[2], ran[3], []]


@pytest.mark.parametrize("which", ["bee > 0", "bee < 0", "true"])
def test_a_bee_whose_claims_were_taken_away_goes_on(bee, sql, parameters, which):
    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            store = Store(psycopg2.connect(**parameters), "lone")
            for (row,) in sql(f"SELECT bee FROM wb_claims__lone WHERE {which}"):
                assert len(store.lose_bee(row, "for a test", Limits())) == 1
            store.close()

    lone = bee(job)
    lone.work()
    assert sql(COMPLETE) == [(20,)]
    assert sql(ROWS) == [(0,)]
    # One that was lost before it began is begun all the same, as it is by a node that was taken for dead.
    again, is_named = sql("SELECT count(*), bool_and(bee > 0) FROM wb_failures WHERE kind = 'lost'")[0]
    assert is_named
    assert len(lone.runs) == 20 + again
    assert len(set(lone.runs)) == 20


def test_who_is_held_back_gives_both_back(bee, sql):
    class HeldBack(Bee):
        def _reason_to_end(self):
            if self._header.hold:
                held.extend(sql(CLAIMS))
                self._header.hold = 0.0
            return super()._reason_to_end()

    def job(run):
        if run == 5:
            wait_for_claims(sql, run)
            lone.board.header.hold = time.monotonic() + 3600

    held = []
    lone = bee(job, HeldBack)
    lone.work()
    assert held == [(0,)]
    assert_all_ran_once(lone, sql)


def test_nothing_is_begun_of_a_claim_that_has_waited_for_long(bee, sql, monkeypatch):
    def job(run):
        slot = lone.board.slots[0]
        since.append(slot.hand.since)
        if run == 5:
            wait_for_claims(sql, run)
            # As if the job had taken longer than FRESH, which is 600 here.
            slot.hands[1 - slot.turn].asked -= 700
            monkeypatch.setattr(portion, "SOBER", 600.0)
        if run > 6:
            held.extend(sql(CLAIMS))

    since, held = [], []
    lone = bee(job)
    begun = time.monotonic()
    lone.work()
    assert min(since) >= begun
    assert held == [(1,)] * 14
    assert_all_ran_once(lone, sql)


# With a whole node around the bees. Their jobs are short, and there are so many of them that all claim ahead.

IDS = [f"{n:04}" for n in range(800)]
NODE = """
    import ctypes, os, sys, time
    from pathlib import Path
    import psycopg2
    from workerbee import portion, postgres_jobset

    connection = None

    def is_ahead():
        # By a connection of the process that asks.
        global connection
        if connection is None or connection[0] != os.getpid():
            connection = os.getpid(), psycopg2.connect("")
            connection[1].autocommit = True
        cursor = connection[1].cursor()
        cursor.execute("SELECT count(*) FROM wb_claims__ahead WHERE pid = %s AND lo IS NOT NULL", [os.getpid()])
        return cursor.fetchone() == (2,)

    def chosen():
        # One of the bees, once, in a job while which it holds another claim.
        if Path("chosen").exists() or not is_ahead():
            return False
        try:
            Path("chosen").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def work(job_id, data):
        with open("journal", "a") as file:
            file.write(f"{job_id}\\n")
        time.sleep(0.01)
        act(job_id)

    print(postgres_jobset("ahead", work, [f"{n:04}" for n in range(800)], processes=2, max_crashes=1))
"""


@pytest.fixture
def node(script, tmp_path):
    """Start a node whose jobs go through the lines of `act(job_id)`; what has been started."""

    def start(act):
        lines = "\n".join(f"        {line}" for line in act.strip().splitlines())
        return script(NODE.replace("    def work(", f"    def act(job_id):\n{lines}\n\n    def work("))

    start.journal = lambda: sorted((tmp_path / "journal").read_text().split())
    return start


def test_a_long_job_keeps_nothing_that_its_bee_had_claimed_ahead(node, sql, tmp_path):
    process = node("""
if chosen():
    Path("name").write_text(job_id)
    Path("name").rename("long")
    while not Path("go").exists():
        time.sleep(0.01)
""")
    # The rest is done by the other bee, while it runs.
    wait_until((tmp_path / "long").exists)
    complete = "SELECT count(*) FROM wb__ahead WHERE state = 'COMPLETE'"
    wait_until(lambda: sql(complete) == [(len(IDS) - 1,)], "all others")
    long = (tmp_path / "long").read_text()
    assert sql("SELECT job_id FROM wb_jobs__ahead WHERE state = 'CLAIMED'") == [(long,)]
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "800 of 800 jobs complete, 0 failed; here 800 completed" in said
    assert node.journal() == IDS
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def test_a_death_costs_only_the_job_that_ran(node, sql, tmp_path):
    # Now and then, in either hand; and the heirs go on to claim ahead, too.
    process = node("""
if int(job_id) % 100 == 7:
    deadline = time.monotonic() + 2
    while not is_ahead() and time.monotonic() < deadline:
        time.sleep(0.001)
    with open("deaths", "a") as file:
        file.write(f"{is_ahead()} ")
    [lambda: ctypes.string_at(0), lambda: os.kill(os.getpid(), 9), lambda: os._exit(3)][int(job_id) // 100 % 3]()
""")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "792 of 800 jobs complete, 8 failed; here 792 completed" in said
    assert (tmp_path / "deaths").read_text().count("True") > 1
    assert node.journal() == IDS
    assert sql("SELECT count(*), count(DISTINCT pos), bool_and(bee > 0) FROM wb_failures") == [(8, 8, True)]
    assert sql("SELECT count(*) FROM wb_claims__ahead") == [(0,)]


def test_a_node_that_is_told_to_stop_gives_back_what_it_had_claimed_ahead(node, sql, tmp_path):
    process = node("""
if is_ahead():
    Path("ahead").touch()
""")
    wait_until((tmp_path / "ahead").exists)
    process.terminate()
    said = process.communicate()[0]
    assert process.returncode == 143, said
    assert sql("SELECT count(*) FROM wb_claims__ahead") == [(0,)]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    done = [job_id for (job_id,) in sql("SELECT job_id FROM wb__ahead WHERE state = 'COMPLETE' ORDER BY 1")]
    assert node.journal() == done
    assert len(done) < len(IDS)
