"""Lost nodes, late bees, and waiting for others."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psycopg2
import pytest

from tests.helpers import alive, descendants, wait_until
from workerbee import postgres_jobset
from workerbee.job import Limits
from workerbee.loading import set_up
from workerbee.store import Store
from workerbee.undertaker import FATAL

NOBODY = 2**31 - 1  # no process of this machine


@pytest.fixture
def elsewhere(parameters, sql):
    """A node on another machine that holds one of two jobs, and has been silent for as long as is said."""
    store = Store(psycopg2.connect(**parameters), "lost")
    set_up(store, ["a", "b"], None, lambda _: None)
    node = store.add_node("far", "another machine", NOBODY, 5)
    claim, _ = store.settle_and_claim(store.add_bee(node, NOBODY), [], 1, node)

    def silent(seconds: float):
        sql("UPDATE wb_nodes SET beat_at = now() - make_interval(secs => %s) WHERE node = %s", seconds, node)
        return store, claim

    yield silent
    store.close()


@pytest.mark.parametrize("processes", [None, 1])
def test_a_silent_nodes_claims_go_back(elsewhere, address, sql, processes):
    store, claim = elsewhere(6)
    summary = postgres_jobset("lost", lambda *_: None, **address, verbose=False, processes=processes, lease=1)
    assert summary.ok
    held = claim.jobs[0]
    ((job_id, kind, host, final, message),) = sql("SELECT job_id, kind, host, final, message FROM wb_failures")
    assert (job_id, kind, host, final) == (held.job_id, "lost", "far", False)
    assert message.startswith("its node on far was silent for")
    # What the late bee has to say changes nothing.
    before = sql("SELECT * FROM wb__lost ORDER BY pos")
    assert store.settle_and_claim(claim, [1.0], 1, 1)[0] is None
    assert sql("SELECT * FROM wb__lost ORDER BY pos") == before


def test_a_node_that_is_heard_of_keeps_its_claims(elsewhere, script, sql):
    store, claim = elsewhere(0)
    process = script("""
        from workerbee import postgres_jobset
        print(postgres_jobset("lost", lambda *_: None, lease=1, processes=1))
    """)
    # The other job is done, and the node waits: it has looked for lost ones with every beat.
    wait_until(lambda: store.counts().complete == 1)
    beats = "SELECT max(beat_at) FROM wb_nodes WHERE host <> 'far'"
    for _ in range(8):
        (before,) = sql(beats)
        store.beat_node(store.run("hold_claim", bee=claim.bee)[0][5], NOBODY)
        wait_until(lambda before=before: sql(beats) != [before])
    assert process.poll() is None
    assert [job.job_id for job in store.find_claim(claim.bee).jobs] == [claim.jobs[0].job_id]
    # With nothing to do the node has let its bee go, and its keeper has the only connection.
    assert sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'workerbee lost keeper'") == [(1,)]
    bees = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'workerbee lost bee%'"
    wait_until(lambda: sql(bees) == [(0,)], "the server to notice")
    # It comes back: the waiting node takes it up at once.
    store.settle(claim.bee, claim.number, [], None, drop=True)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "2 of 2 jobs complete" in said
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def test_only_who_could_have_heard_a_node_takes_it_for_lost(elsewhere, script, sql):
    store, claim = elsewhere(60)
    process = script("""
        from workerbee import postgres_jobset
        print(postgres_jobset("lost", lambda *_: None, lease=3600, processes=1))
    """)
    # It counts after it has looked for lost nodes, which it will not do again for a quarter of an hour.
    wait_until(
        lambda: sql(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'workerbee lost keeper' AND query LIKE '%sum(hi - lo + 1)%'"
        )
    )
    assert store.find_claim(claim.bee) == claim
    store.settle(claim.bee, claim.number, [], None, drop=True)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


@pytest.mark.parametrize("processes", [None, 1])
def test_a_node_beats_several_times_per_lease(script, sql, tmp_path, processes):
    process = script(SLOW.replace("lease=1, processes=1", f"lease=8, processes={processes}"))
    wait_until((tmp_path / "running").exists)
    beats = "SELECT extract(epoch FROM beat_at)::float8 FROM wb_nodes"
    heard = sql(beats)
    while len(heard) < 4:
        heard += wait_until(lambda last=heard[-1]: [beat for beat in sql(beats) if beat != last])
    times = [at for (at,) in heard]
    assert times[-1] - times[1] < 8
    (tmp_path / "go").touch()
    assert "1 of 1 jobs complete" in process.communicate()[0]


def test_a_killed_keeper_is_replaced_inline(address, sql):
    keeper = "SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"
    killed = []

    def job(*_):
        if killed:
            wait_until(lambda: sql(keeper) != killed, "another keeper")
            return
        killed.extend(wait_until(lambda: sql(keeper)))
        os.kill(killed[0][0], signal.SIGKILL)
        # It is looked after once a second, between jobs.
        end = time.monotonic() + 1
        wait_until(lambda: not alive(killed[0][0]) and time.monotonic() > end)

    assert postgres_jobset("kept", job, ["a", "b"], **address, verbose=False).ok


@pytest.mark.parametrize("processes", [None, 1])
def test_the_heart_beats_while_a_job_holds_the_gil(address, sql, processes):
    def job(_job_id, _data):
        before = sql("SELECT beat_at FROM wb_nodes")
        ctypes.PyDLL(None).sleep(3)
        assert sql("SELECT beat_at FROM wb_nodes") > before

    if processes:
        # Not the test's own connection: it belongs to the parent.
        def job(_job_id, _data):
            connection = psycopg2.connect(**{("dbname" if k == "database" else k): v for k, v in address.items()})
            cursor = connection.cursor()
            cursor.execute("SELECT beat_at FROM wb_nodes")
            before = cursor.fetchall()
            connection.rollback()
            ctypes.PyDLL(None).sleep(3)
            cursor.execute("SELECT beat_at FROM wb_nodes")
            assert cursor.fetchall() > before
            connection.close()

    assert postgres_jobset("gil", job, ["a"], **address, verbose=False, processes=processes, lease=1).ok


SLOW = """
    import os, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        with open("running", "a") as file:
            file.write(f"{job_id}\\n")
        while not Path("go").exists():
            time.sleep(0.01)

    print(postgres_jobset("suspended", job, ["a"], lease=1, processes=1))
"""


def test_a_suspended_node_finds_its_job_given_away(script, sql, tmp_path):
    slept = script(SLOW)
    wait_until((tmp_path / "running").exists)
    pids = [slept.pid, *descendants(slept.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    other = script(SLOW)
    wait_until(lambda: (tmp_path / "running").read_text().splitlines() == ["a", "a"], "the other to take the job")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    (tmp_path / "go").touch()
    for process in (slept, other):
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert "1 of 1 jobs complete" in said
    assert sql("SELECT kind, count(*) FROM wb_failures GROUP BY 1") == [("lost", 1)]
    assert sql("SELECT state, losses FROM wb__suspended") == [("COMPLETE", 1)]
    assert not any(map(alive, pids))


def test_a_job_that_always_loses_its_node_fails(address, parameters, sql):
    store = Store(psycopg2.connect(**parameters), "poison")
    set_up(store, ["a"], None, lambda _: None)
    for _ in range(9):
        node = store.add_node("far", "elsewhere", 1, 5)
        claim, _ = store.settle_and_claim(store.add_bee(node, 1), [], 1, node)
        (charge,) = store.lose_bee(claim.bee, "gone", Limits())
        assert charge.state.value == "PENDING"
    node = store.add_node("far", "elsewhere", 1, 5)
    store.settle_and_claim(store.add_bee(node, 1), [], 1, node)
    sql("UPDATE wb_nodes SET beat_at = now() - interval '1 hour'")
    store.close()
    summary = postgres_jobset("poison", lambda *_: None, **address, verbose=False, lease=1)
    assert (summary.complete, summary.failed) == (0, 1)
    assert sql("SELECT losses, crashes, errors FROM wb__poison") == [(10, 0, 0)]


def test_bees_are_forked_again_when_jobs_come_back(address, tmp_path):
    # One bee holds the only job; the others find nothing and end. The job fails, and another must take it up when
    # the first bee has been told to run no more.
    log = tmp_path / "log"

    def job(_job_id, _data):
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        raise ValueError

    summary = postgres_jobset("back", job, ["a"], **address, verbose=False, processes=3, max_jobs_per_bee=1)
    assert (summary.complete, summary.failed) == (0, 1)
    assert len(set(log.read_text().split())) == 3


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_signal_is_known_by_the_stack_that_it_leaves(name):
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    died = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, check=False
    )
    assert FATAL[died.stderr.splitlines()[0]] == name
