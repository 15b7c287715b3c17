"""What the caller is told as it happens, and what bees leave in their logs."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg2
import pytest

from tests.helpers import wait_until
from workerbee import InvalidType, NodeEvent, postgres_jobset
from workerbee.rotation import KEPT, LARGEST

JOBS = """
import ctypes, os, sys, time
from dataclasses import asdict
from pathlib import Path
from workerbee import postgres_jobset

def job(job_id, data):
    kind = job_id.partition("-")[0]
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(3)
    if kind == "raise":
        raise ValueError("no way")
    while kind == "wait" and not Path(job_id).exists():
        time.sleep(0.01)
    if kind == "print":
        print("x" * 1_500_000)
        print("end of", job_id)

import json
def told(event):
    print(json.dumps(asdict(event)), flush=True)
"""


def events(process):
    lines = process.communicate(timeout=100)[0].splitlines()
    return [NodeEvent(**json.loads(line)) for line in lines if line.startswith("{")], lines


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_that_happens_is_told(script, tmp_path, method):
    (tmp_path / "wait-1").touch()
    process = script(
        JOBS
        + f"""
ids = ["wait-1", "segv-1", "exit-1", "raise-1", *map(str, range(3000))]
postgres_jobset("told", job, ids, processes=2, max_attempts=2, max_crashes=1, on_event=told, verbose=False,
                start_method={method!r})
"""
    )
    heard, _ = events(process)
    assert process.returncode == 0
    assert sum(event.count for event in heard if event.what == "complete") == 3001
    failed = {(e.job_id, e.kind, e.type, e.message, e.count, e.limit, e.final) for e in heard if e.what == "failed"}
    assert failed == {
        ("segv-1", "crash", "SIGSEGV", "its bee died: SIGSEGV", 1, 1, True),
        ("exit-1", "crash", "exit", "its bee died: exit code 3", 1, 1, True),
        ("raise-1", "error", "ValueError", "no way", 1, 2, False),
        ("raise-1", "error", "ValueError", "no way", 2, 2, True),
    }
    assert sorted(event.code for event in heard if event.what == "bee died") == [-11, 3]
    assert sum(event.what == "bee started" for event in heard) >= 4
    assert {event.bee for event in heard if event.what == "bee started"} == {0, 1}
    assert all(abs(event.at - heard[0].at) < 3600 for event in heard)


def test_long_jobs_are_told_when_they_begin(script, tmp_path):
    process = script(
        JOBS
        + """
def told(event):
    if event.what == "claimed":
        Path(event.job_id).touch()
    if event.what == "stopping":
        print("stopping", flush=True)
postgres_jobset("long", job, [f"wait-{n}" for n in range(4)], processes=2, on_event=told, max_failures=1)
"""
    )
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert len(list(tmp_path.glob("wait-*"))) == 4


def test_in_this_process(address):
    heard = []

    def job(job_id, _data):
        if job_id == "bad":
            raise OSError(job_id)

    ids = ["good", "bad", "better"]
    postgres_jobset("here", job, ids, max_attempts=1, verbose=False, on_event=heard.append, **address)
    assert sorted((e.what, e.job_id) for e in heard) == [
        ("claimed", "bad"),
        ("claimed", "better"),
        ("claimed", "good"),
        ("complete", "better"),
        ("complete", "good"),
        ("failed", "bad"),
    ]
    with pytest.raises(InvalidType, match="on_event must be callable as on_event\\(event\\), not 3"):
        postgres_jobset("here", job, ids, on_event=3, **address)


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize("verbose", [True, False])
def test_what_it_raises_is_shown_once_and_changes_nothing(script, processes, verbose):
    process = script(
        JOBS
        + f"""
import logging
logging.basicConfig(format="LOGGED %(name)s %(message)s")
def told(event):
    sys.exit("mine")
options = dict(processes={processes}, on_event=told, verbose={verbose})
summary = postgres_jobset("raises", job, [*map(str, range(20))], **options)
print("ok", summary.ok)
"""
    )
    _, lines = events(process)
    said = [line for line in lines if "on_event raised" in line]
    assert len(said) == 1
    if verbose:
        assert "further errors of it are not shown: SystemExit: " in said[0]
    else:
        assert said[0].startswith("LOGGED workerbee.display on_event raised")
        assert "SystemExit: mine" in lines
    assert lines[-1] == "ok True"


def test_a_database_that_is_away_is_told(script, sql, server, tmp_path):
    process = script(
        JOBS
        + """
def told(event):
    if event.what.startswith("database"):
        Path(event.what).write_text(event.message)
postgres_jobset("away", job, ["wait-1"], processes=1, on_event=told)
"""
    )
    wait_until(lambda: sql("SELECT to_regclass('wb__away') IS NOT NULL") == [(True,)])
    wait_until(lambda: sql("SELECT count(*) FROM wb_jobs__away WHERE state = 'CLAIMED'") == [(1,)])
    name = sql("SELECT current_database()")[0][0]
    elsewhere = psycopg2.connect(**server)
    elsewhere.autocommit = True

    def allow(connections):
        with elsewhere.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}")

    allow(False)
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'workerbee%%'")
    wait_until((tmp_path / "database away").exists)
    allow(True)
    elsewhere.close()
    wait_until((tmp_path / "database back").exists)
    (tmp_path / "wait-1").touch()
    assert process.wait(100) == 0
    # The keeper lost its connection, or was just about to make one.
    assert f"database {name} on " in (tmp_path / "database away").read_text()


def test_logs_are_put_aside_when_large(script, sql, tmp_path):
    process = script(
        JOBS
        + """
ids = [f"print-{n}" for n in range(40)] + ["raise-1"]
def job2(job_id, data):
    job("print-of-" + job_id, data)
    job(job_id, data)
postgres_jobset("logs", job2, ids, processes=1, max_attempts=3, log_dir="logs", claim=7)
"""
    )
    assert process.wait(100) == 0
    (current,) = (tmp_path / "logs").glob("*.log")
    old = [current.with_name(f"{current.name}.{n}") for n in range(1, KEPT + 1)]
    assert sorted((tmp_path / "logs").iterdir()) == sorted([current, *old])
    for path in old:
        assert LARGEST <= path.stat().st_size < LARGEST + 4_000_000
    assert current.stat().st_size < LARGEST
    rows = sql("SELECT log FROM wb_failures ORDER BY attempt")
    assert len(rows) == 3
    for (log,) in rows:
        assert log.endswith("x\nend of print-of-raise-1\n")


@pytest.mark.parametrize(
    "sabotage",
    [
        "os.dup2(os.open('mine', os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)",
        "os.close(1)",
        "Path('logs').rename('moved')",
    ],
)
def test_a_job_that_takes_its_log_away_disturbs_no_rotation(environ, tmp_path, sabotage):
    code = (
        JOBS
        + f"""
def sabotage(job_id, data):
    if not Path("done").exists():
        Path("done").touch()
        {sabotage}
    print("x" * 5_000_000, flush=True)
summary = postgres_jobset("logs", sabotage, [*map(str, range(12))], processes=1, log_dir="logs", claim="one")
print("ok", summary.ok)
"""
    )
    (tmp_path / "script.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith("ok True\n")
    assert not list(tmp_path.rglob("*.log.*"))


def test_a_log_begins_anew_for_a_job_that_fails(script, sql, tmp_path):
    process = script(
        JOBS
        + """
def chatter(job_id, data):
    print("x" * 11_000_000)
    print("end of", job_id)
    raise ValueError(job_id)
postgres_jobset("logs", chatter, ["a"], processes=1, max_attempts=3, log_dir="logs")
"""
    )
    assert process.wait(100) == 0
    assert len(list((tmp_path / "logs").glob("*.log.*"))) == 2
    rows = sql("SELECT log FROM wb_failures")
    assert len(rows) == 3
    assert all(log.endswith("x\nend of a\n") for (log,) in rows)
