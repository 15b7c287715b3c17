"""Claims and settlements in the database: nobody gets a job twice, and a late word changes nothing."""

from __future__ import annotations

import threading
from collections import Counter

import psycopg2
import pytest

from tests.helpers import wait_until
from tests.ledger import wrong
from workerbee import steering
from workerbee.errors import DatabaseError
from workerbee.job import Claim, Counts, Failure, Job, Kind, Limits, Outcome, State
from workerbee.loading import set_up
from workerbee.records import Reset
from workerbee.store import Store

LIMITS = Limits(max_attempts=2, max_crashes=2, max_losses=2)
BOOM = Failure(Kind.ERROR, "ValueError", "boom")


@pytest.fixture
def open_store(parameters):
    """Another connection to the jobset."""
    stores = []

    def another() -> Store:
        stores.append(Store(psycopg2.connect(**parameters), "store"))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


def prepared(store, job_ids):
    """A new jobset, and a node 1 that works for it."""
    set_up(store, job_ids, None, lambda _: None)
    assert store.add_node("host", "machine", 1, 30) == 1
    return store


@pytest.fixture
def store(open_store):
    return prepared(open_store(), ["a", "b", "c"])


def claim_one(store, bee=None, seconds=()):
    claim, _ = store.settle_and_claim(bee or store.add_bee(1, 1), seconds, 1, 1)
    return claim


@pytest.mark.parametrize(("jobs", "size"), [(40, 1), (40, 7), (900, 1), (9000, 7), (9000, 1024)])
def test_no_job_is_claimed_twice(open_store, jobs, size):
    prepared(open_store(), map(str, range(jobs)))
    seen: list[str] = []
    errors: list[BaseException] = []

    def work(store):
        try:
            claim, seconds, pending = store.add_bee(1, 1), [], True
            while pending:
                claim, pending = store.settle_and_claim(claim, seconds, size, 1)
                seen.extend(job.job_id for job in claim.jobs)
                seconds = [0.0] * len(claim.jobs)
                pending = pending or bool(seconds)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(open_store(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert Counter(seen) == dict.fromkeys(map(str, range(jobs)), 1)
    store = open_store()
    assert store.counts() == Counts(jobs, 0, 0, 0)
    assert store.total() == jobs


def waiting(sql):
    return sql("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.mark.parametrize("word", ["settle_and_claim", "settle"])
def test_a_word_that_comes_while_the_claim_is_taken_away_changes_nothing(store, open_store, sql, word):
    claim = claim_one(store)
    pos = claim.jobs[0].pos
    say, told = {
        "settle_and_claim": (lambda: store.settle_and_claim(claim, [1.0], 1, 1), (None, True)),
        "settle": (lambda: store.settle(claim.bee, claim.number, [Outcome(pos, 1.0)], LIMITS, drop=False), None),
    }[word]
    answers = []
    thread = threading.Thread(target=lambda: answers.append(say()))
    taker = open_store()
    with taker.transaction():
        taker.run("hold_claim", bee=claim.bee)
        thread.start()
        wait_until(lambda: waiting(sql), "the late word to wait for ours")
        taker.run("release_jobs", attempts=0, lows=[pos], highs=[pos])
        taker.run("drop_bee", bee=claim.bee)
    thread.join()
    assert answers == [told]
    assert sql("SELECT DISTINCT state FROM wb__store") == [("PENDING",)]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert store.counts() == Counts(total=3, pending=3, claimed=0, failed=0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_range_that_shrank_since_the_snapshot_is_taken_as_it_is(open_store, sql, size):
    store, other, gate = open_store(), open_store(), open_store()
    prepared(store, map(str, range(20_000)))
    sql("DELETE FROM wb_ranges__store WHERE lo <> 1")
    ((most,),) = sql("SELECT hi FROM wb_ranges__store")
    assert most == 39
    slow, quick = store.add_bee(1, 1), other.add_bee(1, 1)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(store.settle_and_claim(slow, [], size, 1)[0]))
    with gate.transaction():
        # It waits for its own claim's row, its snapshot taken, while the other takes from the only range.
        gate.run("hold_claim", bee=slow.bee)
        thread.start()
        wait_until(lambda: waiting(sql))
        taken.append(other.settle_and_claim(quick, [], size, 1)[0])
    thread.join()
    while (claim := other.settle_and_claim(other.add_bee(1, 1), [], 1, 1)[0]).jobs:
        taken.append(claim)
    assert sorted(job.pos for claim in taken for job in claim.jobs) == list(range(1, 40))


def test_claims_do_not_queue_for_a_range_that_another_holds(store, open_store):
    other, bee = open_store(), store.add_bee(1, 1)
    with store.connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '20s'")
    with other.transaction():
        other.run("hold_claim", bee=bee.bee + 1)  # which begins it
        other.connection.cursor().execute("SELECT FROM wb_ranges__store FOR UPDATE")
        claim, pending = store.settle_and_claim(bee, [], 1, 1)
    assert (claim.jobs, pending) == ((), True)
    assert len(claim_one(store, claim).jobs) == 1


@pytest.mark.parametrize(("room", "claimed"), [(9, 0), (10, 1), (25, 2), (1000, 3), (None, 3)])
def test_no_more_is_claimed_than_there_is_room_for(store, sql, room, claimed):
    # An id of one character, and as many bytes of data as make ten.
    sql("UPDATE wb__store SET data = '{\"a\": 10}'")
    sql("DELETE FROM wb_ranges__store")
    sql("INSERT INTO wb_ranges__store VALUES (0, 3, 1)")
    bee = store.add_bee(1, 1)
    step = {"bee": bee.bee, "number": 0, "first": 0, "took": "{}", "size": 8, "node": 1, "alone": True, "total": 3}
    rows = store.run("settle_and_claim", room=room, **step)
    # 0: there is something, but not to be had so.
    assert [pos for pos, *_ in rows] == (list(range(1, claimed + 1)) or [0])
    assert sql("SELECT coalesce(hi - lo + 1, 0) FROM wb_claims__store") == [(claimed,)]
    assert sql("SELECT coalesce(sum(hi - lo + 1), 0) FROM wb_ranges__store") == [(3 - claimed,)]


def test_what_failed_on_a_node_is_left_to_others(store, sql):
    sql(
        "INSERT INTO wb_nodes (node, jobset_id, host, machine, pid, lease, ended_at) OVERRIDING SYSTEM VALUE "
        "SELECT node, 'store', '', '', 1, '30 s', now() FROM (VALUES (7), (8)) gone (node)"
    )
    sql("UPDATE wb_ranges__store SET failed_on = 7 WHERE hi <> 2")
    for _ in range(20):
        claim, pending = store.settle_and_claim(store.add_bee(7, 1), [], 1, 7, alone=False)
        assert ([job.pos for job in claim.jobs], pending) == ([2], True)
        store.settle(claim.bee, claim.number, [], LIMITS, drop=True)
    sql("DELETE FROM wb_ranges__store WHERE hi = 2")
    assert store.settle_and_claim(store.add_bee(7, 1), [], 1, 7, alone=False)[0].jobs == ()
    counts = store.counts(7)
    assert (counts.pending, counts.offered, counts.others) == (2, 0, 1)
    store.end_node(1)
    counts = store.counts(7)
    assert (counts.pending, counts.offered, counts.others) == (2, 2, 0)
    assert len(store.settle_and_claim(store.add_bee(7, 1), [], 1, 7, alone=True)[0].jobs) == 1
    assert len(store.settle_and_claim(store.add_bee(8, 1), [], 1, 8, alone=False)[0].jobs) == 1


def test_counts_follow_a_jobs_way(store):
    assert store.counts() == Counts(total=3, pending=3, claimed=0, failed=0)
    claim = claim_one(store)
    assert store.counts() == Counts(total=3, pending=2, claimed=1, failed=0)
    claim = claim_one(store, claim, [0.5])
    assert store.counts() == Counts(total=3, pending=1, claimed=1, failed=0)
    assert store.counts().complete == 1
    charges = store.settle(claim.bee, claim.number, [Outcome(claim.jobs[0].pos, 1.0, BOOM)], Limits(1, 1), drop=True)
    assert [(charge.count, charge.limit, charge.state) for charge in charges] == [(1, 1, State.FAILED)]
    assert store.counts() == Counts(total=3, pending=1, claimed=0, failed=1)


def test_the_view_shows_who_holds_what(store, sql):
    claim = claim_one(store)
    rows = dict(sql("SELECT job_id, (state, bee, host)::text FROM wb_jobs__store"))
    assert rows.pop(claim.jobs[0].job_id) == f"(CLAIMED,{claim.bee},host)"
    assert set(rows.values()) == {"(PENDING,,)"}


def test_a_late_word_changes_nothing(store, sql):
    late = claim_one(store)
    pos = late.jobs[0].pos
    store.lose_bee(late.bee, "gone", LIMITS)
    assert store.settle_and_claim(late, [1.0], 1, 1) == (None, True)
    assert store.settle(late.bee, late.number, [Outcome(pos, 1.0)], LIMITS, drop=False) is None
    assert store.settle(late.bee, late.number, [Outcome(pos, 1.0, BOOM)], LIMITS, drop=True) is None
    assert sql("SELECT DISTINCT state FROM wb__store") == [("PENDING",)]
    assert sql("SELECT kind, job_id FROM wb_failures") == [("lost", late.jobs[0].job_id)]
    assert store.counts() == Counts(total=3, pending=3, claimed=0, failed=0)


def test_an_old_claims_word_does_not_settle_the_new_one(store, sql):
    old = claim_one(store)
    new = claim_one(store, old, [0.1])
    assert store.settle_and_claim(old, [0.1], 1, 1) == (None, True)
    assert store.settle(old.bee, old.number, [Outcome(new.jobs[0].pos, 0.1)], LIMITS, drop=False) == []
    assert dict(sql("SELECT pos, state FROM wb__store"))[new.jobs[0].pos] == "PENDING"


def test_a_bees_word_does_not_settle_what_was_cut_off_its_claim(open_store, sql, parameters):
    store = prepared(open_store(), map(str, range(20_000)))
    claim, _ = store.settle_and_claim(store.add_bee(1, 1), [], 3, 1)
    first, running, last = (job.pos for job in claim.jobs)
    store.cut_claim(claim.bee, claim.number, running, [(first, 0.1)])
    # The first is to be run again; the bee still believes that it has to say that it is done.
    assert steering.reset(store, [job.job_id for job in claim.jobs]) == Reset(1, 1)
    store.settle_and_claim(claim, [0.1, 3.0], 1, 1)
    states = dict(sql("SELECT pos, state FROM wb__store WHERE pos = ANY(%s)", [first, running, last]))
    assert states == {first: "PENDING", running: "COMPLETE", last: "PENDING"}
    assert wrong(parameters, "store") == []


def test_complete_never_changes(store, sql):
    claim = claim_one(store)
    done = claim.jobs[0].pos
    claim = claim_one(store, claim, [0.25])
    for failure in (BOOM, Failure(Kind.CRASH, "SIGSEGV", ""), Failure(Kind.LOST, "lost", "")):
        assert (
            store.run(
                "charge_jobs",
                lo=done,
                hi=done,
                seconds=1,
                limit=1,
                kind=failure.kind.value,
                counter=failure.kind.counter,
                type="",
                message="",
                stack="",
                exit_code=None,
                log="",
                bee=claim.bee,
                pid=1,
                node=1,
            )
            == []
        )
    # Nor does it complete anew, and what has FAILED does not complete at all.
    failed = claim.jobs[0].pos
    store.settle(claim.bee, claim.number, [Outcome(failed, 1.0, BOOM)], Limits(1, 1), drop=True)
    for pos in (done, failed):
        claim_one(store, Claim(store.add_bee(1, 1).bee, 0, (Job(pos, "", None),)), [0.5])
    store.run("complete_jobs", done=[done, failed], seconds=[0.5, 0.5], node=1)
    assert sql("SELECT state, seconds FROM wb__store WHERE pos = %s", done) == [("COMPLETE", 0.25)]
    assert sql("SELECT state, seconds FROM wb__store WHERE pos = %s", failed) == [("FAILED", None)]
    assert sql("SELECT state, errors + crashes + losses FROM wb__store WHERE pos = %s", done) == [("COMPLETE", 0)]
    assert sql("SELECT pos FROM wb_failures") == [(failed,)]


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_own_limit(store, sql, kind):
    limits = Limits(max_attempts=2, max_crashes=3, max_losses=4)
    most = limits.of(kind)
    sql("DELETE FROM wb_ranges__store WHERE hi > 1")
    for count in range(1, most + 1):
        claim = claim_one(store)
        (charge,) = store.settle(claim.bee, claim.number, [Outcome(1, 1.0, Failure(kind, "t", "m"))], limits, drop=True)
        state = State.FAILED if count == most else State.PENDING
        assert (charge.count, charge.limit, charge.state) == (count, most, state)
    assert sql("SELECT state FROM wb__store WHERE pos = 1") == [("FAILED",)]
    assert sql("SELECT attempt, final FROM wb_failures ORDER BY failure") == [
        (n, n == most) for n in range(1, most + 1)
    ]


def test_part_of_a_batch_settles_and_the_rest_goes_back(open_store, sql):
    store = open_store()
    # Long enough for ranges of several jobs.
    prepared(store, map(str, range(20_000)))
    claim, _ = store.settle_and_claim(store.add_bee(1, 1), [], 4, 1)
    first, second, *rest = (job.pos for job in claim.jobs)
    assert len(rest) == 2
    store.settle(claim.bee, claim.number, [Outcome(first, 1.0), Outcome(second, 1.0, BOOM)], LIMITS, drop=True)
    states = dict(sql("SELECT pos, state || errors FROM wb__store WHERE pos BETWEEN %s AND %s", first, rest[-1]))
    assert states == {first: "COMPLETE0", second: "PENDING1", rest[0]: "PENDING0", rest[1]: "PENDING0"}
    assert store.counts() == Counts(20_000, 19_999, 0, 0)
    assert sql("SELECT attempts, lo, hi FROM wb_ranges__store WHERE attempts > 0") == [(1, second, second)]


def test_a_claim_made_without_a_trace_goes_back_uncharged(store, sql):
    # The bee was killed after its claim was committed and before it could note that: the board speaks of the old one.
    old = claim_one(store)
    done = Outcome(old.jobs[0].pos, 0.1)
    claim_one(store, old, [0.1])
    assert store.settle(old.bee, old.number, [done], LIMITS, drop=True) == []
    assert store.counts() == Counts(total=3, pending=2, claimed=0, failed=0)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def test_an_old_word_charges_nothing_that_was_claimed_anew(store, sql):
    """Not even the same job, when its place is left to an heir."""
    sql("DELETE FROM wb_ranges__store WHERE lo > 1")
    old = claim_one(store)
    store.settle(old.bee, old.number, [], LIMITS, drop=False)
    new = claim_one(store, Claim(old.bee, old.number + 1))
    assert new.jobs == old.jobs
    crash = Outcome(old.jobs[0].pos, 0.1, Failure(Kind.CRASH, "SIGSEGV", "died"))
    charges, claim = store.settle_for_heir(old.bee, old.number, [crash], LIMITS, pid=1, node=1, alone=True)
    assert charges == []
    assert claim == store.find_claim(old.bee)
    assert (claim.number, claim.jobs) == (new.number + 1, old.jobs)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def test_nobody_waits_for_a_lost_bee_that_stands_still_in_a_transaction(store, open_store):
    claim = claim_one(store)
    asleep = open_store()
    with asleep.transaction():
        asleep.run("hold_claim", bee=claim.bee)
        with store.connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '20s'")
        assert store.lose_bee(claim.bee, "gone", LIMITS) == []
    (charge,) = store.lose_bee(claim.bee, "gone", LIMITS)
    assert charge.job_id == claim.jobs[0].job_id


def test_a_claim_whose_answer_was_lost_is_read_back(store):
    claim = claim_one(store)
    assert store.find_claim(claim.bee) == claim
    store.lose_bee(claim.bee, "gone", LIMITS)
    assert store.find_claim(claim.bee) is None


def test_only_silent_nodes_lose_their_bees(store, sql):
    silent, loud = store.add_node("silent", "m", 1, 5), store.add_node("loud", "m", 1, 5)
    bee = store.add_bee(silent, 1).bee
    store.add_bee(loud, 1)
    sql("UPDATE wb_nodes SET beat_at = now() - interval '6 s' WHERE node = %s", silent)
    sql("UPDATE wb_nodes SET beat_at = now() - interval '4 s' WHERE node = %s", loud)
    assert store.silent_bees(1) == [(bee, "silent")]
    store.end_silent_nodes()
    assert sql("SELECT host FROM wb_nodes WHERE ended_at IS NOT NULL") == []
    store.lose_bee(bee, "gone", LIMITS)
    store.end_silent_nodes()
    assert sql("SELECT host FROM wb_nodes WHERE ended_at IS NOT NULL") == [("silent",)]
    store.beat_node(silent, 1)
    assert sql("SELECT host FROM wb_nodes WHERE ended_at IS NOT NULL") == []


def test_bees_of_a_node_that_nobody_knows_are_lost(store, sql):
    bee = claim_one(store).bee
    assert store.silent_bees(2) == []
    sql("DELETE FROM wb_nodes")
    assert store.silent_bees(2) == [(bee, "?")]
    for word in (lambda: store.beat_node(1, 1), lambda: store.add_bee(1, 1)):
        with pytest.raises(DatabaseError, match="jobset 'store', which this node worked on, has been dropped"):
            word()


def test_as_many_attempts_as_the_limits_allow_can_be_counted(store, sql):
    sql("UPDATE wb__store SET errors = 32000, crashes = 32000")
    claim = claim_one(store)
    (charge,) = store.settle(
        claim.bee, claim.number, [Outcome(claim.jobs[0].pos, 1.0, BOOM)], Limits(32700, 32700), drop=True
    )
    assert (charge.attempt, charge.state) == (64001, State.PENDING)


def test_a_node_that_ends_takes_only_its_empty_bees_along(store, sql):
    held, others = claim_one(store).bee, store.add_bee(store.add_node("other", "m", 1, 5), 1).bee
    store.add_bee(1, 1)
    store.end_node(1)
    assert sql("SELECT bee FROM wb_claims__store ORDER BY bee") == [(held,), (others,)]


def test_no_table_is_scanned_from_end_to_end(open_store, sql):
    store = prepared(open_store(), map(str, range(50_000)))
    scans = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname IN ('wb__store', 'wb_ranges__store')"
    with store.connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    before = wait_until(lambda: sql(scans + " AND seq_scan > 0 ORDER BY relname"))
    claim, rounds = store.add_bee(1, 1), 20
    for _ in range(rounds):
        claim, _ = store.settle_and_claim(claim, [0.1] * len(claim.jobs), 50, 1)
        assert claim.jobs
    # And as one that claims ahead.
    step = {"bee": claim.bee, "number": claim.number, "first": 0, "took": "{}", "size": 50, "node": 1, "alone": True}
    assert len(store.run("settle_and_claim", total=50_000, room=65536, **step)) == 50
    with store.connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
    after = wait_until(lambda: all(row[1] >= rounds for row in sql(scans)) and sql(scans + " ORDER BY relname"))
    assert [row[0] for row in after] == [row[0] for row in before]
