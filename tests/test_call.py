"""The call, as the seed has it: one bee in this process."""

from __future__ import annotations

from itertools import pairwise

import pytest

from workerbee import postgres_jobset


def test_seed_example(address, capsys):
    def my_job(job_id, job_data):
        print(f"\n\n - processing job {job_id} with data: {job_data}\n\n")

    host, port = address["host"], address["port"]
    summary = postgres_jobset(
        "texturemap_2016_08_25",
        my_job,
        job_ids=["id1", "id2", "id3"],
        job_data={"id1": {"some": 2, "data": "here"}},
        **address,
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Connecting to database {address['database']} on {address['user']}@{host}:{port}..."
    rest = lines[lines.index("Creating table for jobset 'texturemap_2016_08_25'...") :]
    assert rest[:5] == [
        "Creating table for jobset 'texturemap_2016_08_25'...",
        "Adding 3 jobs to jobset 'texturemap_2016_08_25'...",
        "job_data provided for 1 jobs",
        "jobset 'texturemap_2016_08_25' set up.",
        "-" * 80,
    ]
    order = [line.split("'")[1] for line in rest if "claimed" in line]
    assert sorted(order) == ["id1", "id2", "id3"]
    said = {"id1": "{'some': 2, 'data': 'here'}", "id2": "{}", "id3": "{}"}
    assert rest[5:] == [
        line
        for number, job_id in enumerate(order)
        for line in (
            f"{number}: claimed '{job_id}'",
            "",
            f" - processing job {job_id} with data: {said[job_id]}",
            "",
            "",
            "...done.",
        )
    ] + ["All jobs are exhausted, terminating."]
    assert summary.ok


def test_states_and_summary(address, sql):
    def job(job_id, _data):
        if job_id == "bad":
            raise ValueError("no good")

    summary = postgres_jobset("states", job, ["good", "bad", "fine"], **address, verbose=False)
    assert (summary.total, summary.complete, summary.failed, summary.ok) == (3, 2, 1, False)
    assert (summary.completed_here, summary.failed_here, summary.crashed_here) == (2, 1, 0)
    assert summary.bees_started == 1
    assert "2 of 3 jobs complete, 1 failed" in str(summary)
    rows = dict(sql("SELECT job_id, state FROM wb__states"))
    assert rows == {"good": "COMPLETE", "fine": "COMPLETE", "bad": "FAILED"}
    failures = sql("SELECT attempt, kind, type, message, final, pid > 0, seconds >= 0 FROM wb_failures ORDER BY 1")
    assert failures == [(n, "error", "ValueError", "no good", n == 3, True, True) for n in (1, 2, 3)]
    ((stack,),) = sql("SELECT DISTINCT stack FROM wb_failures")
    assert "raise ValueError" in stack
    assert "workerbee/bee.py" not in stack


def test_failed_jobs_go_last(address):
    calls = []

    def job(job_id, _data):
        calls.append(job_id)
        if int(job_id) < 5 and calls.count(job_id) < 3:
            raise RuntimeError

    summary = postgres_jobset("last", job, map(str, range(40)), **address, verbose=False)
    assert summary.ok
    assert sorted(calls[:40], key=int) == [str(n) for n in range(40)]
    assert set(calls[40:45]) == set(calls[45:50]) == {"0", "1", "2", "3", "4"}
    assert len(calls) == 50


def test_claims_are_random(address):
    calls = []
    postgres_jobset(
        "random", lambda job_id, _: calls.append(int(job_id)), map(str, range(100)), **address, verbose=False
    )
    assert sorted(calls) == list(range(100))
    assert calls != sorted(calls)
    # Of a shuffled hundred about half the neighbours ascend.
    assert 20 < sum(a < b for a, b in pairwise(calls)) < 80


def test_finished_jobset_returns_at_once(address, capsys):
    postgres_jobset("done", lambda *_: None, ["a", "b"], **address, verbose=False)
    again = postgres_jobset("done", pytest.fail, ["a", "b"], **address)
    assert (again.total, again.complete, again.completed_here, again.bees_started) == (2, 2, 0, 0)
    said = capsys.readouterr().out
    assert "jobset 'done' exists already, with 2 jobs; the 2 job_ids given are ignored." in said
    assert said.endswith("All jobs are exhausted, terminating.\n")


def test_function_sees_the_callers_objects(address):
    seen = {}
    postgres_jobset("closure", seen.__setitem__, [("a", {"x": [1, {"y": None}], "b": 1})], **address, verbose=False)
    assert seen == {"a": {"x": [1, {"y": None}], "b": 1}}
    assert list(seen["a"]) == ["x", "b"]
