"""Stopping: by a signal, by kill -9; and starting again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.helpers import alive, descendants, wait_until
from workerbee.readable import readable

# Jobs note that they run, and last until the file named like them exists.
SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        with open("running", "a") as file:
            file.write(f"{job_id} {os.getpid()}\\n")
        while not Path("go").exists():
            time.sleep(0.01)

    options = eval(sys.argv[1])
    print(postgres_jobset("stop", job, map(str, range(8)), lease=3600, **options))
"""


@pytest.fixture
def start(script, tmp_path):
    """Start the script with these options, and wait until as many jobs run."""
    running = tmp_path / "running"

    def begin(jobs: int, **options):
        process = script(SCRIPT, repr(options))

        def ready():
            assert process.poll() is None, process.stdout.read()
            return running.exists() and len(running.read_text().splitlines()) >= jobs

        wait_until(ready, "the jobs to run")
        return process

    return begin


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_running_jobs_finish_and_the_rest_goes_back(start, sql, tmp_path, processes, number, status):
    jobs = processes or 1
    process = start(jobs, processes=processes)
    process.send_signal(number)
    # What was claimed runs on, and nothing more is claimed once it has ended.
    wait_until(lambda: noted_stop(process))
    if processes:
        hear_stop(process)
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == status
    assert f"{jobs} of 8 jobs complete, 0 failed, {8 - jobs} left" in said
    assert sql("SELECT state, count(*) FROM wb_jobs__stop GROUP BY 1 ORDER BY 1") == [
        ("COMPLETE", jobs),
        ("PENDING", 8 - jobs),
    ]
    assert_nothing_held(sql)


def assert_nothing_held(sql):
    assert sql("SELECT count(*) FROM wb_claims__stop") == [(0,)]
    assert sql("SELECT count(*) FROM wb_nodes WHERE ended_at IS NULL") == [(0,)]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert sql("SELECT count(*) FROM wb_ranges__stop WHERE attempts > 0") == [(0,)]


@pytest.mark.parametrize("processes", [None, 2])
def test_jobs_that_outlast_the_grace_are_given_back(start, sql, processes):
    process = start(processes or 1, processes=processes, grace=0.2)
    pids = [process.pid, *descendants(process.pid)]
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert sql("SELECT DISTINCT state FROM wb_jobs__stop") == [("PENDING",)]
    assert_nothing_held(sql)
    assert not any(map(alive, pids))


@pytest.mark.parametrize("processes", [None, 2])
def test_a_second_signal_does_not_wait(start, sql, processes):
    process = start(processes or 1, processes=processes, grace=3600)
    process.send_signal(signal.SIGINT)
    # Two that arrive at once would be one.
    wait_until(lambda: noted_stop(process))
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert sql("SELECT DISTINCT state FROM wb_jobs__stop") == [("PENDING",)]
    assert_nothing_held(sql)


def hear_stop(process):
    """Read on until the supervisor, whose handler only notes a signal, says that it has acted on it."""
    heard = b""
    while b"no new claims" not in heard:
        piece = os.read(process.stdout.fileno(), 65536)
        assert piece, heard
        heard += piece


def noted_stop(process):
    """Whether the signal has reached a handler: it is not pending any more."""
    return not pending_signals(process.pid)


def pending_signals(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_killed_supervisor_leaves_no_process_and_loses_nothing(start, script, sql, tmp_path, method):
    process = start(2, processes=2, start_method=method)
    pids = descendants(process.pid)
    bees = [int(line.split()[1]) for line in (tmp_path / "running").read_text().splitlines()]
    assert set(bees) <= set(pids)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(alive, pids)), "its processes to end")
    (tmp_path / "go").touch()
    # The lease is an hour: that these claims are back at once is this machine's own knowledge.
    again = script(SCRIPT, "{'processes': 2}")
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert "8 of 8 jobs complete" in said
    assert sql("SELECT kind, count(*) FROM wb_failures GROUP BY 1") == [("lost", 2)]
    assert sql("SELECT count(*) FROM wb_claims__stop") == [(0,)]


@pytest.mark.parametrize("processes", [None, 2])
def test_a_whole_node_killed_at_once_is_taken_back_at_once(start, script, sql, tmp_path, processes):
    jobs = processes or 1
    process = start(jobs, processes=processes)
    pids = [*descendants(process.pid), process.pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(alive, pids)))
    assert sql("SELECT count(*) FROM wb_claims__stop WHERE lo IS NOT NULL") == [(jobs,)]
    (tmp_path / "go").touch()
    again = script(SCRIPT, f"{{'processes': {processes}}}")
    said = again.communicate()[0]
    assert again.returncode == 0, said
    assert sql("SELECT state, count(*) FROM wb_jobs__stop GROUP BY 1") == [("COMPLETE", 8)]
    assert sql("SELECT kind, count(*) FROM wb_failures GROUP BY 1") == [("lost", jobs)]
    assert all("its node on this machine is dead" in message for (message,) in sql("SELECT message FROM wb_failures"))


def test_a_killed_keeper_is_replaced(start, sql, tmp_path):
    process = start(2, processes=2)
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes") != [(keeper,)], "another keeper")
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "the keeper died (SIGKILL), started again" in said
    assert_nothing_held(sql)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_bees_die_with_their_supervisor_when_its_keeper_cannot_see_to_that(start, sql, tmp_path, method, number):
    process = start(2, processes=2, start_method=method)
    bees = [int(line.split()[1]) for line in (tmp_path / "running").read_text().splitlines()]
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    process.send_signal(signal.SIGSTOP)  # it starts no other keeper
    os.kill(keeper, number)
    process.kill()
    try:
        wait_until(lambda: not any(map(alive, bees)), "the bees to die")
    finally:
        (tmp_path / "go").touch()
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGCONT)


def test_what_jobs_started_is_gone_with_a_killed_supervisor(script, tmp_path):
    process = script("""
        import os, signal, subprocess
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            program = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            child = os.fork()
            if child:
                Path("new").write_text(f"{program.pid} {child}")
                Path("new").rename("pids")
            signal.pause()

        postgres_jobset("started", job, ["a"], processes=1)
    """)
    wait_until((tmp_path / "pids").exists)
    pids = [*map(int, (tmp_path / "pids").read_text().split()), *descendants(process.pid)]
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(alive, pids)), "its processes to end")


def test_all_processes_of_a_node_are_told_to_stop(start, sql, tmp_path):
    # As a batch system does it, which knows only the processes of its slot.
    process = start(2, processes=2)
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    bees = [int(line.split()[1]) for line in (tmp_path / "running").read_text().splitlines()]
    for pid in (*bees, keeper, process.pid):
        os.kill(pid, signal.SIGTERM)
    hear_stop(process)
    wait_until(lambda: not any(map(pending_signals, bees)))
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 143
    assert "keeper" not in said
    assert "2 of 8 jobs complete, 0 failed, 6 left" in said
    assert_nothing_held(sql)


def test_a_bee_that_is_told_to_stop_finishes_its_job_and_another_goes_on(start, sql, tmp_path):
    process = start(1, processes=1)
    bee = int((tmp_path / "running").read_text().split()[1])
    os.kill(bee, signal.SIGTERM)
    wait_until(lambda: not pending_signals(bee))
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "8 of 8 jobs complete" in said
    pids = [int(line.split()[1]) for line in (tmp_path / "running").read_text().splitlines()]
    assert (len(pids), pids.count(bee)) == (8, 1)
    assert_nothing_held(sql)


@pytest.mark.parametrize("processes", [None, 2])
def test_a_signal_that_the_caller_ignores_stays_ignored(script, tmp_path, processes):
    nohup = "    import signal\n    signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = script(nohup + SCRIPT, repr({"processes": processes}))
    wait_until((tmp_path / "running").exists)
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "8 of 8 jobs complete" in said


def test_the_keeper_dies_while_jobs_may_finish(start, sql):
    process = start(2, processes=2, grace=3)
    ((keeper,),) = wait_until(lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid IS NOT NULL"))
    process.terminate()
    hear_stop(process)
    os.kill(keeper, signal.SIGKILL)
    process.communicate()
    assert process.returncode == 143
    assert_nothing_held(sql)


def new_keeper(process, killed):
    """The keeper that a node has started since it lost those `killed`, if there is one."""
    for pid in descendants(process.pid):
        with contextlib.suppress(psutil.Error):
            if pid not in killed and "keeper" in " ".join(psutil.Process(pid).cmdline()):
                return pid
    return None


def test_a_node_whose_keepers_all_die_gives_up(start, sql, parameters, tmp_path):
    process = start(2, processes=2, grace=0)
    ((keeper,),) = sql("SELECT keeper_pid FROM wb_nodes")
    # One that has done its work is no reason to give up, however many of them die.
    os.kill(keeper, signal.SIGKILL)
    killed = [keeper]
    ((keeper,),) = wait_until(
        lambda: sql("SELECT keeper_pid FROM wb_nodes WHERE keeper_pid <> %s AND beat_at > started_at", keeper)
    )
    with psycopg2.connect(**parameters) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE wb_nodes IN EXCLUSIVE MODE")
        os.kill(keeper, signal.SIGKILL)
        killed.append(keeper)
        while (keeper := wait_until(lambda: process.poll() is not None or new_keeper(process, killed))) is not True:
            os.kill(keeper, signal.SIGKILL)
            killed.append(keeper)
        assert len(killed) >= 6
        said = process.communicate()[0]
    connection.close()
    assert process.returncode == 1
    assert "NodeFailed: 5 keepers in a row died before they had done anything; the last: SIGKILL" in said
    (tmp_path / "go").touch()


def test_descriptors_of_any_number_can_be_waited_for():
    reader, writer = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        high = fcntl.fcntl(reader, fcntl.F_DUPFD, 1500)
        assert readable([high], 0) == set()
        os.write(writer, b".")
        assert readable([high], 10) == {high}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in (reader, writer, high):
            os.close(fd)
