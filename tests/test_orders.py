"""Nodes that are told to end from elsewhere, through the database."""

from __future__ import annotations

import re
import signal
import threading

import pytest

from tests.helpers import wait_until
from tests.ledger import Auditor, wrong
from workerbee import InvalidValue, Jobset, postgres_jobset
from workerbee.job import Counts

# `hold` jobs wait for `go`, and one bee's wait is another's reason to wait.
NODE = """
    import sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        if job_id.startswith("hold"):
            Path(job_id).touch()
            while not Path("go").exists():
                time.sleep(0.01)

    summary = postgres_jobset("told", job, sys.argv[2:] or None, processes=int(sys.argv[1]) or None, grace=0)
    print(f"ok={summary.ok} stopped={summary.stopped!r}")
"""
DRAINED = "told to end, from outside: no new claims, running jobs may finish"
ENDED = "told to end at once, from outside: running jobs are given back"
ALL_HOLD = [f"hold-{n}" for n in range(5)]


@pytest.fixture
def jobset(address):
    return Jobset("told", **address)


def held(folder):
    return {path.name for path in folder.glob("hold-*")}


def heard(sql):
    """Wait until the keeper has counted and acted on it. Each count may be followed by an entry in its logbook."""
    begun = """SELECT query_start FROM pg_stat_activity
               WHERE application_name = 'workerbee told keeper'
                 AND (query LIKE '%sum(hi - lo + 1)%' OR query LIKE '%wb_progress%')"""
    since = sql("SELECT clock_timestamp()")
    for _ in range(3):
        since = wait_until(lambda since=since: [at for at in sql(begun) if at > since[0]])


def finish(script, folder):
    """The same script again goes on with the jobset."""
    (folder / "go").touch()
    process = script(NODE, "2")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "ok=True stopped=''" in said


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_drain(jobset, script, sql, tmp_path, processes):
    process = script(NODE, str(processes), *ALL_HOLD)
    bees = processes or 1
    wait_until(lambda: len(held(tmp_path)) == bees)
    assert jobset.stop() == 1
    assert [node.stop for node in jobset.status().nodes] == ["drain"]
    if processes:
        # It has heard it: from then on, what it runs has as long as it likes.
        said = iter(process.stdout.readline, "")
        assert any(DRAINED in line for line in said)
    heard(sql)
    assert jobset.overview().counts == Counts(5, 5 - bees, bees, 0)
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"ok=False stopped='{DRAINED}'" in said
    assert re.search(rf"The same call goes on with the {5 - bees} jobs? left", said)
    assert jobset.overview().counts == Counts(5, 5 - bees, 0, 0)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    finish(script, tmp_path)
    assert jobset.overview().counts == Counts(5, 0, 0, 0)


@pytest.mark.parametrize("processes", [0, 1, 3])
@pytest.mark.parametrize("drained", [False, True])
def test_now(jobset, script, sql, parameters, tmp_path, processes, drained):
    process = script(NODE, str(processes), *ALL_HOLD)
    wait_until(lambda: len(held(tmp_path)) == (processes or 1))
    with Auditor(parameters, "told"):
        if drained:
            assert jobset.stop() == 1
        assert jobset.stop(now=True) == 1
        # Who was told to end now is not told to take its time.
        assert jobset.stop() <= 1
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "ok=False stopped='told to end" in said
    assert ENDED in said
    assert jobset.overview().counts == Counts(5, 5, 0, 0)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    finish(script, tmp_path)


def test_one_of_two(jobset, script, tmp_path):
    first = script(NODE, "1", *ALL_HOLD)
    wait_until(lambda: len(held(tmp_path)) == 1)
    second = script(NODE, "1")
    wait_until(lambda: len(held(tmp_path)) == 2)
    nodes = {node.pid: node.node for node in jobset.status().nodes}
    assert jobset.stop(nodes[second.pid], now=True) == 1
    assert ENDED in second.communicate()[0]
    assert {node.pid: node.stop for node in jobset.status().nodes} == {first.pid: None, second.pid: "now"}
    for node in (nodes[second.pid], 10**6):
        with pytest.raises(InvalidValue, match=f"jobset 'told' has no node {node} that is alive"):
            jobset.stop(node)
    (tmp_path / "go").touch()
    assert "ok=True stopped=''" in first.communicate()[0]
    assert jobset.stop() == 0


def test_a_node_that_waits_for_others(jobset, script, tmp_path):
    first = script(NODE, "1", "hold-0")
    wait_until(lambda: len(held(tmp_path)) == 1)
    for processes in (0, 2):
        second = script(NODE, str(processes))
        found = wait_until(lambda second=second: [n.node for n in jobset.status().nodes if n.pid == second.pid])
        jobset.stop(*found)
        assert f"ok=False stopped='{DRAINED}'" in second.communicate()[0]
    (tmp_path / "go").touch()
    assert "ok=True" in first.communicate()[0]


def test_in_another_thread_there_is_nothing_to_interrupt_with(jobset, address, tmp_path, parameters, sql):
    # The signals of the process are the main thread's affair.
    found = []

    def job(job_id, _data):
        (tmp_path / job_id).touch()
        wait_until((tmp_path / "go").exists)

    def call():
        found.append(postgres_jobset("told", job, ALL_HOLD, **address, verbose=False))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: len(held(tmp_path)) == 1)
    assert jobset.stop(now=True) == 1
    heard(sql)
    (tmp_path / "go").touch()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert found[0].stopped == ENDED
    assert wrong(parameters, "told") == []


def test_the_callers_own_signals_are_still_its_own(jobset, script, tmp_path):
    process = script(NODE, "0", *ALL_HOLD)
    wait_until(lambda: len(held(tmp_path)) == 1)
    jobset.stop()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert jobset.overview().counts == Counts(5, 5, 0, 0)
