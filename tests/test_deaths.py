"""Deaths at a certain step: each process is held at a lock of the test's own, then killed there."""

from __future__ import annotations

import os
import signal
from collections import Counter

import psycopg2
import pytest

from tests.helpers import wait_until

# Jobs note who runs them, and last until the file "go" exists.
SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{job_id} {os.getpid()}\\n".encode())
        os.close(fd)
        while not Path("go").exists():
            time.sleep(0.01)
        if sys.argv[2:] == [job_id]:
            raise ValueError

    options = {"job_ids": ["a", "b", "c"], "lease": 3600, **eval(sys.argv[1])}
    print(postgres_jobset("deaths", job, **options))
"""


@pytest.fixture
def gate(parameters):
    """Hold off all who want to claim a job, or to give one back; `gate()` lets them through."""
    connection = psycopg2.connect(**parameters)

    def toggle():
        if connection.info.transaction_status:
            connection.rollback()
        else:
            connection.cursor().execute("LOCK TABLE wb_ranges__deaths IN EXCLUSIVE MODE")

    yield toggle
    connection.close()


@pytest.fixture
def blocked(sql):
    """The server's process for the bee that waits at the gate, once it does."""

    def wait():
        found = sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND wait_event = 'relation' AND application_name ~ 'bee( 0)?$'"
        )
        return found[0][0] if found else None

    return lambda: wait_until(wait, "the bee to reach the gate")


@pytest.fixture
def end(sql):
    """Kill a bee that waits at the gate; what it asked for is `committed` all the same, or never."""

    def kill(pid, backend, committed, gate):
        os.kill(pid, signal.SIGKILL)
        if not committed:
            sql("SELECT pg_terminate_backend(%s)", backend)
            wait_until(lambda: not sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend))
        gate()

    return kill


def runs(tmp_path):
    log = tmp_path / "log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("processes", [None, 1])
def test_a_job_that_returned_is_complete_though_its_bee_is_killed(
    script, sql, tmp_path, gate, blocked, end, processes, committed
):
    process = script(SCRIPT, f"{{'processes': {processes}}}")
    ((first, pid),) = wait_until(lambda: runs(tmp_path))
    gate()
    (tmp_path / "go").touch()
    end(int(pid), blocked(), committed, gate)
    said = process.communicate()[0]
    if processes is None:
        assert process.returncode == -signal.SIGKILL
        # What it held goes back by its keeper's word, or at the latest by the next one's.
        process = script(SCRIPT, "{}")
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "3 of 3 jobs complete" in said
    assert f"here {2 if processes is None else 3} completed in" in said
    assert Counter(job_id for job_id, _ in runs(tmp_path)) == {"a": 1, "b": 1, "c": 1}
    assert [pid == by for job_id, by in runs(tmp_path) if job_id != first] == [False, False]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT count(*) FROM wb_claims__deaths") == [(0,)]


@pytest.mark.parametrize("committed", [True, False])
def test_a_bee_killed_in_its_first_claim_leaves_nothing_behind(
    script, parameters, sql, tmp_path, gate, blocked, end, committed
):
    from workerbee.loading import set_up
    from workerbee.store import Store

    store = Store(psycopg2.connect(**parameters), "deaths")
    set_up(store, ["a", "b", "c"], None, lambda _: None)
    store.close()
    (tmp_path / "go").touch()
    gate()
    process = script(SCRIPT, "{'processes': 1}")
    backend = blocked()
    ((pid,),) = sql("SELECT pid FROM wb_claims__deaths")
    end(pid, backend, committed, gate)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "bee 0 was killed before it claimed a job, next try in 0.1 s" in said
    assert "3 of 3 jobs complete" in said
    assert Counter(job_id for job_id, _ in runs(tmp_path)) == {"a": 1, "b": 1, "c": 1}
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT count(*) FROM wb_claims__deaths") == [(0,)]


def test_an_error_that_its_bee_could_not_record_is_a_crash(script, sql, tmp_path, gate, blocked, end):
    process = script(SCRIPT, "{'job_ids': ['a'], 'processes': 1, 'max_attempts': 1, 'max_crashes': 2}", "a")
    ((_, pid),) = wait_until(lambda: runs(tmp_path))
    gate()
    (tmp_path / "go").touch()
    end(int(pid), blocked(), False, gate)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "0 of 1 jobs complete, 1 failed" in said
    assert len(runs(tmp_path)) == 2
    assert sql("SELECT kind, attempt, final FROM wb_failures ORDER BY failure") == [
        ("crash", 1, False),
        ("error", 2, True),
    ]
