"""How a jobset stands, told while its nodes work and after them."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import psycopg2
import pytest

from tests.helpers import wait_until
from workerbee import DatabaseError, InvalidType, InvalidValue, Jobset, JobsetNotFound, list_jobsets, postgres_jobset
from workerbee.address import Address, connect
from workerbee.board import Board
from workerbee.job import Counts, Kind
from workerbee.loading import set_up
from workerbee.logbook import Logbook
from workerbee.session import Session
from workerbee.status import Overview
from workerbee.store import Store
from workerbee.survey import SAMPLE

# Some return, some raise, some kill their bee; two run until they are let go.
MIXED = """
    import os, signal, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        what = job_id.partition("-")[0]
        if what == "raise":
            raise ValueError(f"no {data['what']}")
        if what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "wait":
            Path(job_id).touch()
            while not Path("go").exists():
                time.sleep(0.01)

    ids = [(f"{what}-{n}", {"what": "luck"}) for what, many in
           [("fine", 40), ("raise", 5), ("die", 2), ("wait", 2)] for n in range(many)]
    print(postgres_jobset("mixed", job, ids, processes=2, max_attempts=1, max_crashes=1))
"""


def test_a_jobset_at_work_and_at_its_end(address, script, sql, tmp_path):
    nodes = [script(MIXED), script(MIXED)]
    wait_until(lambda: all((tmp_path / f"wait-{n}").exists() for n in range(2)))
    jobset = Jobset("mixed", **address)
    wait_until(lambda: jobset.overview().counts == Counts(49, 0, 2, 7))
    wait_until(lambda: sum(node.failed for node in jobset.status().nodes) == 7)
    # By now a keeper has cut the claims down to the jobs that run.
    wait_until(lambda: [bee.jobs for bee in jobset.status().bees if bee.jobs] == [1, 1])
    seen = jobset.status()
    assert (seen.jobset_id, seen.counts, seen.counts.complete) == ("mixed", Counts(49, 0, 2, 7), 40)
    assert not seen.ended
    assert seen.eta is None  # nobody knows how long the last take
    assert seen.created_by.endswith(tuple(f":{node.pid}" for node in nodes))
    assert seen.created_at < seen.active_at <= seen.at
    assert sorted((node.pid, node.alive, node.stop, node.ended_at) for node in seen.nodes) == sorted(
        (node.pid, True, None, None) for node in nodes
    )
    assert seen.nodes_alive == 2
    assert sum(node.bees for node in seen.nodes) == len(seen.bees)
    assert all(node.started_at < node.beat_at <= seen.at for node in seen.nodes)
    assert {bee.job_id for bee in seen.longest_running} == {"wait-0", "wait-1"}
    assert all(bee.seconds > 1 and bee.host == os.uname().nodename for bee in seen.longest_running)
    assert {bee.pid for bee in seen.longest_running} == {
        pid for (pid,) in sql("SELECT pid FROM wb_claims__mixed WHERE lo > 0")
    }
    errors, crashes = seen.failures
    assert (errors.kind, errors.type, errors.message, errors.count) == (Kind.ERROR, "ValueError", "no luck", 5)
    assert errors.example.startswith("raise-")
    assert (crashes.kind, crashes.type, crashes.count) == (Kind.CRASH, "SIGSEGV", 2)
    assert 0 <= seen.durations.median <= seen.durations.p95 <= seen.durations.longest < 1
    assert seen.durations.sampled == 40
    assert len(jobset.status(groups=1).failures) == 1

    (tmp_path / "go").touch()
    assert [node.wait() for node in nodes] == [0, 0]
    seen = jobset.status()
    assert (seen.counts, seen.ended, seen.eta, seen.rate, seen.nodes_alive) == (Counts(49, 0, 0, 7), True, 0.0, 0, 0)
    assert seen.bees == ()
    assert [node.alive for node in seen.nodes] == [False, False]
    assert sum(node.done for node in seen.nodes) == 42
    assert all(node.ended_at and not node.bees for node in seen.nodes)
    # The node's word, since a sample may miss the slowest.
    assert seen.durations.longest == pytest.approx(max(node.slowest for node in seen.nodes))
    assert seen.durations.longest > 1


def test_a_killed_node_is_not_alive(address, script, sql, tmp_path):
    process = script(MIXED)
    wait_until(lambda: all((tmp_path / f"wait-{n}").exists() for n in range(2)))
    jobset = Jobset("mixed", **address)
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid > 0"))
    os.kill(keeper, signal.SIGSTOP)
    try:
        process.kill()
        sql("UPDATE wb_nodes SET beat_at = now() - 2 * lease")
        seen = jobset.status()
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert [(node.alive, node.ended_at) for node in seen.nodes] == [(False, None)]
    assert (seen.nodes_alive, seen.rate) == (0, 0)


@pytest.fixture
def history(parameters, sql):
    """A jobset of a million jobs by its counts, and a node with the entries given: (seconds ago, done)."""
    store = Store(psycopg2.connect(**parameters), "long")
    set_up(store, ["a"], None, lambda _: None)
    sql("UPDATE wb_jobsets SET total = 1000000")
    sql("UPDATE wb_ranges__long SET hi = 600000")

    def write(*entries):
        node = store.add_node("host", "machine", 1, 30)
        # Of one instant.
        sql(
            "INSERT INTO wb_progress SELECT %s, now() - make_interval(secs => ago), 1, done, 0, 2.5 "
            "FROM unnest(%s::float8[], %s::bigint[]) AS entry (ago, done)",
            node,
            [ago for ago, _ in entries],
            [done for _, done in entries],
        )

    yield write
    store.close()


@pytest.mark.parametrize(
    ("entries", "rate"),
    [
        ([], 0),
        ([(5, 0)], 0),
        ([(15, 0), (5, 100)], 10),
        # The last five minutes count, not the slow start,
        ([(3000, 0), (1000, 100), (330, 1000), (310, 2000), (5, 32500)], 100),
        # unless too little has happened in them.
        ([(2005, 0), (1005, 10), (605, 20), (305, 22), (5, 29)], 29 / 2000),
        ([(2005, 0), (1005, 10), (605, 20), (305, 22), (5, 31)], 21 / 1000),
    ],
)
def test_rate_and_eta(history, address, entries, rate):
    history(*entries)
    history((15, 0), (5, 1000))
    seen = Jobset("long", **address).overview()
    assert seen.rate == pytest.approx(rate + 100)
    assert seen.eta == pytest.approx(600_000 / (rate + 100))
    assert seen.counts.complete == 400_000


def test_a_large_jobset_is_sampled(address, parameters, sql):
    store = Store(psycopg2.connect(**parameters), "large")
    set_up(store, map(str, range(60_000)), None, lambda _: None)
    jobset = Jobset("large", **address)
    assert jobset.status().durations.median is None
    # Whole pages are sampled: as in any jobset, where a row lies says nothing about how long it took.
    sql("UPDATE wb__large SET state = 'COMPLETE', finished_at = now(), seconds = pos * 7919 % 60000 / 10.0")
    sql("DELETE FROM wb_ranges__large")
    # The scan of all the table is what must not happen: it would be counted.
    sql("SELECT pg_stat_reset()")
    durations = jobset.status().durations
    assert SAMPLE / 3 < durations.sampled < SAMPLE * 3
    assert durations.median == pytest.approx(3000, rel=0.2)
    assert durations.p95 == pytest.approx(5700, rel=0.1)
    assert durations.p95 < durations.longest <= 6000
    store.close()


def test_bad_addresses_and_names(address, parameters):
    with pytest.raises(JobsetNotFound, match="there is no jobset 'absent' in this database"):
        Jobset("absent", **address).overview()
    assert list_jobsets(**address) == []
    postgres_jobset("present", lambda *_: None, ["a"], **address, verbose=False)
    for method in ("overview", "status", "failures", "failure_groups", "jobs"):
        with pytest.raises(JobsetNotFound, match="absent"):
            getattr(Jobset("absent", **address), method)()
    with pytest.raises(InvalidValue, match="jobset_id must be"):
        Jobset("no such name")
    with pytest.raises(DatabaseError, match="cannot connect to"):
        Jobset("present", **{**address, "port": "1"}).overview()
    uri = "postgresql:///{dbname}?".format(**parameters)
    uri += "&".join(f"{key}={value}" for key, value in parameters.items() if key != "dbname")
    assert Jobset("present", database=uri).overview().ended
    present = Jobset("present", **address)
    for kind, call in [
        (InvalidType, lambda: present.status("many")),
        (InvalidType, lambda: present.status(True)),
        (InvalidValue, lambda: present.status(-1)),
        (InvalidValue, lambda: present.failures(kind="bad")),
        (InvalidType, lambda: present.failures(match=3)),
        (InvalidValue, lambda: present.failures(match="\0")),
        (InvalidValue, lambda: present.failures(job_id="\ud800")),
    ]:
        with pytest.raises(kind):
            call()


def test_all_jobsets(address, sql):
    for name in ("one", "two", "gone"):
        postgres_jobset(name, lambda *_: None, ["a", "b"], **address, verbose=False)
    sql("DROP TABLE wb__gone, wb_ranges__gone, wb_claims__gone CASCADE")
    sql("UPDATE wb_nodes SET beat_at = beat_at + interval '1 s' WHERE jobset_id = 'one'")
    found = list_jobsets(**address)
    assert [(one.jobset_id, one.counts, one.ended) for one in found] == [
        ("one", Counts(2, 0, 0, 0), True),
        ("two", Counts(2, 0, 0, 0), True),
    ]
    assert all(type(one) is Overview for one in found)


@pytest.mark.parametrize("processes", [None, 2])
def test_a_nodes_logbook(address, sql, processes):
    postgres_jobset("log", lambda *_: time.sleep(0.5), ["a", "b", "c", "d"], **address, processes=processes)
    entries = sql("SELECT bees, complete, failed, slowest FROM wb_progress ORDER BY at")
    assert entries[-1][:3] == (0, 4, 0)
    assert 0.5 <= entries[-1][3] < 60
    assert max(bees for bees, *_ in entries) == (processes or 1)
    complete = [complete for _, complete, *_ in entries]
    assert complete == sorted(complete)


def test_a_logbook_has_more_entries_when_there_is_more_to_say(parameters, sql, monkeypatch):
    session = Session(Address(parameters), "log", "test", patience=0, connect=connect)
    session.call(lambda store: set_up(store, ["a"], None, lambda _: None))
    now = 1000.0
    monkeypatch.setattr("workerbee.logbook.time", SimpleNamespace(monotonic=lambda: now))
    board = Board(1)
    logbook = Logbook(session, board)

    def entries(seconds, jobs=0):
        """How many are made meanwhile, when a keeper looks four times a second."""
        nonlocal now
        ((before,),) = sql("SELECT count(*) FROM wb_progress")
        for _ in range(4 * seconds):
            now += 0.25
            board.slots[0].completed += jobs
            logbook.write_if_due()
        return sql("SELECT count(*) FROM wb_progress")[0][0] - before

    assert entries(10, jobs=1) == 10
    assert 5 <= entries(10, jobs=1) <= 8
    assert entries(300) <= 11
    assert entries(300, jobs=1) <= 11
    board.close()
    session.close()
