"""`workerbee try`: one job in the foreground, and not a trace of it in the database."""

from __future__ import annotations

import re
import signal

import pytest

from tests.command import WORKERBEE
from tests.helpers import wait_until
from tests.test_display import Terminal

IDS = '{"job_id": "a b", "data": {"n": 1}}\n{"job_id": "raise-1"}\n{"job_id": "segv-1"}\n{"job_id": "exit-1"}\n'
TABLES = ("wb__tried", "wb_ranges__tried", "wb_claims__tried", "wb_nodes", "wb_failures", "wb_jobsets")


@pytest.fixture
def jobset(command, folder, sql):
    """A jobset of some jobs, each of which has failed; what its tables say now."""
    (folder / "bad.py").write_text("def work(job_id, data):\n    raise OSError(job_id)\n")
    options = ["--max-attempts", "1", "-q"]
    assert command("run", "bad:work", "tried", "--jobs", "-", *options, input=IDS)[0] == 1
    return lambda: [sorted(map(str, sql(f"SELECT * FROM {table}"))) for table in TABLES]


def test_outcomes(command, jobset, folder):
    before = jobset()
    code, out, err = command("try", "myjobs:work", "tried", "a b")
    assert (code, out) == (0, "a b has {'n': 1} and [7]\n")
    assert re.fullmatch(
        r"workerbee: job 'a b', FAILED after 1 failed attempts; its data: {'n': 1}\n"
        r"workerbee: job 'a b' is done after \d\.\d s; this is not recorded\n",
        err,
    )
    code, out, err = command("try", "myjobs.py:work", "tried", "raise-1")
    assert code == 1
    lines = err.splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[2].startswith(f'  File "{folder / "myjobs.py"}", line ')
    assert lines[-2] == "ValueError: no way"
    assert lines[-1].startswith("workerbee: job 'raise-1' failed after 0.")
    code, out, err = command("try", "myjobs:work", "tried", "segv-1")
    assert code == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in err
    assert "in work\n" in err
    code, out, err = command("try", "--exec", "sh -c 'echo {n}; exit 3'", "tried", "a b")
    assert (code, out) == (1, "1\n")
    assert "CommandFailed: exit code 3\n" in err
    assert jobset() == before


def test_what_is_not_there(command, jobset):
    assert jobset()
    assert command("try", "myjobs:work", "nope", "a")[::2] == (
        3,
        "workerbee: there is no jobset 'nope' in this database\n",
    )
    assert command("try", "myjobs:work", "tried", "a")[::2] == (3, "workerbee: jobset 'tried' has no job 'a'\n")
    assert command("try", "myjobs:STATE", "tried", "a b")[0] == 2
    code, _, err = command("try", "myjobs:work", "tried")
    assert (code, err) == (
        2,
        "workerbee: give MODULE:FUNCTION, or --exec COMMAND, and a JOBSET and a JOB_ID (see workerbee try --help)\n",
    )


def test_an_empty_database(command):
    assert command("try", "myjobs:work", "nope", "a")[::2] == (
        3,
        "workerbee: there is no jobset 'nope' in this database\n",
    )


def test_post_mortem(jobset, environ, folder):
    assert jobset()
    run = Terminal(
        [WORKERBEE, "try", "myjobs:work", "tried", "raise-1", "--pdb"],
        {"cwd": folder, "env": {**environ, "TERM": "xterm-256color"}},
        rows=24,
        stderr=None,
    )
    try:
        wait_until(lambda: any(row.startswith("(Pdb)") for row in run.look()), "the debugger")
        run.type("p kind, job_id\n")
        wait_until(lambda: "('raise', 'raise-1')" in run.look(), "its answer")
        run.type("q\n")
        run.everything()
        assert run.process.returncode == 1
    finally:
        run.close()
