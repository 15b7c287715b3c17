"""What happens to a node's processes from outside: killed at each step, stopped, short of processes, out of time."""

from __future__ import annotations

import collections
import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.helpers import alive, descendants, wait_until
from workerbee import postgres_jobset
from workerbee.store import Store


def note(path, *words):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def noted(path):
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def audit(sql):
    """Forbid any change of a job that is COMPLETE or FAILED: whoever tries dies of it."""

    def begin(jobset):
        sql(f"""
            CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'a job that was % is changed', OLD.state; END $$;
            CREATE TRIGGER audit BEFORE UPDATE OR DELETE ON wb__{jobset} FOR EACH ROW
            WHEN (OLD.state <> 'PENDING') EXECUTE FUNCTION forbid()""")

    return begin


# A query, which of them in a bee's life, and whether the bee is killed before or after it.
STEPS = [
    (step, nth, when)
    for step, nth in [
        ("add_bee", 1),
        ("settle_and_claim", 1),
        ("settle_and_claim", 3),
        ("hold_claim", 1),
        ("charge_job", 1),
        ("empty_claim", 1),
        ("commit", 1),
    ]
    for when in ("before", "after")
]


def test_a_bee_killed_at_any_step_costs_no_job_twice(address, sql, tmp_path, monkeypatch):
    log, taken = tmp_path / "log", tmp_path / "taken"
    taken.mkdir()
    life = {}

    def pass_by(store, step, when):
        if " bee " not in store.connection.info.dsn_parameters["application_name"]:
            return
        if life.get("pid") != os.getpid():
            life.clear()
            life.update(pid=os.getpid(), steps=collections.Counter(), fate=take())
        if when == "before":
            life["steps"][step] += 1
        if life["fate"] == (step, life["steps"][step], when):
            note(log, "killed", *life["fate"])
            os.kill(os.getpid(), signal.SIGKILL)

    def take():
        for fate in STEPS:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(taken / " ".join(map(str, fate)), os.O_CREAT | os.O_EXCL))
                return fate
        return None

    def run(store, name, **values):
        pass_by(store, name, "before")
        rows = original_run(store, name, **values)
        pass_by(store, name, "after")
        return rows

    original_run = Store.run
    monkeypatch.setattr(Store, "run", run)

    def job(job_id, _data):
        note(log, "begin", job_id)
        if job_id.startswith("raises"):
            raise ValueError
        note(log, "end", job_id)

    ids = [f"fine{n}" for n in range(120)] + [f"raises{n}" for n in range(60)]
    summary = postgres_jobset("steps", job, ids, **address, verbose=False, processes=2, max_attempts=2, max_crashes=2)
    said = collections.Counter(noted(log))
    assert {fate for fate in said if fate[0] == "killed"} == {
        ("killed", step, str(nth), when) for step, nth, when in STEPS
    }
    assert (summary.complete, summary.failed) == (120, 60)
    # What returned is never run again; what raised is charged once for each run, with a crash at the worst.
    assert all(said["begin", f"fine{n}"] == said["end", f"fine{n}"] == 1 for n in range(120))
    charged = dict(sql("SELECT job_id, count(*) FROM wb_failures GROUP BY 1"))
    assert charged == {f"raises{n}": said["begin", f"raises{n}"] for n in range(60)}
    assert sql("SELECT count(*) FROM wb_failures WHERE kind <> 'error'") <= [(len(STEPS),)]
    assert sql("SELECT count(*) FROM wb__steps WHERE (errors = 2 OR crashes = 2) <> (state = 'FAILED')") == [(0,)]
    assert sql("SELECT count(*) FROM wb_claims__steps") == [(0,)]


# Jobs note who runs them, and last until a file named like their process, or "go", exists.
SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(fd, f"{job_id} {os.getpid()}\\n".encode())
        while not Path("go").exists() and not Path(str(os.getpid())).exists():
            time.sleep(0.01)
        os.write(fd, f"{job_id} {os.getpid()} end\\n".encode())
        os.close(fd)

    print(postgres_jobset("node", job, **eval(sys.argv[1])))
"""


def options(**given):
    return repr({"job_ids": ["a"], "processes": 1, "lease": 1, **given})


def pass_time(sql, seconds):
    """Let the database's clock go on: what a lease is measured by."""
    ((end,),) = sql("SELECT clock_timestamp() + make_interval(secs => %s)", seconds)
    wait_until(lambda: sql("SELECT clock_timestamp() > %s", end) == [(True,)])


def test_bees_go_on_while_their_supervisor_is_stopped(script, sql, tmp_path):
    log = tmp_path / "log"
    slept = script(SCRIPT, options(job_ids=list("abcdefgh"), processes=2))
    wait_until(lambda: len(noted(log)) == 2)
    slept.send_signal(signal.SIGSTOP)
    other = script(SCRIPT, options())
    wait_until(lambda: len(noted(log)) == 3)
    pass_time(sql, 2.5)
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    # The stopped node's bees are free to work, the other one's is not.
    for _, pid in noted(log)[:2]:
        (tmp_path / pid).touch()
    wait_until(lambda: sql("SELECT count(*) FROM wb__node WHERE state = 'COMPLETE'") == [(7,)])
    slept.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    for process in (slept, other):
        said = process.communicate()[0]
        assert process.returncode == 0, said
    assert sorted(line[0] for line in noted(log) if len(line) == 2) == list("abcdefgh")
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]


@pytest.mark.parametrize("bee_is_stopped", [False, True])
def test_the_late_word_of_a_bee_whose_keeper_was_stopped(script, sql, tmp_path, audit, bee_is_stopped):
    log = tmp_path / "log"
    slept = script(SCRIPT, options())
    ((_, late),) = wait_until(lambda: noted(log))
    audit("node")
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    stopped = [slept.pid, keeper, *([int(late)] if bee_is_stopped else [])]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    other = script(SCRIPT, options())
    wait_until(lambda: len(noted(log)) == 2, "the other node to take the job")
    (tmp_path / late).touch()
    if not bee_is_stopped:
        # It says that the job is done, which is the other one's to say.
        wait_until(lambda: ("a", late, "end") in noted(log))
        wait_until(lambda: not alive(int(late)), "the late bee to find nothing to do")
        assert sql("SELECT state FROM wb_jobs__node") == [("CLAIMED",)]
    (tmp_path / "go").touch()
    said = other.communicate()[0]
    assert other.returncode == 0, said
    done = "SELECT j.state, j.losses, j.finished_at, n.pid FROM wb__node j JOIN wb_nodes n USING (node)"
    ((state, losses, _, node),) = before = sql(done)
    assert (state, losses, node) == ("COMPLETE", 1, other.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    said = slept.communicate()[0]
    assert slept.returncode == 0, said
    assert "1 of 1 jobs complete, 0 failed; here 0 completed" in said
    assert sql(done) == before
    assert sql("SELECT kind, count(*) FROM wb_failures GROUP BY 1") == [("lost", 1)]
    assert sql("SELECT count(*) FROM wb_claims__node") == [(0,)]


def test_a_bee_that_will_not_die_with_its_supervisor_is_killed_by_the_keeper(script, tmp_path):
    process = script("""
        import ctypes, os, signal
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.environ.clear()
            Path("new").write_text(str(os.getpid()))
            Path("new").rename("pid")
            while True:
                signal.pause()

        postgres_jobset("stays", job, ["a"], processes=1)
    """)
    wait_until((tmp_path / "pid").exists)
    pids = [int((tmp_path / "pid").read_text()), *descendants(process.pid)]
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(alive, pids)), "its processes to end")


CLOCK = r"""
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <sys/time.h>
    #include <time.h>
    #include <unistd.h>
    static long back(void) { return access("jump", F_OK) ? 0 : 86400; }
    int clock_gettime(clockid_t id, struct timespec *t) {
        int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
        int result = next(id, t);
        if (id == CLOCK_REALTIME) t->tv_sec -= back();
        return result;
    }
    int gettimeofday(struct timeval *t, void *zone) {
        int (*next)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
        int result = next(t, zone);
        t->tv_sec -= back();
        return result;
    }
    time_t time(time_t *t) {
        struct timeval now;
        gettimeofday(&now, 0);
        if (t) *t = now.tv_sec;
        return now.tv_sec;
    }
"""


@pytest.mark.parametrize("processes", [None, 2])
def test_the_clock_is_set_back_by_a_day(script, sql, tmp_path, processes):
    """In all processes of the node: in C where there is a compiler, else in Python."""
    prelude, environment = "", {}
    if sys.platform == "linux" and shutil.which("cc"):
        library = tmp_path / "clock.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"], input=CLOCK, text=True, check=True
        )
        environment = {"LD_PRELOAD": str(library)}
    else:
        prelude = "import time, os; now = time.time; time.time = lambda: now() - 86400 * os.path.exists('jump')\n"
    process = script(
        prelude
        + """
import sys, time
from pathlib import Path
from workerbee import postgres_jobset

def job(job_id, data):
    with open("times", "a") as file:
        file.write(f"{time.time():.0f}\\n")
    while not Path("go").exists():
        time.sleep(0.01)

print(postgres_jobset("clock", job, map(str, range(40)), lease=1, processes=eval(sys.argv[1])))
""",
        repr(processes),
        **environment,
    )
    times = tmp_path / "times"
    wait_until(lambda: times.exists() and len(times.read_text().split()) == (processes or 1))
    pass_time(sql, 1.5)
    (tmp_path / "jump").touch()
    for _ in range(3):
        # Its heart beats on, or another node would take its jobs.
        ((before,),) = sql("SELECT beat_at FROM wb_nodes")
        wait_until(lambda before=before: sql("SELECT beat_at > %s FROM wb_nodes", before) == [(True,)])
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "40 of 40 jobs complete" in said
    assert 0 <= float(re.search(r"completed in ([-\d.]+) s", said)[1]) < 3600
    seen = [int(line) for line in times.read_text().split()]
    assert len(seen) == 40
    assert max(seen) - min(seen) > 80_000
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT min(seconds) >= 0, max(seconds) < 3600 FROM wb__clock") == [(True, True)]
    assert sql("SELECT now() - max(finished_at) < interval '1 hour' FROM wb__clock") == [(True,)]


def test_a_terminal_that_is_closed(script, sql, tmp_path):
    master, slave = pty.openpty()
    process = script(
        """
    import os, sys

    os.setsid()
    terminal = os.open(sys.argv[2], os.O_RDWR)  # it becomes the controlling one
    for fd in range(3):
        os.dup2(terminal, fd)
    os.close(terminal)
        """
        + SCRIPT,
        options(job_ids=["a", "b", "c", "d"], processes=2),
        os.ttyname(slave),
        TERM="xterm",
    )
    os.close(slave)
    wait_until(lambda: len(noted(tmp_path / "log")) == 2)
    pids = descendants(process.pid)
    os.close(master)
    wait_until(lambda: sql("SELECT count(*) FROM wb_nodes WHERE ended_at IS NULL") == [(1,)])
    wait_until(lambda: not _pending(process.pid, signal.SIGHUP))
    (tmp_path / "go").touch()
    assert process.wait() == 129
    assert not any(map(alive, pids))
    # The running ones were let finish; the signal may have come while more were claimed.
    ((complete,),) = sql("SELECT count(*) FROM wb__node WHERE state = 'COMPLETE'")
    assert complete >= 2
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT count(*) FROM wb_claims__node") == [(0,)]
    assert sql("SELECT count(*) FROM wb_nodes WHERE ended_at IS NULL") == [(0,)]


def _pending(pid, number):
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
        masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_a_keeper_that_stands_still_is_replaced(script, sql, tmp_path):
    process = script(
        """
        import time
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            while not Path("go").exists():
                time.sleep(0.01)

        print(postgres_jobset("still", job, ["a"], processes=1, lease=4))
        """
    )
    wait_until(lambda: sql("SELECT to_regclass('wb_nodes') IS NOT NULL") == [(True,)])
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    os.kill(keeper, signal.SIGSTOP)
    wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes") != [(keeper,)], "another keeper")
    assert not alive(keeper)
    (tmp_path / "go").touch()
    assert "1 of 1 jobs complete" in process.communicate()[0]
    assert process.returncode == 0
