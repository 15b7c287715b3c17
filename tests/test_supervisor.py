"""Bees under a supervisor: real deaths, each with the right cause, and nobody else notices."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from setproctitle import getproctitle

from tests.helpers import alive, wait_until
from workerbee import InvalidType, NodeFailed, postgres_jobset

PR_GET_CHILD_SUBREAPER = 37


def note(path, *words):
    """Append a line in one write, so that what a dying bee noted is there."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def noted(path):
    return [line.split() for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def children():
    """The children of this process, but for the helpers that multiprocessing keeps until its end."""
    helpers = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    found = {}
    for child in psutil.Process().children():
        # One that has ended: where other threads run, it is left for them to wait for.
        with contextlib.suppress(psutil.NoSuchProcess):
            found[child.pid] = " ".join(child.cmdline())
    return {pid: line for pid, line in found.items() if not any(helper in line for helper in helpers)}


def segfault():
    ctypes.string_at(0)


DEATHS = {
    "segv": (segfault, "crash", "SIGSEGV", -signal.SIGSEGV),
    "abort": (os.abort, "crash", "SIGABRT", -signal.SIGABRT),
    "bus": (lambda: os.kill(os.getpid(), signal.SIGBUS), "crash", "SIGBUS", -signal.SIGBUS),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), "crash", "SIGKILL", -signal.SIGKILL),
    "exit0": (lambda: os._exit(0), "crash", "exit", 0),
    "exit3": (lambda: os._exit(3), "crash", "exit", 3),
    "sysexit": (lambda: sys.exit(0), "error", "SystemExit", None),
    "interrupt": (lambda: signal.raise_signal(signal.SIGINT) or exec("raise KeyboardInterrupt"), "error", None, None),
    "raise": (lambda: {}["missing"], "error", "KeyError", None),
}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_death_is_told_from_every_other(address, sql, tmp_path, method):
    log = tmp_path / "log"

    def job(job_id, _data):
        note(log, job_id, os.getpid())
        if job_id in DEATHS:
            DEATHS[job_id][0]()

    good = [f"good{n}" for n in range(30)]
    summary = postgres_jobset(
        "deaths", job, [*good, *DEATHS], **address, verbose=False, processes=2, max_attempts=2, max_crashes=1,
        start_method=method,
    )  # fmt: skip
    crashes = sum(kind == "crash" for _, kind, _, _ in DEATHS.values())
    assert (summary.complete, summary.failed) == (len(good), len(DEATHS))
    assert (summary.completed_here, summary.failed_here) == (len(good), len(DEATHS))
    assert (summary.crashed_here, summary.bees_started) == (crashes, 2)
    runs = collections.Counter(job_id for job_id, _ in noted(log))
    assert runs == dict.fromkeys(good, 1) | {
        name: 1 if kind == "crash" else 2 for name, (_, kind, _, _) in DEATHS.items()
    }
    found = {
        job_id: (kind, type_, code)
        for job_id, kind, type_, code in sql("SELECT job_id, kind, type, exit_code FROM wb_failures WHERE final")
    }
    assert found == {
        name: (kind, type_ or "KeyboardInterrupt", code) for name, (_, kind, type_, code) in DEATHS.items()
    }
    ((stack,),) = sql("SELECT stack FROM wb_failures WHERE job_id = 'segv'")
    assert "Segmentation fault" in stack
    assert "segfault" in stack
    assert sql("SELECT count(*) FROM wb_claims__deaths") == [(0,)]


def test_a_crash_disturbs_no_sibling(address, tmp_path):
    log = tmp_path / "log"

    def job(job_id, _data):
        note(log, job_id, os.getpid())
        if job_id == "long":
            # Each second attempt comes after it was claimed, so ten at least die beside it.
            wait_until(lambda: sum(line[0].startswith("crash") for line in noted(log)) == 20)
        else:
            segfault()

    ids = ["long", *(f"crash{n}" for n in range(10))]
    summary = postgres_jobset("sibling", job, ids, **address, verbose=False, processes=2, max_crashes=2)
    assert (summary.complete, summary.failed, summary.crashed_here) == (1, 10, 20)
    lines = noted(log)
    assert [job_id for job_id, _ in lines].count("long") == 1
    (long_pid,) = [pid for job_id, pid in lines if job_id == "long"]
    assert len({pid for _, pid in lines} - {long_pid}) == 20


def test_a_job_that_forks_does_not_make_a_second_bee(address, tmp_path):
    log = tmp_path / "log"

    def job(job_id, _data):
        child = os.fork()
        note(log, job_id, "parent" if child else "child")
        if child:
            os.waitpid(child, 0)
        elif job_id == "1":
            raise ValueError("in the child")

    summary = postgres_jobset("forks", job, map(str, range(20)), **address, verbose=False, processes=2)
    assert summary.ok
    assert collections.Counter(map(tuple, noted(log))) == {
        (str(n), who): 1 for n in range(20) for who in ("parent", "child")
    }


def test_the_same_inline(address, tmp_path):
    log = tmp_path / "log"

    def job(job_id, _data):
        child = os.fork()
        note(log, job_id)
        if child:
            os.waitpid(child, 0)

    assert postgres_jobset("forks", job, ["a", "b", "c"], **address, verbose=False).ok
    assert collections.Counter(job_id for (job_id,) in noted(log)) == {"a": 2, "b": 2, "c": 2}


def test_what_a_job_leaves_behind_is_killed_with_its_bee(address, tmp_path):
    pids = tmp_path / "pids"

    def job(job_id, _data):
        import subprocess

        # A program in a session of its own, a fork in the bee's group, and a fork that is a daemon.
        program = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        note(pids, program.pid)
        for daemon in (False, True):
            if os.fork() == 0:
                if daemon:
                    os.setsid()
                    if os.fork():
                        os._exit(0)
                note(pids, os.getpid())
                time.sleep(1000)
        wait_until(lambda: len(noted(pids)) % 3 == 0)
        if job_id == "crash":
            segfault()

    postgres_jobset("leftovers", job, ["crash", "fine"], **address, verbose=False, processes=1, max_crashes=1)
    left = [int(pid) for (pid,) in noted(pids)]
    assert len(left) == 6
    assert not any(alive(pid) for pid in left)
    assert children() == {}


def test_the_callers_own_children_are_left_alone(address):
    import subprocess

    bystander = subprocess.Popen(["sleep", "1000"])
    ended = subprocess.Popen(["sh", "-c", "exit 3"])
    wait_until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
    try:
        postgres_jobset("mine", lambda *_: segfault(), ["a"], **address, verbose=False, processes=1, max_crashes=1)
        assert bystander.poll() is None
        assert ended.wait() == 3
    finally:
        bystander.kill()
        assert bystander.wait() == -signal.SIGKILL


def test_bees_are_replaced_after_so_many_jobs(address, tmp_path):
    log = tmp_path / "log"
    summary = postgres_jobset(
        "spent", lambda *_: note(log, os.getpid()), map(str, range(30)), **address,
        verbose=False, processes=2, max_jobs_per_bee=5,
    )  # fmt: skip
    assert summary.ok
    jobs = collections.Counter(pid for (pid,) in noted(log))
    assert max(jobs.values()) == 5
    assert len(jobs) >= 6
    assert summary.bees_started == 2


def test_a_job_that_closes_its_output_does_not_keep_the_supervisor_busy(address, tmp_path):
    busy = []

    def job(_job_id, _data):
        os.close(1)
        os.close(2)
        wait_until((tmp_path / "seen").exists)

    def look():
        wait_until(lambda: children() and "bee 0: a" in " ".join(children().values()))
        # The clock that a spinning supervisor would drive: its own CPU time, against the wall's.
        before, begun = time.process_time(), time.monotonic()
        wait_until(lambda: time.monotonic() - begun > 2)
        busy.append(time.process_time() - before)
        (tmp_path / "seen").touch()

    thread = threading.Thread(target=look)
    thread.start()
    assert postgres_jobset("closes", job, ["a"], **address, verbose=False, processes=1).ok
    thread.join()
    assert busy[0] < 1


class Unloadable:
    """A function that falls apart where it is unpickled."""

    def __call__(self, _job_id, _data):
        raise AssertionError

    def __reduce__(self):
        return int, ("no number",)


def test_a_node_whose_bees_cannot_begin_gives_up_with_the_reason(address, sql):
    with pytest.raises(NodeFailed, match=r"5 bees in a row .* invalid literal for int.*no number"):
        postgres_jobset("stillborn", Unloadable(), ["a"], **address, verbose=False, processes=1, start_method="spawn")
    assert sql("SELECT state FROM wb_jobs__stillborn") == [("PENDING",)]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert children() == {}


class UnloadableInOne:
    """A function that bee 0 cannot unpickle, and the other can: its nth job returns when that has failed n times."""

    def __init__(self, log):
        self.log = log
        self.calls = 0

    def __call__(self, _job_id, _data):
        self.calls += 1
        wait_until(lambda: len(noted(self.log)) >= self.calls)

    def __reduce__(self):
        return _load_unless_bee_0, (self.log,)


def _load_unless_bee_0(log):
    if getproctitle().endswith("bee 0"):
        note(log, "failed")
        raise RuntimeError("not in this one")
    return UnloadableInOne(log)


def test_a_slot_backs_off_though_its_siblings_complete_jobs(address, tmp_path, capfd):
    function = UnloadableInOne(tmp_path / "log")
    assert postgres_jobset("backoff", function, map(str, range(6)), **address, processes=2, start_method="spawn").ok
    said = capfd.readouterr().out
    pauses = [line.split()[-2] for line in said.splitlines() if "died before it claimed" in line]
    # More than five, since jobs were completed in between; and each a longer pause than the last.
    assert pauses[:5] == ["0.1", "0.2", "0.4", "0.8", "1.6"]


def test_a_function_that_cannot_be_sent_is_told_at_once(address):
    lock = threading.Lock()
    with pytest.raises(InvalidType, match="job_function cannot be sent"):
        postgres_jobset(
            "unsent", lambda *_: lock.acquire(), ["a"], **address, verbose=False, processes=1, start_method="spawn"
        )


def test_nothing_of_the_node_is_left(address, sql):
    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
        adopts = ctypes.c_int()
        ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)
        fds = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
        return fds, handlers, getproctitle(), threading.active_count(), adopts.value, gc.get_freeze_count()

    gc.unfreeze()  # Python 3.12 begins with some objects frozen
    before = state()
    for processes in (None, 2):
        postgres_jobset(f"tidy{processes or 0}", lambda *_: None, ["a"], **address, verbose=False, processes=processes)
        assert state() == before
    assert sql("SELECT count(*) FROM wb_nodes WHERE ended_at IS NULL") == [(0,)]
    ours = "datname = current_database() AND application_name LIKE 'workerbee%%'"
    # The server's side of a connection ends a moment after ours.
    wait_until(lambda: sql(f"SELECT count(*) FROM pg_stat_activity WHERE {ours}") == [(0,)], "the sessions to end")


def test_each_bee_has_its_own_connection_and_the_launcher_none(address, sql, tmp_path):
    log = tmp_path / "log"

    def job(job_id, _data):
        note(log, job_id)
        wait_until(lambda: len(noted(log)) == 2 and (tmp_path / "seen").exists())

    seen = []

    def look():
        wait_until(lambda: len(noted(log)) == 2)
        seen.extend(sql("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE %s", "workerbee%"))
        (tmp_path / "seen").touch()

    thread = threading.Thread(target=look)
    thread.start()
    postgres_jobset("connections", job, ["a", "b"], **address, verbose=False, processes=2)
    thread.join()
    who = ("bee 0", "bee 1", "keeper")
    assert sorted(name for (name,) in seen) == [f"workerbee connections {name}" for name in who]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_bees_draw_different_numbers_with_few_threads(address, tmp_path, method):
    import numpy

    log = tmp_path / "log"
    numpy.random.seed(1)
    random.seed(1)

    def job(_job_id, _data):
        import threadpoolctl

        threads = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        note(log, random.random(), numpy.random.random(), os.environ["OMP_NUM_THREADS"], max(threads, default=3))
        wait_until(lambda: len(noted(log)) == 3)

    assert postgres_jobset(
        "seeds", job, ["a", "b", "c"], **address, verbose=False, processes=3, start_method=method, threads_per_bee=3
    ).ok
    draws, numpy_draws, variables, threads = zip(*noted(log), strict=True)
    assert len(set(draws)) == len(set(numpy_draws)) == 3
    assert set(variables) == {"3"}
    assert all(int(count) <= 3 for count in threads)


def test_logs_hold_what_a_bee_said_before_it_died(address, sql, tmp_path):
    def job(job_id, _data):
        print(f"{job_id} begins")
        # Past Python, as a C library would.
        os.write(2, f"{job_id}: assertion failed\n".encode())
        if job_id == "dies":
            os.abort()
        if job_id == "raises":
            raise ValueError

    ids = ["fine", "dies", "raises"]
    logs = tmp_path / "new" / "logs"
    postgres_jobset(
        "logs", job, ids, **address, verbose=False, processes=1, max_attempts=1, max_crashes=1, log_dir=logs
    )
    found = dict(sql("SELECT job_id, log FROM wb_failures"))
    assert found == {name: f"{name} begins\n{name}: assertion failed\n" for name in ("dies", "raises")}
    (file,) = logs.iterdir()
    assert sorted(file.read_text().splitlines()) == sorted(
        line for name in ids for line in (f"{name} begins", f"{name}: assertion failed")
    )


@pytest.mark.parametrize(("fds", "raises"), [((1, 3), False), ((3, 4096), True)])
def test_what_a_job_closes_does_not_take_its_bee_down(address, sql, tmp_path, fds, raises):
    def job(job_id, _data):
        note(tmp_path / "pids", job_id, os.getpid())
        os.closerange(*fds)
        if raises:
            raise ValueError

    options = {"processes": 1, "verbose": False, "log_dir": tmp_path, "max_attempts": 1}
    summary = postgres_jobset("closed", job, map(str, range(3)), **address, **options)
    assert summary.complete == 3 * (not raises)
    assert sql("SELECT count(*) FROM wb_failures WHERE kind <> 'error'") == [(0,)]
    assert len({pid for _, pid in noted(tmp_path / "pids")}) == 1


def test_process_titles_say_what_runs_and_never_the_password(address, tmp_path):
    titles = []

    def job(_job_id, _data):
        wait_until((tmp_path / "seen").exists)

    def look():
        def bee():
            found = children().values()
            return found if any("bee 0: a\u00e4" in line for line in found) else None

        titles.extend(line.strip("\0 ") for line in [*wait_until(bee), " ".join(psutil.Process().cmdline())])
        (tmp_path / "seen").touch()

    thread = threading.Thread(target=look)
    thread.start()
    postgres_jobset("titles", job, ["a\u00e4"], **{**address, "password": "s3cret!"}, verbose=False, processes=1)
    thread.join()
    assert sorted(titles) == [
        "workerbee titles bee 0: a\u00e4",
        "workerbee titles keeper",
        "workerbee titles supervisor",
    ]


def _pooled(address):
    try:
        postgres_jobset("pooled", lambda *_: None, ["a"], **address, verbose=False, processes=2)
    except NodeFailed as error:
        return str(error)


def test_called_from_a_worker_of_a_pool(address):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "daemonic processes" in pool.apply(_pooled, (address,))


def test_a_jobset_inside_a_job_of_another(address, sql):
    def job(job_id, _data):
        inner = postgres_jobset(f"in_{job_id}", lambda *_: None, ["x", "y"], **address, verbose=False, processes=2)
        assert inner.ok

    assert postgres_jobset("out", job, ["a", "b"], **address, verbose=False, processes=2).ok
    assert sql("SELECT (SELECT count(*) FROM wb_jobs__in_a) + (SELECT count(*) FROM wb_jobs__in_b)") == [(4,)]


def test_called_from_a_thread(address):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            postgres_jobset("thread", lambda *_: None, ["a", "b"], **address, verbose=False, processes=2)
        )
    )
    thread.start()
    thread.join()
    assert results[0].ok


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_main_guard_is_run_once(script, tmp_path, method):
    process = script(
        """
        import sys
        from workerbee import postgres_jobset

        with open("starts", "a") as file:
            file.write("started\\n")
        print(postgres_jobset("main", lambda *_: None, ["a", "b"], processes=2, start_method=sys.argv[1]))
        """,
        method,
    )
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "2 of 2 jobs complete" in said
    assert (tmp_path / "starts").read_text() == "started\n"


def test_a_stack_is_not_the_one_of_the_bee_before(address, sql, tmp_path):
    log = tmp_path / "log"

    def job(*_):
        note(log, os.getpid())
        segfault() if len(noted(log)) == 1 else os._exit(3)

    postgres_jobset("stacks", job, ["a", "b"], **address, verbose=False, processes=1, max_crashes=1)
    found = sql("SELECT type, stack LIKE '%%segfault%%', stack = '' FROM wb_failures ORDER BY failure")
    assert found == [("SIGSEGV", True, False), ("exit", False, True)]


def test_a_thread_that_a_job_left_does_not_keep_its_bee(address):
    def job(*_):
        threading.Thread(target=threading.Event().wait).start()

    assert postgres_jobset("threads", job, ["a", "b"], **address, verbose=False, processes=1).ok
    assert children() == {}


def test_a_program_without_a_mark_is_killed_with_its_bees_group(address, tmp_path):
    pids = tmp_path / "pids"

    def job(*_):
        import subprocess

        note(pids, subprocess.Popen([shutil.which("sleep"), "1000"], env={}).pid)

    assert postgres_jobset("unmarked", job, ["a"], **address, verbose=False, processes=1).ok
    ((pid,),) = noted(pids)
    wait_until(lambda: not alive(int(pid)))


def test_bees_have_nothing_open_that_is_their_supervisors_or_their_siblings(address, tmp_path):
    log = tmp_path / "log"

    def job(*_):
        links = {int(fd.name): str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
        note(log, links[1], links[2], *(link for fd, link in links.items() if fd > 2))
        wait_until(lambda: len(noted(log)) == 2)

    assert postgres_jobset("fds", job, ["a", "b"], **address, verbose=False, processes=2).ok
    for (out, err, *_), (_, _, *others) in (noted(log), noted(log)[::-1]):
        assert not {out, err} & set(others)
        assert not [link for link in others if "eventpoll" in link or "pidfd" in link]


def test_bees_share_the_callers_memory(address, tmp_path):
    log = tmp_path / "log"
    job = lambda *_: note(log, gc.get_freeze_count())  # noqa: E731
    assert postgres_jobset("frozen", job, ["a"], **address, verbose=False, processes=1).ok
    assert int(noted(log)[0][0]) > 1000


def test_what_a_job_forks_can_be_told_to_end(address):
    def job(*_):
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b".")
            while True:
                signal.pause()
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM

    assert postgres_jobset("told", job, ["a"], **address, verbose=False, processes=1, max_attempts=1).ok


def test_deaths_are_known_where_the_caller_ignores_its_children(address, sql):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        postgres_jobset("ignored", lambda *_: os._exit(3), ["a"], **address, verbose=False, processes=1, max_crashes=1)
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert sql("SELECT kind, type, exit_code FROM wb_failures") == [("crash", "exit", 3)]


@pytest.mark.parametrize("processes", [None, 1])
def test_the_callers_wakeup_comes_back(address, processes):
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable)
    try:
        assert postgres_jobset("wakeup", lambda *_: None, ["a"], **address, verbose=False, processes=processes).ok
    finally:
        assert signal.set_wakeup_fd(before) == writable
        os.close(readable)
        os.close(writable)
