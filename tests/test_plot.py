"""What happened to a jobset over time, and its picture."""

from __future__ import annotations

import struct
import sys

import psycopg2
import pytest

from tests.helpers import wait_until
from workerbee import InvalidValue, Jobset, MissingPackage
from workerbee.job import Kind
from workerbee.loading import set_up
from workerbee.store import Store

BEGUN = "timestamptz '2026-03-01 22:00:00+00'"


@pytest.fixture
def night(parameters, sql, address):
    """Two nodes in a night of two hours, at 1,200 and 3,000 jobs an hour; the second came after one hour."""
    store = Store(psycopg2.connect(**parameters), "night")
    set_up(store, map(str, range(5000)), None, lambda _: None)
    entry = f"INSERT INTO wb_progress SELECT %s, {BEGUN} + make_interval(mins => m), %s, %s * (m - %s), 0, 1 FROM "
    for began, rate, bees, entries in (
        (0, 20, 4, "generate_series(0, 120, 2) m"),
        (60, 50, 8, "unnest(ARRAY[60, 120]) m"),
    ):
        node = store.add_node("host", "machine", 1, 30)
        sql(entry + entries, node, bees, rate, began)
        sql(
            f"UPDATE wb_nodes SET started_at = {BEGUN} + make_interval(mins => %s), ended_at = now() WHERE node = %s",
            began,
            node,
        )
    sql("UPDATE wb__night SET state = 'COMPLETE', finished_at = now(), seconds = 0.011 * 10 ^ (pos % 3)")
    sql("DELETE FROM wb_ranges__night")
    for minute, kind in ((0, "error"), (30, "crash"), (30, "error"), (120, "lost")):
        sql(
            "INSERT INTO wb_failures (jobset_id, pos, job_id, attempt, kind, type, message, stack, log, final, host, "
            "pid, bee, failed_at) VALUES ('night', 1, '1', 1, %s, '', '', '', '', false, '', 1, 1, "
            f"{BEGUN} + make_interval(mins => %s))",
            kind,
            minute,
        )
    yield Jobset("night", **address)
    store.close()


def test_history(night):
    seen = night.history()
    assert (seen.begun.timestamp(), seen.step, len(seen.complete)) == (1772402400, 36, 200)
    # Though the second node made two entries only.
    assert seen.complete[:100] == pytest.approx([12] * 100)
    assert seen.complete[100:] == pytest.approx([42] * 100)
    assert seen.bees[:100] == pytest.approx([4] * 100)
    assert seen.bees[100:] == pytest.approx([12] * 100)
    assert set(seen.failed) == {0.0}
    where = {kind: {step: n for step, n in enumerate(counts) if n} for kind, counts in seen.failures.items()}
    assert where == {Kind.ERROR: {0: 1, 50: 1}, Kind.CRASH: {50: 1}, Kind.LOST: {199: 1}}
    assert [round(start, 9) for start, _ in seen.durations] == [0.01, 0.1, 1]
    assert sum(count for _, count in seen.durations) == 5000
    assert seen.jobset.counts.complete == 5000


def test_what_only_some_nodes_have_said_is_not_told_yet(night, sql):
    # Or the end of every picture of a running jobset would look as if work had ceased.
    sql("UPDATE wb_nodes SET ended_at = NULL")
    sql("DELETE FROM wb_progress p USING (SELECT min(node) AS node FROM wb_nodes) n "
        f"WHERE p.node = n.node AND at > {BEGUN} + interval '90 min'")  # fmt: skip
    seen = night.history()
    assert seen.step * len(seen.complete) == 90 * 60
    assert seen.complete[-1] == pytest.approx((4200 / 3600) * seen.step)
    assert sum(map(sum, seen.failures.values())) == 3


def size(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return struct.unpack(">II", head[16:])


@pytest.mark.parametrize(("width", "height"), [(10, 12), (16, 9), (5, 6), (30, 8)])
def test_pictures_of_a_night(night, tmp_path, width, height):
    night.plot(tmp_path / "night.png", width, height)
    assert size(tmp_path / "night.png") == (150 * width, 150 * height)


def test_kinds_of_pictures(night, tmp_path, monkeypatch):
    night.plot(tmp_path / "night.svg")
    text = (tmp_path / "night.svg").read_text()
    for words in (
        "night: 5,000 of 5,000 jobs complete, 0 failed",
        "Jobs per second",
        "Bees alive",
        "error (2)",
        "lost (1)",
    ):
        assert words in text
    night.plot(str(tmp_path / "night.PDF"))
    assert (tmp_path / "night.PDF").read_bytes().startswith(b"%PDF")
    for arguments in (["night.txt"], ["night"], ["a.png", 1], ["a.png", 10, float("nan")], ["a.png", "10"]):
        with pytest.raises(InvalidValue):
            night.plot(*arguments)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r"pip install 'workerbee\[plot\]'"):
        night.plot(tmp_path / "none.png")


def test_a_jobset_that_nobody_works_on(address, parameters, tmp_path):
    store = Store(psycopg2.connect(**parameters), "new")
    set_up(store, ["a"], None, lambda _: None)
    store.close()
    seen = Jobset("new", **address).history()
    assert (seen.step, seen.complete, seen.bees, seen.failures, seen.durations) == (1.0, (0.0,), (0.0,), {}, ())
    Jobset("new", **address).plot(tmp_path / "new.svg")
    assert "none has completed" in (tmp_path / "new.svg").read_text()


def test_a_real_run(address, script, tmp_path):
    code = """
        import os, time
        from workerbee import postgres_jobset

        def job(job_id, data):
            time.sleep(0.05)
            if job_id.endswith("7"):
                os.abort()

        postgres_jobset("real", job, map(str, range(100)), processes=2, max_crashes=1, verbose=False)
    """
    nodes = [script(code), script(code)]
    jobset = Jobset("real", **address)
    wait_until(lambda: [node.poll() for node in nodes] == [0, 0])
    seen = jobset.history()
    assert sum(seen.complete) == pytest.approx(90)
    assert sum(seen.failed) == pytest.approx(10)
    assert 0 < max(seen.bees) <= 4
    assert {kind: sum(counts) for kind, counts in seen.failures.items()} == {Kind.CRASH: 10}
    assert sum(count for seconds, count in seen.durations if seconds > 0.03) == 90
    jobset.plot(tmp_path / "real.svg")
    assert "crash (10)" in (tmp_path / "real.svg").read_text()
