"""One bee in the caller's process: what its death leaves, and what it gives back to the caller."""

from __future__ import annotations

import faulthandler
import signal

import pytest

from workerbee import postgres_jobset

DYING = """
    import ctypes, os, signal
    from pathlib import Path
    from workerbee import postgres_jobset

    def job(job_id, data):
        if job_id == "bad" and not Path("healed").exists():
            {death}

    print(postgres_jobset("dying", job, ["good", "bad", "fine"], lease=3600))
"""


@pytest.mark.parametrize(
    ("death", "status", "kind", "type_", "said"),
    [
        ("ctypes.string_at(0)", -signal.SIGSEGV, "crash", "SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("os.abort()", -signal.SIGABRT, "crash", "SIGABRT", "Fatal Python error: Aborted"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "lost", "lost", "its supervisor died"),
        ("os._exit(0)", 0, "lost", "lost", "its supervisor died"),
    ],
)
def test_the_death_of_the_process_is_charged_and_told(script, sql, tmp_path, death, status, kind, type_, said):
    process = script(DYING.format(death=death))
    output = process.communicate()[0]
    assert process.returncode == status
    assert f"the process died of {type_} in job 'bad'" in output
    assert sql("SELECT job_id, kind, type, message FROM wb_failures") == [("bad", kind, type_, said)]
    ((stack,),) = sql("SELECT stack FROM wb_failures")
    assert ("script0.py" in stack) == (kind == "crash")
    assert sql("SELECT count(*) FROM wb_claims__dying") == [(0,)]
    # The same script again finishes it.
    (tmp_path / "healed").touch()
    again = script(DYING.format(death=death))
    assert "3 of 3 jobs complete" in again.communicate()[0]
    assert again.returncode == 0


def test_exceptions_of_every_sort_are_failures_of_the_job(address, sql):
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    class LocalError(Exception):
        pass

    raised = {
        "mute": MuteError(),
        "interrupt": KeyboardInterrupt("mine"),
        "exit": SystemExit(0),
        "generator": GeneratorExit(),
        "huge": ValueError("x" * 10_000_000),
        "nul": ValueError("a\0b\ud800\x1b[31m"),
        "local": LocalError("é"),
    }

    def job(job_id, _data):
        raise raised[job_id]

    summary = postgres_jobset("sorts", job, raised, **address, verbose=False, max_attempts=1)
    assert (summary.complete, summary.failed) == (0, len(raised))
    found = {
        job_id: (type_, message) for job_id, type_, message in sql("SELECT job_id, type, message FROM wb_failures")
    }
    assert found["mute"][1] == "<its __str__ raised RuntimeError>"
    assert found["interrupt"] == ("KeyboardInterrupt", "mine")
    assert found["exit"] == ("SystemExit", "0")
    assert found["generator"][0] == "GeneratorExit"
    assert found["nul"][1] == "a\\x00b\\ud800\x1b[31m"
    assert found["local"] == (
        f"{__name__}.test_exceptions_of_every_sort_are_failures_of_the_job.<locals>.LocalError",
        "é",
    )
    assert found["huge"][0] == "ValueError"
    assert len(found["huge"][1]) < 5000
    assert all(len(stack) < 20_000 for (stack,) in sql("SELECT stack FROM wb_failures"))


def test_a_coroutine_that_nobody_runs_is_a_failure(address, sql):
    async def work(_job_id, _data):
        pass

    def job(job_id, data):
        return work(job_id, data)

    summary = postgres_jobset("async", job, ["a"], **address, verbose=False, max_attempts=1)
    assert summary.failed == 1
    ((message,),) = sql("SELECT message FROM wb_failures")
    assert message.startswith("job_function returned a coroutine")


def test_the_callers_faulthandler_comes_back(address):
    assert faulthandler.is_enabled()
    postgres_jobset("fault", lambda *_: None, ["a"], **address, verbose=False)
    assert faulthandler.is_enabled()


def test_a_jobset_inside_a_job(address):
    inner = []

    def job(job_id, _data):
        inner.append(postgres_jobset(f"inner_{job_id}", lambda *_: None, ["x", "y"], **address, verbose=False))

    assert postgres_jobset("outer", job, ["a", "b"], **address, verbose=False).ok
    assert [summary.complete for summary in inner] == [2, 2]
