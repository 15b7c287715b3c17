"""What the user limits: time, memory, failures, walltime; and a node that fails everything."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import psycopg2
import pytest

from tests.helpers import alive, wait_until
from workerbee import cgroups, memory, postgres_jobset
from workerbee.backoff import LIMIT, NO_BEES, Backoff
from workerbee.batch import seconds_left
from workerbee.board import Board
from workerbee.curfew import Curfew, FailureLimit
from workerbee.guards import MemoryGuard, TimeGuard
from workerbee.job import Claim, Counts, Job
from workerbee.loading import set_up
from workerbee.probation import FEW, Probation
from workerbee.slot import Phase, Verdict
from workerbee.stopping import Stopping
from workerbee.store import Store


def spin():
    while True:
        pass


def spin_in_c():
    # Exponential, and no other thread of the process gets the GIL meanwhile.
    re.match("(a+)+$", "a" * 64 + "b")


def ignore_and_sleep():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    # The guard's SIGCONT lets it write its stack; it hangs on all the same.
    time.sleep(3600)


def wait_for_child():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(3600)"], check=True)


def sleep_in_c():
    # It returns when a signal comes, and it is the question for its stack that brings one.
    ctypes.CDLL(None).sleep(3600)


HANGS = [spin, sleep_in_c, spin_in_c, ignore_and_sleep, stop_itself, wait_for_child]


def test_a_job_that_hangs_is_killed_and_says_where(address, sql, tmp_path):
    def job(job_id, _data):
        if job_id.startswith("good"):
            return
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        HANGS[int(job_id)]()

    good = [f"good{n}" for n in range(50)]
    ids = [*map(str, range(len(HANGS))), *good]
    summary = postgres_jobset(
        "hangs", job, ids, **address, verbose=False, processes=2, job_timeout=0.5, max_attempts=2
    )  # fmt: skip
    assert (summary.complete, summary.failed) == (len(good), len(HANGS))
    rows = sql("SELECT job_id, kind, type, message, stack, seconds, final FROM wb_failures ORDER BY failure")
    assert len(rows) == 2 * len(HANGS)
    for job_id, kind, type_, message, stack, seconds, _ in rows:
        assert (kind, type_, message) == ("timeout", "timeout", "ran for longer than 0.5 s (job_timeout)")
        assert f"in {HANGS[int(job_id)].__name__}" in stack
        assert seconds >= 0.5
    assert sorted(row[0] for row in rows if row[-1]) == [str(n) for n in range(len(HANGS))]
    assert sql("SELECT sum(errors), sum(crashes) FROM wb__hangs") == [(2 * len(HANGS), 0)]
    assert not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    # Each in a bee that the good ones were not harmed by.
    assert sql("SELECT count(*) FROM wb_failures WHERE job_id LIKE 'good%%'") == [(0,)]


def eat(megabytes):
    block = bytearray(megabytes * 1024 * 1024)
    block[::4096] = b"x" * len(block[::4096])
    return block


def test_a_bee_over_its_memory_limit_is_killed(address, sql):
    shared = eat(600)  # the supervisor's: no bee is to blame for what all of them share

    def job(job_id, _data):
        if job_id == "fat":
            block = eat(900)
            time.sleep(3600)
            del block
        if job_id == "fat-child":
            # Its tree counts.
            code = "import time; block = b'x' * 900_000_000; time.sleep(3600)"
            subprocess.run([sys.executable, "-c", code], check=True)
        if job_id == "steady":
            time.sleep(2)  # through some looks at it
        assert shared[0]

    ids = ["fat", "fat-child", "steady", *(f"good{n}" for n in range(50))]
    summary = postgres_jobset(
        "fat", job, ids, **address, verbose=False, processes=2, memory_limit="500MB", max_crashes=1
    )  # fmt: skip
    assert (summary.complete, summary.failed, summary.crashed_here) == (51, 2, 0)
    rows = sql("SELECT job_id, kind, type, message, stack FROM wb_failures ORDER BY job_id")
    assert [(job_id, kind, type_) for job_id, kind, type_, _, _ in rows] == [
        ("fat", "memory", "memory"),
        ("fat-child", "memory", "memory"),
    ]
    for *_, message, _ in rows:
        assert message.startswith("its bee used ")
        assert message.endswith(", more than the 500 MB of memory_limit")
    assert sql("SELECT sum(errors), sum(crashes) FROM wb__fat") == [(0, 2)]


def test_when_the_node_runs_short_the_fattest_goes(address, sql, capsys):
    own = memory.used_by(memory.tree(os.getpid()))

    def job(job_id, _data):
        if job_id == "fat":
            block = eat(700)
            time.sleep(3600)
            del block

    ids = ["fat", *(f"good{n}" for n in range(50))]
    summary = postgres_jobset(
        "short", job, ids, **address, processes=2, node_memory=own + 600_000_000, max_crashes=1
    )  # fmt: skip
    assert (summary.complete, summary.failed) == (50, 1)
    ((job_id, kind, message),) = sql("SELECT job_id, kind, message FROM wb_failures")
    assert (job_id, kind) == ("fat", "memory")
    assert "its bee used most" in message
    assert "node_memory ran short" in message
    # One bee was ended, and it was the right one.
    assert capsys.readouterr().out.count("may run for now") == 1


@pytest.mark.parametrize("version", [1, 2])
def test_the_cgroup_is_asked(tmp_path, version):
    (tmp_path / "proc/self").mkdir(parents=True)
    group = tmp_path / "sys/fs/cgroup/memory/slot"
    group.mkdir(parents=True)
    if version == 1:
        mount = "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
        own, limit, current, events = "4:memory:/slot", "memory.limit_in_bytes", "memory.usage_in_bytes", "oom_control"
        stat = "inactive_file 1\ntotal_inactive_file 200\ntotal_active_file 100\n"
    else:
        mount = "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup2 cgroup2 rw"
        own, limit, current, events = "0::/slot", "memory.max", "memory.current", "events"
        stat = "inactive_file 200\nactive_file 100\n"
    (tmp_path / "proc/self/mountinfo").write_text(mount + "\n")
    (tmp_path / "proc/self/cgroup").write_text(own + "\n")
    (group / limit).write_text("1000000\n")
    (group / current).write_text("900300\n")
    (group / "memory.stat").write_text(stat)
    (group / f"memory.{events}").write_text("low 0\noom_kill 3\n")
    gauge, machine = memory.gauges(None, tmp_path)
    # Page cache is not what the kernel kills for.
    assert (gauge.name, gauge.allowed, gauge.used()) == ("the cgroup's memory", 900_000, 900_000)
    assert machine.allowed == int(0.9 * psutil.virtual_memory().total)
    assert memory.oom_kills(tmp_path) == 3
    (group / limit).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert [gauge.name for gauge in memory.gauges(None, tmp_path)] == ["the machine's memory"]


@pytest.fixture
def slot():
    """A cgroup as a batch system makes one, with 1.5 GB of memory: the file that takes a process into it."""
    version, directory = next(cgroups.directories("memory"), (0, Path("/none")))
    group = directory / f"workerbee-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text("1500000000")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    members = group / "cgroup.procs"
    yield members
    wait_until(lambda: not members.read_text())
    group.rmdir()


@pytest.mark.parametrize("node_memory", ["auto", "100GB"])
def test_a_slot_with_little_memory(slot, sql, script, node_memory):
    """By default the fat job goes before the kernel acts; else the kernel takes its bee, and is found out."""
    process = script(
        """
        import os, sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        Path(sys.argv[1]).write_text(str(os.getpid()))

        def job(job_id, data):
            if job_id == "fat":
                block = bytearray(3_000_000_000)
                block[::4096] = b"x" * len(block[::4096])

        postgres_jobset("slot", job, ["fat", *map(str, range(20))], processes=2, max_crashes=1, node_memory=sys.argv[2])
        """,
        str(slot),
        node_memory,
    )
    said = process.communicate()[0]
    assert "20 of 21 jobs complete, 1 failed" in said
    ((job_id, kind, message),) = sql("SELECT job_id, kind, message FROM wb_failures")
    assert job_id == "fat"
    if node_memory == "auto":
        assert kind == "memory"
        assert "when the cgroup's memory ran short" in message
    else:
        assert kind == "crash"
        assert "sent by nobody here but the kernel, since memory was short (its oom_kill count rose by 1)" in message


def test_the_kernel_takes_a_bee_first(address):
    def score(pid="self"):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    def job(_job_id, _data):
        assert score() == score(os.getppid()) + 500

    assert postgres_jobset("oom", job, ["a"], **address, verbose=False, processes=1).ok


def test_a_sigkill_that_nobody_here_sent_is_told_as_such(address, sql):
    def job(_job_id, _data):
        os.kill(os.getpid(), signal.SIGKILL)

    postgres_jobset("killed", job, ["a"], **address, verbose=False, processes=1, max_crashes=1)
    ((message,),) = sql("SELECT message FROM wb_failures")
    assert message == "its bee died: SIGKILL, sent by nobody here (a person, or a batch system)"


def test_bees_are_replaced_before_they_have_had_their_jobs(address, tmp_path):
    def job(_job_id, _data):
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")

    assert postgres_jobset(
        "leak", job, map(str, range(200)), **address, verbose=False, processes=2, max_jobs_per_bee=8
    ).ok
    pids = (tmp_path / "pids").read_text().split()
    counts = [pids.count(pid) for pid in set(pids)]
    assert sum(counts) == 200
    assert max(counts) <= 8
    # With jitter: some end sooner, none but the last of each slot much sooner.
    assert len({count for count in counts if count >= 6}) > 1
    assert sorted(counts)[2] >= 6


def test_a_bee_gone_bad_is_replaced(address, sql):
    """A job that uses up its bee's descriptors costs a few attempts of others, not all of them."""

    def job(job_id, _data):
        if job_id == "leak":
            try:
                while True:
                    os.open(os.devnull, os.O_RDONLY)
            except OSError:
                return
        Path(os.devnull).read_text()

    summary = postgres_jobset(
        "poison", job, ["leak", *map(str, range(300))], **address, verbose=False, processes=1, max_attempts=5
    )
    assert summary.ok
    ((failures,),) = sql("SELECT count(*) FROM wb_failures WHERE kind = 'error'")
    assert failures <= 3


def test_a_node_that_fails_everything_pauses(sql, script, tmp_path):
    """A bad node beside a good one: the jobset comes to no harm."""
    node = """
        import os, sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            if sys.argv[1] == "bad":
                raise OSError("no space left on this machine")
            while not Path("go").exists():
                time.sleep(0.01)

        print(postgres_jobset("bad_node", job, map(str, range(500)), processes=2))
    """
    bad = script(node, "bad")
    said = []
    reader = threading.Thread(target=lambda: said.extend(bad.stdout))
    reader.start()
    wait_until(lambda: any("bees pause for 2 s" in line for line in said), "the bad node to pause")
    ((eaten,),) = sql("SELECT sum(errors) FROM wb__bad_node")
    # Those that were under way when the tenth failed come on top.
    assert 2 * FEW <= eaten <= 2 * FEW + 4
    assert any(
        re.search(r"1\d jobs in a row failed here and none completed: bees pause for 1 s", line) for line in said
    )
    good = script(node, "good")
    (tmp_path / "go").touch()
    out = good.communicate()[0]
    assert "500 of 500 jobs complete, 0 failed" in out
    bad.wait()
    reader.join()
    assert sql("SELECT max(errors) < 3 FROM wb__bad_node") == [(True,)]


def test_a_failed_job_is_offered_to_other_nodes_first(sql, script, tmp_path):
    node = """
        import os, sys, time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            if job_id == "picky":
                with open("tried", "a") as file:
                    file.write(sys.argv[1])
                if sys.argv[1] == "first":
                    raise OSError("not here")
            while not Path(f"go-{sys.argv[1]}").exists():
                time.sleep(0.01)

        print(postgres_jobset("picky", job, eval(sys.argv[2]), processes=1, lease=4))
    """
    tried = tmp_path / "tried"
    second = script(node, "second", "['long']")
    wait_until(lambda: sql("SELECT to_regclass('wb_claims__picky') IS NOT NULL")[0][0])
    wait_until(lambda: sql("SELECT count(*) FROM wb_claims__picky WHERE lo IS NOT NULL")[0][0] == 1)
    # A second job, which only the second node does well, and which the first is the first to try.
    sql("INSERT INTO wb__picky (pos, job_id) VALUES (2, 'picky')")
    sql("INSERT INTO wb_ranges__picky VALUES (0, 2, 2)")
    sql("UPDATE wb_jobsets SET total = 2")
    first = script(node, "first", "None")
    wait_until(tried.exists)
    wait_until(lambda: sql("SELECT count(*) FROM wb_failures")[0][0] == 1)
    # It waits for the second one, which is busy, however often it looks.
    bees = sql("SELECT last_value FROM wb_bees")
    counted = sql("SELECT beat_at FROM wb_nodes ORDER BY node DESC LIMIT 1")
    wait_until(lambda: sql("SELECT beat_at FROM wb_nodes ORDER BY node DESC LIMIT 1") != counted)
    assert tried.read_text() == "first"
    assert sql("SELECT last_value FROM wb_bees") == bees
    (tmp_path / "go-second").touch()
    assert "2 of 2 jobs complete" in second.communicate()[0]
    assert "2 of 2 jobs complete" in first.communicate()[0]
    assert tried.read_text() == "firstsecond"


@pytest.mark.parametrize(("processes", "most", "limit"), [(2, 5, 5), (None, "10%", 20)])
def test_the_jobset_stops_at_so_many_failures(address, capsys, processes, most, limit):
    def job(job_id, _data):
        if int(job_id) % 2:
            raise ValueError("odd")

    summary = postgres_jobset(
        "most", job, map(str, range(200)), **address, processes=processes, max_attempts=1, max_failures=most,
        on_event=lambda _: time.sleep(0.5 if processes else 0),
    )  # fmt: skip
    # However busy the supervisor is: only jobs that ran already when one reached the limit may fail, too.
    assert limit <= summary.failed < limit + (processes or 1)
    assert not summary.ok
    assert summary.complete + summary.failed < 200
    said = capsys.readouterr().out
    assert f"jobs are FAILED, max_failures is {limit}: no new claims" in said
    assert "A call with a higher limit, or after `workerbee retry most`, goes on with the" in said
    # Started again, it sees at once that there are enough of them.
    again = postgres_jobset("most", job, **address, verbose=False, processes=processes, max_failures=most)
    assert again.failed == summary.failed


@pytest.mark.parametrize("processes", [None, 2])
def test_a_node_is_through_before_its_time_is_over(address, sql, processes):
    def job(job_id, _data):
        time.sleep(3600 if job_id == "long" else 0.01)

    begun = time.monotonic()
    ids = ["long", *map(str, range(10))]
    summary = postgres_jobset("walltime", job, ids, **address, verbose=False, processes=processes, stop_after=4)
    assert time.monotonic() - begun < 60
    assert summary.complete == 10 if processes else summary.complete <= 10
    assert sql("SELECT count(*) FROM wb_claims__walltime") == [(0,)]
    # What did not finish is not to blame.
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT sum(hi - lo + 1) FROM wb_ranges__walltime") == [(11 - summary.complete,)]


def test_no_job_is_claimed_that_would_not_be_through(stopping):
    board, stop = stopping
    curfew = Curfew(board, time.monotonic() + 20, stop)
    for _ in range(20):
        board.slots[0].learn(5.0)
    assert curfew.look() > time.monotonic()
    assert not board.header.stop
    for _ in range(50):
        board.slots[0].learn(30.0)
    curfew.look()
    assert board.header.stop
    assert 17 < stop.deadline - time.monotonic() <= 18


def test_a_slurm_job_ends_in_time():
    assert seconds_left({}) is None
    assert seconds_left({"SLURM_JOB_END_TIME": str(time.time() + 100)}) is None
    slurm = {"SLURM_JOB_ID": "7"}
    assert seconds_left(slurm) is None
    assert 90 < seconds_left({**slurm, "SLURM_JOB_END_TIME": str(int(time.time() + 100))}) <= 95
    assert seconds_left({**slurm, "SLURM_JOB_END_TIME": "1"}) == 0
    for nonsense in ("", "soon", "nan", "inf", "-5", "0"):
        assert seconds_left({**slurm, "SLURM_JOB_END_TIME": nonsense}) is None


@pytest.fixture
def stopping():
    board = Board(2)
    yield board, Stopping(board, 30, lambda _: None)
    board.close()


def test_a_bee_through_with_the_accused_job_is_not_charged(stopping):
    board, _ = stopping
    slot = board.slots[0]
    slot.move(Phase.ALIVE)
    slot.started = 7.0
    slot.condemn(Verdict.TIMEOUT, slot.started, "too long")
    assert (slot.verdict, slot.read_reason()) == (Verdict.TIMEOUT, "too long")
    slot.condemn(Verdict.ORDERED)
    assert slot.verdict is Verdict.TIMEOUT
    slot.started = 8.0
    assert slot.verdict is Verdict.ORDERED
    slot.clear()
    assert (slot.verdict, slot.read_reason()) == (Verdict.NONE, "")


def test_a_node_stops_when_enough_have_failed(stopping):
    board, stop = stopping
    limit = FailureLimit(board, 0.07, stop)
    header = board.header
    header.write_counts(Counts(100, 50, 0, 5), failed_here=2)
    board.slots[1].failed = 3
    limit.look()
    assert (header.most_failed, board.may_have_failed_enough, header.stop) == (7, False, 0)
    # Some of these the keeper may have counted, too.
    board.slots[0].failed = 1
    limit.look()
    assert (board.may_have_failed_enough, header.stop) == (True, 0)
    header.write_counts(Counts(100, 50, 0, 7), failed_here=4)
    limit.look()
    assert header.stop
    assert stop.why == "7 jobs are FAILED, max_failures is 7: no new claims"


def test_why_bees_stopped_is_said_although_failures_are_gone_since(stopping):
    board, stop = stopping
    board.header.enough = board.header.stop = 5
    board.header.write_counts(Counts(100, 50, 0, 0), failed_here=5)
    FailureLimit(board, 5, stop).look()
    assert stop.why == "5 jobs are FAILED, max_failures is 5: no new claims"


def test_no_other_end_is_later_than_the_nodes_time(stopping):
    board, stop = stopping
    curfew = Curfew(board, time.monotonic() + 20, stop)
    stop.stop("drained", math.inf)
    curfew.look()
    assert 17 < stop.deadline - time.monotonic() <= 18
    stop.hurry(0.0)
    curfew.look()
    assert stop.deadline == 0.0


def test_the_time_of_a_job_that_has_raised_is_not_over(stopping):
    board, _ = stopping
    slot = board.slots[0]
    slot.hand.hold(Claim(1, 1, (Job(1, "a", None),)), 0.0)
    slot.hand.pos, slot.started, slot.raised = 1, 1.0, 1
    slot.move(Phase.ALIVE)
    asked = []
    bees = {0: SimpleNamespace(ask_for_stack=lambda: asked.append(0))}
    guard = TimeGuard(board, SimpleNamespace(bees=bees), 5)
    assert (guard.look(), slot.verdict, asked) == (math.inf, Verdict.NONE, [])
    slot.raised = 0
    guard.look()
    assert (slot.verdict, asked) == (Verdict.TIMEOUT, [0])


def test_a_row_of_failures_counts_where_jobs_complete(stopping):
    board, _ = stopping
    said = []
    probation = Probation(board, said.append)
    slot = board.slots[0]
    for _ in range(FEW):
        assert not board.header.hold
        slot.strikes += 1
        probation.look()
    assert board.header.hold > time.monotonic()
    slot.completed += 1
    probation.look()
    assert not board.header.hold
    # Half of the jobs fail by their own fault: a row must be twice as long.
    for _ in range(100):
        slot.strikes += 1
        probation.look()
        slot.completed += 1
        probation.look()
    for _ in range(2 * FEW):
        assert not board.header.hold
        slot.strikes += 1
        probation.look()
    slot.strikes += 1
    probation.look()
    assert board.header.hold
    assert len(said) == 2


def test_what_says_nothing_about_the_node_pauses_no_bee(address, capsys):
    """Attempts after the first; and crashes, where no other node could do better."""

    def job(job_id, _data):
        if job_id == "raises":
            raise ValueError
        os._exit(1)

    ids = ["raises", *map(str, range(FEW + 2))]
    summary = postgres_jobset("nothing", job, ids, **address, processes=2, max_attempts=FEW + 2, max_crashes=1)
    assert summary.failed == FEW + 3
    assert "bees pause" not in capsys.readouterr().out


def test_who_kills_bees_from_outside_does_not_make_a_node_give_up_at_once(stopping):
    board, stop = stopping
    backoff = Backoff(board, lambda _: None, stop)
    for _ in range(2 * LIMIT):
        backoff.ended(0, -signal.SIGKILL)
    assert stop.failure is None
    backoff._bees_seen -= NO_BEES
    for _ in range(LIMIT - 1):
        backoff.ended(0, -signal.SIGKILL)
    assert stop.failure is None
    backoff.ended(1, 1)
    assert f"{LIMIT} bees in a row died before they claimed a job; the last: exit code 1" in str(stop.failure)


def test_a_node_whose_bees_are_too_fat_to_begin_gives_up(stopping):
    board, stop = stopping
    backoff = Backoff(board, lambda _: None, stop)
    for n in range(LIMIT):
        assert stop.failure is None
        slot = board.slots[n % 2]
        slot.condemn(Verdict.MEMORY, slot.started, "its bee used 2 GB")
        backoff.ended(n % 2, -signal.SIGKILL)
        slot.clear()
    assert f"{LIMIT} bees in a row died before they claimed a job; the last: its bee used 2 GB" in str(stop.failure)


def test_a_bee_that_was_told_to_go_is_no_failure(stopping):
    board, stop = stopping
    backoff = Backoff(board, lambda _: None, stop)
    for _ in range(2 * LIMIT):
        board.slots[0].condemn(Verdict.ORDERED)
        backoff.ended(0, -signal.SIGKILL)
        board.slots[0].clear()
    assert (stop.failure, backoff.until) == (None, [0.0, 0.0])


def test_a_bee_that_came_to_its_work_ends_the_row(stopping):
    board, stop = stopping
    backoff = Backoff(board, lambda _: None, stop)
    for _ in range(3):
        for _ in range(LIMIT - 1):
            backoff.ended(0, 1)
        board.slots[1].jobs = 1
        backoff.ended(1, -signal.SIGSEGV)
        board.slots[1].clear()
    assert stop.failure is None


@dataclasses.dataclass(frozen=True)
class Killable:
    """What a guard needs to know of a child."""

    pid: int
    kill: Callable[[], None]


def test_fewer_bees_run_while_memory_is_short(stopping):
    board, _ = stopping
    used, killed, said = [0], [], []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as thin:
        bees = {0: Killable(os.getpid(), lambda: killed.append(0)), 1: Killable(thin.pid, lambda: killed.append(1))}
        gauge = memory.Gauge("the memory", 10**6, lambda: used[0])
        guard = MemoryGuard(board, SimpleNamespace(bees=bees), None, [gauge], said.append)

        def look():
            guard._due = 0.0
            guard.look()
            return guard.crowd

        assert look() == 2
        used[0] = 2 * 10**6
        assert look() == 1
        assert killed == [0]  # the fattest
        assert board.slots[0].verdict is Verdict.MEMORY
        # What was killed has not let go of its memory yet.
        assert look() == 1
        assert killed == [0]
        # No more of them as long as there is little room, and then not at once.
        bees.pop(0)
        used[0] = 8 * 10**5
        assert look() == 1
        used[0] = 10**5
        assert look() == 1
        guard._relief = 0.0
        assert look() == 2
        # The only one left is not killed for what others use.
        gauge_of_others = memory.Gauge("the machine", 10**12, lambda: 2 * 10**12)
        guard = MemoryGuard(board, SimpleNamespace(bees=bees), None, [gauge_of_others], said.append)
        assert look() == 2
        assert killed == [0]
        thin.communicate(b"\n")
    assert len(said) == 1


@pytest.mark.parametrize("processes", [None, 1])
def test_what_others_have_no_time_for_is_tried_again_here(address, sql, parameters, processes, tmp_path):
    store = Store(psycopg2.connect(**parameters), "choosy")
    set_up(store, ["a"], None, lambda _: None)
    node = store.add_node("busy", "elsewhere", 1, 3600)
    store.close()
    tried = tmp_path / "tried"

    def job(_job_id, _data):
        if not tried.exists():
            tried.touch()
            raise ValueError

    summary = postgres_jobset("choosy", job, **address, verbose=False, processes=processes, lease=1, stop_after=90)
    assert summary.ok
    # Not before the other node had had the time to.
    ((seconds,),) = sql(
        "SELECT extract(epoch FROM finished_at - failed_at)::float8 FROM wb__choosy JOIN wb_failures USING (pos)"
    )
    assert seconds > 1
    assert sql("SELECT ended_at FROM wb_nodes WHERE node = %s", node) == [(None,)]
