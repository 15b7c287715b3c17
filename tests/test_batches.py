"""Claims of many jobs: none of them waits for another, and what happens to one stays with it."""

from __future__ import annotations

import collections
import ctypes
import signal
import time
from types import SimpleNamespace

import psycopg2
import pytest

from tests.helpers import wait_until
from workerbee import postgres_jobset
from workerbee.bee import FRESH, Bee
from workerbee.board import Board
from workerbee.hand import BATCH
from workerbee.job import Claim, Job, Limits
from workerbee.loading import set_up
from workerbee.store import Store

IDS = [str(n) for n in range(200)]


@pytest.fixture
def wide(parameters, sql):
    """Set a jobset up whose pending work is a single range, as in a large one; the ids in the order of positions."""

    def make(jobset_id):
        store = Store(psycopg2.connect(**parameters), jobset_id)
        set_up(store, IDS, None, lambda _: None)
        store.close()
        sql(f"DELETE FROM wb_ranges__{jobset_id}")
        sql(f"INSERT INTO wb_ranges__{jobset_id} VALUES (0, {len(IDS)}, 1)")
        return [job_id for (job_id,) in sql(f"SELECT job_id FROM wb__{jobset_id} ORDER BY pos")]

    return make


@pytest.fixture
def journal(tmp_path):
    """Note the start of a job; and how often each has started."""

    def note(job_id):
        with (tmp_path / "journal").open("a") as file:
            file.write(f"{job_id}\n")

    note.starts = lambda: collections.Counter((tmp_path / "journal").read_text().split())
    return note


def test_a_long_job_holds_up_no_other_of_its_claim(sql, script, wide, tmp_path):
    order = wide("long")
    process = script(
        """
        import sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            with open("journal", "a") as file:
                file.write(f"{job_id}\\n")
            while job_id == sys.argv[1] and not Path("go").exists():
                time.sleep(0.01)

        print(postgres_jobset("long", job, processes=2, claim=100))
        """,
        order[50],
    )
    # Those before it in its claim are settled, those after it are done by the other bee, while it runs.
    wait_until(lambda: sql("SELECT count(*) FROM wb__long WHERE state = 'COMPLETE'") == [(len(IDS) - 1,)])
    assert sql("SELECT lo, hi FROM wb_claims__long WHERE lo IS NOT NULL") == [(51, 51)]
    assert sql("SELECT job_id FROM wb_jobs__long WHERE state = 'CLAIMED'") == [(order[50],)]
    (tmp_path / "go").touch()
    assert "200 of 200 jobs complete, 0 failed; here 200 completed" in process.communicate()[0]
    assert collections.Counter((tmp_path / "journal").read_text().split()) == dict.fromkeys(IDS, 1)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def test_a_claim_that_somebody_has_locked_is_cut_later(sql, script, parameters, wide, tmp_path):
    order = wide("locked")
    process = script(
        """
        import sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            while job_id == sys.argv[1] and not Path("go").exists():
                time.sleep(0.01)
                Path("runs").touch()

        postgres_jobset("locked", job, processes=1, claim=100, lease=2)
        """,
        order[50],
    )
    wait_until((tmp_path / "runs").exists)
    locker = psycopg2.connect(**parameters)
    locker.cursor().execute("SELECT FROM wb_claims__locked FOR UPDATE")
    # Its keeper goes on about its other duties,
    wait_until(lambda: sql("SELECT true FROM wb_nodes, wb_claims__locked WHERE beat_at > since + '5 s'"))
    assert sql("SELECT hi - lo FROM wb_claims__locked") == [(99,)]
    locker.close()
    # and comes back to this one.
    wait_until(lambda: sql("SELECT lo, hi FROM wb_claims__locked") == [(51, 51)])
    (tmp_path / "go").touch()
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("way", ["segfault", "error"])
def test_what_happens_to_one_job_of_a_claim_stays_with_it(address, sql, wide, journal, way):
    wide("one")

    def job(job_id, _data):
        journal(job_id)
        if int(job_id) % 40 == 7:
            if way == "error":
                raise ValueError
            ctypes.string_at(0)

    summary = postgres_jobset(
        "one", job, **address, verbose=False, processes=2, claim=64, max_attempts=2, max_crashes=2
    )  # fmt: skip
    assert (summary.complete, summary.failed, summary.completed_here, summary.failed_here) == (195, 5, 195, 5)
    bad = {str(n) for n in range(7, 200, 40)}
    assert journal.starts() == {job_id: 1 + (job_id in bad) for job_id in IDS}
    assert {job_id for (job_id,) in sql("SELECT DISTINCT job_id FROM wb_failures")} == bad
    assert sql("SELECT count(*) FROM wb_claims__one") == [(0,)]


@pytest.mark.parametrize("processes", [None, 1])
def test_a_stop_gives_the_rest_of_a_claim_back(sql, script, wide, tmp_path, processes):
    wide("stop")
    process = script(
        """
        import sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            Path("running").touch()
            while not Path("go").exists():
                time.sleep(0.01)

        postgres_jobset("stop", job, processes=eval(sys.argv[1]), claim=200)
        """,
        str(processes),
    )
    wait_until((tmp_path / "running").exists)
    process.send_signal(signal.SIGTERM)
    if processes:
        wait_until(lambda: "no new claims" in process.stdout.readline())
    else:
        wait_until(lambda: not pending(process.pid, signal.SIGTERM))
    (tmp_path / "go").touch()
    process.communicate()
    assert process.returncode == 143
    assert sql("SELECT count(*) FROM wb__stop WHERE state = 'COMPLETE'") == [(1,)]
    assert sql("SELECT sum(hi - lo + 1) FROM wb_ranges__stop") == [(199,)]
    assert sql("SELECT count(*) FROM wb_ranges__stop")[0][0] <= 2
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


def pending(pid, number):
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 - no Path for a line of /proc
        lines = dict(line.split(":", 1) for line in file)
    return bool(int(lines["ShdPnd"], 16) >> (number - 1) & 1)


class Unheard:
    """A witness who wants to know nothing."""

    hears_each = False

    def holds(self, claim):
        pass


@pytest.fixture
def bee():
    """A bee that has no database. `run(size)` has it call `job(job_id)` for a claim of that size; what ran."""
    board = Board(2)
    bee = Bee(None, board, 0, lambda job_id, _: job(job_id), Limits(), Unheard(), lease=30)
    ran = []

    def job(job_id):
        ran.append(job_id)
        this.job(job_id)

    def run(size, age=0.0):
        ran.clear()
        jobs = tuple(Job(pos, str(pos), None) for pos in range(10, 10 + size))
        bee._holdings.current.hold(Claim(1, 7, jobs), time.monotonic() - age)
        bee._work_through()
        return list(map(int, ran))

    this = SimpleNamespace(bee=bee, run=run, job=lambda _: None, slot=board.slots[0], header=board.header)
    yield this
    board.close()


def test_the_board_says_what_runs(bee):
    seen = []
    bee.job = lambda _: seen.append((bee.slot.hand.pos, bee.slot.read_job_id(), bee.slot.is_running))
    assert bee.run(3) == [10, 11, 12]
    assert seen == [(pos, str(pos), True) for pos in (10, 11, 12)]
    assert not bee.slot.is_running
    assert [pos for pos, _ in bee.slot.hand.completed_so_far()] == [10, 11, 12]
    # There is room for many ids, if not for any number of any length.
    bee.slot.hand.hold(Claim(1, 8, tuple(Job(pos, "\u00e9" * 999, None) for pos in range(10, 1000))), 0.0)
    for pos, length in ((10, 999), (50, 999), (100, 0)):
        bee.slot.hand.pos = pos
        assert len(bee.slot.read_job_id()) == length


def test_nothing_is_started_of_a_claim_that_is_old_or_cut(bee):
    def cut(job_id):
        bee.slot.hand.cut = 7 if job_id == "12" else 6

    bee.job = cut
    assert bee.run(10) == [10, 11, 12]
    assert bee.slot.hand.pos == 0
    bee.slot.hand.cut = 6
    bee.job = lambda _: None
    bee.slot.learn(0.01)
    assert bee.run(10, age=FRESH) == []
    # Where answers take so long, it takes one at a time, for as long as nobody can have given it away.
    assert bee.bee._portion.next() == 1
    assert bee.run(1, age=FRESH) == [10]
    assert bee.run(1, age=15) == []
    bee.header.stop = 1
    assert bee.run(10) == []


def test_how_many_are_claimed(bee):
    header, slot = bee.header, bee.slot

    def sizes(n):
        return [bee.bee._portion.next() for _ in range(n)]

    header.offered = 10**6
    assert sizes(3) == [1, 1, 1]  # nothing is known of the jobs yet
    slot.learn(1e-5)
    for _ in range(100):
        slot.learn(1e-5)
    assert sizes(13) == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, BATCH, BATCH]
    # Near the end nobody hoards.
    header.offered = 200
    assert sizes(1) == [50]
    header.others = 4
    assert sizes(1) == [10]
    header.offered = 3
    assert sizes(1) == [1]
    header.offered = 10**6
    for _ in range(100):
        slot.learn(10.0)
    assert sizes(3) == [1, 1, 1]
    for _ in range(300):
        slot.learn(0.005)
    assert sizes(8)[-1] == 9
