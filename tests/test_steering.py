"""Jobsets steered while their nodes work: more jobs, failed ones again, all again, and the end."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

import psycopg2
import pytest

from tests.helpers import wait_until
from tests.ledger import Auditor, wrong
from workerbee import (
    DatabaseError,
    InvalidType,
    InvalidValue,
    JobNotFound,
    Jobset,
    JobsetInUse,
    JobsetNotFound,
    postgres_jobset,
    steering,
)
from workerbee.job import Counts, Kind, State
from workerbee.records import Added, Reset

# Jobs write down that they ran; `ill` jobs raise or die until there is a file `well`; `hold` jobs wait for `go`.
NODE = """
    import os, signal, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    log = os.open("ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def job(job_id, data):
        os.write(log, f"{job_id}\\n".encode())
        what = job_id.partition("-")[0]
        if what == "ill" and not Path("well").exists():
            raise ValueError(f"{job_id} is ill")
        if what == "dead" and not Path("well").exists():
            os.kill(os.getpid(), signal.SIGABRT)
        if what == "hold":
            Path(job_id).touch()
            while not Path("go").exists():
                time.sleep(0.01)

    claim = sys.argv[1] if sys.argv[1] in ("one", "auto") else int(sys.argv[1])
    processes = int(sys.argv[2]) or None
    print(postgres_jobset("steer", job, sys.argv[3:] or None, claim=claim, processes=processes, max_attempts=1,
                          max_crashes=1, verbose=bool(processes)))
"""


def ran(folder):
    return Counter((folder / "ran").read_text().splitlines())


def ids(what, number, first=0):
    return [f"{what}-{n}" for n in range(first, first + number)]


@pytest.fixture
def ended(address, tmp_path):
    """A jobset that has ended: five jobs COMPLETE, three FAILED by an error, two by their bee's death."""
    jobs = [*ids("fine", 5), *ids("ill", 3), *ids("dead", 2)]

    def job(job_id, _data):
        if job_id.startswith("ill"):
            raise ValueError(f"{job_id} is ill")
        if job_id.startswith("dead"):
            os.kill(os.getpid(), signal.SIGABRT)

    limits = {"max_attempts": 2, "max_crashes": 1, "processes": 2}
    postgres_jobset("steer", job, jobs, **address, **limits, verbose=False, log_dir=tmp_path)
    return Jobset("steer", **address)


def test_failures(ended):
    found = list(ended.failures())
    for job_id in ids("ill", 3):  # the newest first
        assert [failure.attempt for failure in found if failure.job_id == job_id] == [2, 1]
    assert Counter((f.job_id, f.attempt, f.kind, f.type, f.final) for f in found) == Counter(
        [(job_id, attempt, Kind.ERROR, "ValueError", attempt == 2) for job_id in ids("ill", 3) for attempt in (1, 2)]
        + [(job_id, 1, Kind.CRASH, "SIGABRT", True) for job_id in ids("dead", 2)]
    )
    for failure in found:
        assert (failure.host, failure.exit_code) == (os.uname().nodename, None if failure.kind is Kind.ERROR else -6)
        assert failure.node > 0 and failure.bee > 0 and failure.pid > 0 and failure.seconds >= 0
        assert "test_steering.py" in failure.stack
    assert [f.message for f in ended.failures("ill-1")] == ["ill-1 is ill"] * 2
    assert {f.job_id for f in ended.failures(kind="crash")} == set(ids("dead", 2))
    assert {f.job_id for f in ended.failures(kind=Kind.ERROR)} == set(ids("ill", 3))
    assert {f.job_id for f in ended.failures(match="1 is")} == {"ill-1"}
    assert {f.job_id for f in ended.failures(match="SIGABRT")} == set(ids("dead", 2))
    assert list(ended.failures(match="%")) == list(ended.failures("fine-0")) == list(ended.failures(kind="lost")) == []
    groups = [(group.kind, group.message, group.count) for group in ended.failure_groups()]
    crashes = (Kind.CRASH, "its bee died: SIGABRT", 2)
    assert set(groups) == {crashes, *((Kind.ERROR, f"ill-{n} is ill", 2) for n in range(3))}
    assert len(ended.failure_groups(2)) == 2
    with pytest.raises(JobNotFound, match="jobset 'steer' has no job 'nobody'"):
        ended.failures("nobody")


def test_a_reader_that_stops_leaves_nothing(ended, sql):
    for failure in ended.failures():
        assert failure.job_id
        break
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'workerbee steer%'"
    wait_until(lambda: sql(sessions) == [(0,)])


@pytest.mark.parametrize(
    ("choice", "again"),
    [
        ({}, ids("ill", 3) + ids("dead", 2)),
        ({"kind": "error"}, ids("ill", 3)),
        ({"match": "ill-2"}, ["ill-2"]),
        ({"job_ids": ["ill-0", "dead-1", "fine-3"]}, ["ill-0", "dead-1"]),
        ({"job_ids": iter(["ill-0", "ill-0", "dead-1"]), "kind": Kind.CRASH}, ["dead-1"]),
        ({"job_ids": []}, []),
        ({"kind": "lost"}, []),
    ],
)
def test_retry_of_what_failed(ended, address, parameters, choice, again):
    assert ended.retry(**choice) == len(again)
    assert wrong(parameters, "steer") == []
    assert ended.overview().counts == Counts(10, len(again), 0, 5 - len(again))
    assert {job.job_id for job in ended.jobs() if job.state is State.PENDING} == set(again)
    assert {job[2:7] for job in ended.jobs() if job.state is State.PENDING} <= {(0, 0, 0, None, None)}
    # What was recorded stays.
    assert len(list(ended.failures())) == 8
    assert {f.job_id for f in ended.failures() if f.final} == {*ids("ill", 3), *ids("dead", 2)} - set(again)
    seen = []
    postgres_jobset("steer", lambda job_id, _: seen.append(job_id), **address, verbose=False)
    assert sorted(seen) == sorted(again)
    assert ended.overview().counts == Counts(10, 0, 0, 5 - len(again))


@pytest.mark.parametrize(("claim", "processes"), [("one", 2), ("auto", 2), ("64", 2), ("auto", 0)])
def test_running_nodes_take_up_what_is_retried(script, address, parameters, tmp_path, claim, processes):
    process = script(NODE, claim, str(processes), "hold-0", *ids("ill", 300), *ids("fine", 300))
    jobset = Jobset("steer", **address)
    if not processes:
        # A single bee: it must not stick to the one that waits.
        (tmp_path / "go").touch()
        wait_until((tmp_path / "hold-0").exists)
        wait_until(lambda: ran(tmp_path).total() > 50)
        jobset.add(["hold-1"])
    else:
        wait_until((tmp_path / "hold-0").exists)
        other = script(NODE, claim, "1")
    with Auditor(parameters, "steer"):
        if processes:
            wait_until(lambda: jobset.overview().counts == Counts(601, 0, 1, 300))
            (tmp_path / "well").touch()
            assert jobset.retry() == 300
            wait_until(lambda: jobset.overview().counts == Counts(601, 0, 1, 0))
            (tmp_path / "go").touch()
        said = process.communicate()[0]
    assert process.returncode == 0, said
    if processes:
        assert other.wait() == 0
        assert "601 of 601 jobs complete" in said
        assert ran(tmp_path) == Counter([*ids("fine", 300), *ids("ill", 300) * 2, "hold-0"])
    else:
        assert "302 of 602 jobs complete, 300 failed" in said


def test_unknown_ids_are_named(ended, parameters):
    for method in (ended.retry, ended.reset):
        with pytest.raises(JobNotFound, match="has no job 'a', 'b', 'c' and 7 more"):
            method([*"abcdefghij", "ill-0"])
        with pytest.raises(JobNotFound, match=r"has no job 'a', 'b'$"):
            method(["fine-0", "b", "a"])
        with pytest.raises(InvalidType, match="iterable of str"):
            method("ill-0")
        with pytest.raises(InvalidType, match="must hold str"):
            method([3])
    assert ended.overview().counts == Counts(10, 0, 0, 5)
    for wrong_choice in ({}, {"all": True, "job_ids": ["ill-0"]}):
        with pytest.raises(InvalidValue, match="either job_ids or all=True"):
            ended.reset(**wrong_choice)
    assert wrong(parameters, "steer") == []


def test_reset(ended, address, parameters):
    assert ended.reset(["fine-0", "ill-0"]) == Reset(2, 0)
    assert ended.overview().counts == Counts(10, 2, 0, 4)
    assert ended.reset(["fine-0", "fine-1"]) == Reset(1, 0)  # one is pending anyway
    assert wrong(parameters, "steer") == []
    assert ended.reset(all=True) == Reset(7, 0)
    assert ended.overview().counts == Counts(10, 10, 0, 0)
    assert wrong(parameters, "steer") == []
    assert postgres_jobset("steer", lambda *_: None, **address, verbose=False).complete == 10


@pytest.mark.parametrize("claim", ["one", "auto", "64"])
def test_reset_leaves_alone_what_runs(script, address, parameters, tmp_path, claim):
    jobs = [*ids("hold", 2), *ids("fine", 200)]
    process = script(NODE, claim, "3", *jobs)
    wait_until(lambda: all(map(Path_exists(tmp_path), ids("hold", 2))))
    jobset = Jobset("steer", **address)
    with Auditor(parameters, "steer"):
        wait_until(lambda: jobset.overview().counts == Counts(202, 0, 2, 0))
        before = ran(tmp_path)
        assert before == Counter(jobs)
        found = jobset.reset(all=True)
        assert found == Reset(200, 2)
        wait_until(lambda: jobset.overview().counts == Counts(202, 0, 2, 0))
        assert jobset.reset(["hold-0"]) == Reset(0, 1)
        (tmp_path / "go").touch()
        said = process.communicate()[0]
    assert "202 of 202 jobs complete" in said
    assert sum((ran(tmp_path) - before).values()) == found.reset
    assert ran(tmp_path)["hold-0"] == ran(tmp_path)["hold-1"] == 1
    assert jobset.overview().counts == Counts(202, 0, 0, 0)


def Path_exists(folder):  # noqa: N802
    return lambda name: (folder / name).exists()


def test_add(ended, address, parameters, sql):
    assert ended.add(ids("fine", 8)) == Added(3, 5)
    assert ended.add({"new": {"size": 3}}.items()) == Added(1, 0)
    assert ended.add(["new", "newer"], {"new": {"size": 4}, "newer": {"size": 5}}) == Added(1, 1)
    assert ended.add([]) == ended.add(iter(())) == Added(0, 0)
    assert wrong(parameters, "steer") == []
    assert ended.overview().counts == Counts(15, 5, 0, 5)
    seen = {}
    postgres_jobset("steer", seen.__setitem__, **address, verbose=False)
    assert seen == {"fine-5": {}, "fine-6": {}, "fine-7": {}, "new": {"size": 3}, "newer": {"size": 5}}
    assert ended.overview().counts == Counts(15, 0, 0, 5)
    # Behind the others, in random order.
    ended.add(ids("many", 100))
    places = [job_id for (job_id,) in sql("SELECT job_id FROM wb__steer WHERE pos > 15 ORDER BY pos")]
    assert sorted(places) == sorted(ids("many", 100))
    assert places != ids("many", 100)


def test_what_cannot_be_added(ended, sql):
    for kind, said, call in [
        (InvalidValue, "'twice' is given twice", lambda: ended.add(["twice", "once", "twice"])),
        (InvalidType, "must be an iterable of str", lambda: ended.add("abc")),
        (InvalidType, "not None", lambda: ended.add(None)),
        (InvalidType, "must hold str", lambda: ended.add(["a", 3])),
        (InvalidValue, "not in job_ids", lambda: ended.add(["a"], {"b": {}})),
        (ZeroDivisionError, "division", lambda: ended.add(str(1 // (3 - n)) for n in range(5))),
    ]:
        with pytest.raises(kind, match=said):
            call()
    assert ended.overview().counts == Counts(10, 0, 0, 5)
    assert sql("SELECT count(*) FROM wb__steer") == [(10,)]


def test_many_are_dealt_in_ranges(ended, parameters, sql):
    assert ended.add(map(str, range(20_000))) == Added(20_000, 0)
    assert wrong(parameters, "steer") == []
    assert 256 < sql("SELECT count(*) FROM wb_ranges__steer")[0][0] < 2048


@pytest.mark.parametrize(("claim", "processes"), [("one", "2"), ("auto", "2"), ("64", "2")])
def test_jobs_are_added_to_a_live_jobset(script, address, parameters, tmp_path, claim, processes):
    nodes = [script(NODE, claim, processes, "hold-0", *ids("fine", 50))]
    wait_until((tmp_path / "hold-0").exists)
    nodes.append(script(NODE, claim, processes))
    jobset = Jobset("steer", **address)
    answers = []
    with Auditor(parameters, "steer") as auditor:
        # Several at once, with ids in common.
        adders = [
            threading.Thread(target=lambda first=first: answers.append(jobset.add(ids("fine", 600, first))))
            for first in (0, 300, 0)
        ]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
        assert sum(one.added for one in answers) == 850
        assert sum(one.added + one.present for one in answers) == 1800
        wait_until(lambda: jobset.overview().counts == Counts(901, 0, 1, 0))
        assert auditor.looks
        (tmp_path / "go").touch()
        assert [node.wait() for node in nodes] == [0, 0]
    assert ran(tmp_path) == Counter(["hold-0", *ids("fine", 900)])


def test_an_adder_that_is_killed_leaves_nothing(ended, script, parameters, sql, tmp_path):
    process = script("""
        import time
        from pathlib import Path
        from workerbee import Jobset

        def ids():
            yield from (f"new-{n}" for n in range(100_000))
            Path("streaming").touch()
            while True:
                time.sleep(60)
                yield "more"

        Jobset("steer").add(ids())
    """)
    wait_until((tmp_path / "streaming").exists)
    # It holds up nobody meanwhile: the ids may take as long as they like.
    assert ended.add(["new-1"]) == Added(1, 0)
    assert ended.retry() == 5
    process.kill()
    process.wait()
    wait_until(lambda: sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%'") == [(0,)])
    assert wrong(parameters, "steer") == []
    assert ended.overview().counts == Counts(11, 6, 0, 0)


def test_drop(ended, address, sql):
    relations = "SELECT relname::text FROM pg_class WHERE relname LIKE 'wb\\_%steer' ORDER BY 1"
    functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'wb\\_%'"
    postgres_jobset("kept", lambda *_: None, ["a"], **address, verbose=False)
    kept = sql(functions)[0][0] // 2
    assert len(sql(relations)) > 3
    ended.drop()
    assert sql(relations) == []
    assert sql(functions) == [(kept,)]
    for table in ("jobsets", "nodes", "failures"):
        assert {name for (name,) in sql(f"SELECT jobset_id FROM wb_{table}")} <= {"kept"}
    assert sql("SELECT count(*) FROM wb_progress WHERE node NOT IN (SELECT node FROM wb_nodes)") == [(0,)]
    with pytest.raises(JobsetNotFound):
        ended.drop()
    assert Jobset("kept", **address).overview().counts == Counts(1, 0, 0, 0)
    # It can be created anew.
    assert postgres_jobset("steer", lambda *_: None, ["fine-0"], **address, verbose=False).ok


def test_drop_while_nodes_are_alive(script, address, tmp_path, sql):
    process = script(NODE, "auto", "2", "hold-0", *ids("fine", 50))
    wait_until((tmp_path / "hold-0").exists)
    jobset = Jobset("steer", **address)
    with pytest.raises(JobsetInUse, match=rf"1 node of jobset 'steer' is alive \(.*:{process.pid}\): stop them first"):
        jobset.drop()
    assert jobset.overview().counts.total == 51
    jobset.drop(force=True)
    assert sql("SELECT count(*) FROM wb_jobsets") == [(0,)]
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode != 0
    assert "somebody has dropped them" in said


def test_nodes_of_a_jobset_that_was_dropped_do_not_work_on_the_next_of_that_name(script, address, tmp_path):
    process = script(NODE, "auto", "2", "hold-0", *ids("fine", 50))
    wait_until((tmp_path / "hold-0").exists)
    wait_until(lambda: ran(tmp_path).total() == 51)
    jobset = Jobset("steer", **address)
    jobset.drop(force=True)
    postgres_jobset("steer", lambda *_: os.kill(os.getpid(), 0), ["new"], **address, verbose=False, stop_after=0.01)
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode != 0
    # By whether the node asked in between.
    assert "which this node worked on, has been dropped" in said or "somebody has dropped them" in said
    assert ran(tmp_path).total() == 51


@pytest.mark.parametrize("what", ["reset", "add"])
def test_what_may_not_be_done_twice_is_not_tried_again(ended, monkeypatch, what):
    step = getattr(steering, what)

    def cut(store, *values):
        step(store, *values)
        raise psycopg2.OperationalError("the connection broke before the answer came")

    monkeypatch.setattr(steering, what, cut)
    with pytest.raises(DatabaseError, match="the connection broke before the database said whether the jobs were"):
        ended.reset(all=True) if what == "reset" else ended.add(["more"])
    monkeypatch.undo()
    assert ended.overview().counts == (Counts(10, 10, 0, 0) if what == "reset" else Counts(11, 1, 0, 5))


def test_drop_does_not_hang_with_bees_at_work(script, address):
    # A bee's statement locks the tables in another order.
    process = script(NODE, "one", "2", "fine-0")
    process.wait()
    jobset = Jobset("steer", **address)
    for _ in range(5):
        jobset.add(map(str, range(50_000)))
        process = script(NODE, "one", "2")
        wait_until(lambda: jobset.overview().counts.claimed)
        jobset.drop(force=True)
        assert process.wait() != 0
        postgres_jobset("steer", lambda *_: None, ["a"], **address, verbose=False)


def test_jobs(ended, script, tmp_path, sql):
    assert ended.add({"hold-0": {"x": [1]}, "fine-9": {}}.items()) == Added(2, 0)
    process = script(NODE, "auto", "2")
    wait_until((tmp_path / "hold-0").exists)
    wait_until(lambda: ended.overview().counts.complete == 6)
    jobs = {job.job_id: job for job in ended.jobs()}
    assert len(jobs) == 12
    held = jobs["hold-0"]
    assert (held.state, held.data, held.host, held.seconds) == (State.CLAIMED, {"x": [1]}, os.uname().nodename, None)
    assert [(held.bee,)] == sql("SELECT bee FROM wb_claims__steer WHERE lo > 0")
    fine, ill = jobs["fine-9"], jobs["ill-0"]
    assert (fine.state, fine.errors, fine.data, fine.bee, fine.host) == (State.COMPLETE, 0, {}, None, held.host)
    assert fine.since > held.since or fine.seconds >= 0
    assert (ill.state, ill.errors, ill.crashes, ill.losses, ill.seconds) == (State.FAILED, 2, 0, 0, None)
    assert jobs["dead-0"].crashes == 1
    (tmp_path / "go").touch()
    assert process.wait() != 2


def test_jobs_and_failures_take_little_memory(ended, sql):
    import tracemalloc

    ended.add(map(str, range(100_000)))
    sql(
        "INSERT INTO wb_failures (jobset_id, pos, job_id, attempt, kind, type, message, stack, log, final, host, pid, "
        "bee) SELECT 'steer', 1, 'fine-0', n, 'error', 'E', repeat('m', 100), repeat('s', 1000), '', false, '', 1, 1 "
        "FROM generate_series(1, 20000) n"
    )
    for rows, number in ((ended.jobs(), 100_010), (ended.failures(), 20_008)):
        tracemalloc.start()
        assert sum(1 for _ in rows) == number
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10e6
