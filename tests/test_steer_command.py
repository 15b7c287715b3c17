"""`workerbee list`, `status`, `failures`, and what steers a jobset, as commands."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess

import pytest

from tests.command import WORKERBEE
from tests.helpers import wait_until
from tests.test_display import Terminal

HOSTILE = "raise-\x1b[31m\x07\u202e\n"


@pytest.fixture
def jobset(command):
    """A jobset that has ended: 4 COMPLETE, 3 FAILED."""
    ids = [{"job_id": name} for name in ("a", "b", "c", "d", "segv-1", "raise-1")]
    ids.append({"job_id": HOSTILE, "data": {"n": 1}})
    lines = "\n".join(map(json.dumps, ids))
    options = ["--max-crashes", "2", "--max-attempts", "1", "-q", "--log-dir", "logs"]
    assert command("run", "myjobs:work", "done", "--jobs", "-", *options, input=lines)[0] == 1


@pytest.fixture
def running(start, jobset):  # noqa: ARG001
    """A node at work on it, with a job that runs until a file `go` exists."""
    process = start("run", "myjobs:work", "live", "--jobs", "-", "--processes", "2", stdin=subprocess.PIPE)
    process.stdin.write("wait-1\nb\n")
    process.stdin.close()
    process.stdin = None
    for line in process.stdout:
        if line.startswith("wait-1 has"):
            break
    return process


def ok(found):
    code, out, err = found
    assert (code, err) == (0, "")
    return out


def objects(found):
    return [json.loads(line) for line in ok(found).splitlines()]


def test_list(command, running):
    assert running.poll() is None
    wait_until(lambda: objects(command("list", "--json"))[0]["counts"]["complete"] == 1)
    head, live, done = ok(command("list")).splitlines()
    assert head.split()[:6] == ["JOBSET", "TOTAL", "COMPLETE", "FAILED", "CLAIMED", "PENDING"]
    assert head.split()[6:] == ["NODES", "RATE", "LEFT", "ACTIVE"]
    assert re.fullmatch(r"live +2 +1 +0 +1 +0 +1 +\S+ +\S+ +\d+ s", live)
    assert re.fullmatch(r"done +7 +4 +3 +0 +0 +0 +- +ended +\d+ s", done)
    first, second = objects(command("list", "--json"))
    assert (first["jobset_id"], first["ended"], first["nodes_alive"]) == ("live", False, 1)
    assert second["counts"] == {"total": 7, "pending": 0, "claimed": 0, "complete": 4, "failed": 3}
    assert second["ended"]


def test_nothing_to_list(command):
    assert command("list") == (0, "", "no jobsets\n")


def test_status(command, running):
    assert running.poll() is None
    lines = ok(command("status", "done")).splitlines()
    assert lines[:3] == [
        "jobset 'done', 7 jobs",
        "100 % done: 4 complete, 3 failed, 0 claimed, 0 pending",
        "0 jobs/s lately; it has ended",
    ]
    assert "       2 x crash: SIGSEGV, e.g. job 'segv-1'" in lines
    assert re.search(r"^  \S+ +\d+ +\d+ +\d+ +4 +3 +- .* ended$", "\n".join(lines), re.MULTILINE)
    wait_until(lambda: "wait-1" in ok(command("status", "live")))
    (found,) = objects(command("status", "live", "--json"))
    assert [bee["job_id"] for bee in found["bees"] if bee["job_id"]] == ["wait-1"]
    assert found["durations"]["sampled"] >= 0
    assert "Bees:" in ok(command("status", "live", "--bees"))


@pytest.mark.usefixtures("jobset")
def test_failures(command):
    lines = ok(command("failures", "done")).splitlines()
    assert len(lines) == 4
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d job '(raise|segv)-.*' attempt [12]", line) for line in lines)
    assert sum(", FAILED: " in line for line in lines) == 3
    assert sum("job 'raise-\\x1b[31m\\x07\\u202e\\n' attempt 1" in line for line in lines) == 1
    full = ok(command("failures", "done", "--job", "segv-1"))
    assert full.count("job 'segv-1', attempt ") == 2
    assert "attempt 2, after which it is FAILED\n  crash: SIGSEGV\n" in full
    assert "  log:\n    segv-1 has {} and [7]\n" in full
    assert "    Fatal Python error: Segmentation fault\n" in full
    everything = ok(command("failures", "done", "--full"))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", everything)
    assert len(objects(command("failures", "done", "--kind", "crash", "--json"))) == 2
    assert {one["job_id"] for one in objects(command("failures", "done", "--match", "no way", "--json"))} == {
        "raise-1",
        HOSTILE,
    }
    groups = objects(command("failures", "done", "--group", "--json"))
    assert sorted((one["count"], one["kind"]) for one in groups) == [(2, "crash"), (2, "error")]
    head, *rows = ok(command("failures", "done", "--group")).splitlines()
    assert head.split() == ["COUNT", "KIND", "WHY", "E.G.", "JOB"]
    assert re.fullmatch(r" +2  crash  SIGSEGV +segv-1", min(rows))
    assert command("failures", "done", "--job", "nope")[::2] == (3, "workerbee: jobset 'done' has no job 'nope'\n")
    assert command("failures", "done", "--group", "--kind", "crash")[0] == 2
    assert command("failures", "done", "--kind", "bad")[0] == 2


@pytest.mark.usefixtures("jobset")
def test_eighty_columns(command, environ, folder):
    name = "a_jobset_with_a_very_long_name_of_fifty_two_letters_"
    ids = "\n".join("raise-" + "/deep" * 40 + str(n) for n in range(3))
    assert command("run", "myjobs:work", name, "--jobs", "-", "--max-attempts", "1", "-q", input=ids)[0] == 1
    for arguments in (["list"], ["status", name], ["failures", name], ["failures", name, "--group"]):
        run = Terminal(
            [WORKERBEE, *arguments], {"cwd": folder, "env": {**environ, "TERM": "xterm"}}, rows=60, stderr=None
        )
        try:
            rows = run.everything()
        finally:
            run.close()
        assert run.process.returncode == 0
        lines = run.raw.decode().splitlines()
        wide = [line for line in lines if len(line) > 80]
        # A moment, a job's id and a cause need more than that, if the id is long.
        assert all(line.startswith("20") for line in wide), rows


def test_retry_reset_add(command, running, folder):
    assert ok(command("retry", "done", "--match", "nothing like it")) == "0 jobs pending again in jobset 'done'\n"
    assert ok(command("retry", "done", "--kind", "crash")) == "1 job pending again in jobset 'done'\n"
    assert ok(command("retry", "done", "raise-1")) == "1 job pending again in jobset 'done'\n"
    assert command("retry", "done", "nope")[0] == 3
    assert ok(command("reset", "done", "a", "b", "--yes")) == "2 jobs pending again in jobset 'done'\n"
    assert ok(command("reset", "live", "wait-1", "-y")) == (
        "0 jobs pending again in jobset 'live'; 1 job claimed, and left alone\n"
    )
    assert ok(command("add", "done", "--jobs", "-", input="a\nx\ny\n")) == (
        "2 jobs added to jobset 'done'; 1 job skipped, there already\n"
    )
    for wrong in (["reset", "done"], ["reset", "done", "a", "--all"], ["reset", "done", "a"], ["add", "done"]):
        assert command(*wrong)[0] == 2
    (found,) = objects(command("status", "done", "--json"))
    assert found["counts"] == {"total": 9, "pending": 6, "claimed": 0, "complete": 2, "failed": 1}
    (folder / "go").touch()
    assert running.wait(100) == 0


def test_stop_and_drop(command, running, sql):
    code, _, err = command("drop", "live", "--yes")
    assert (code, err) == (6, "workerbee: 1 node alive in jobset 'live': workerbee stop live, or --force\n")
    assert command("stop", "live", "--node", "999999")[0] == 2
    assert ok(command("stop", "live", "--now")) == "1 node of jobset 'live' told to end\n"
    assert running.wait(100) == 1
    assert command("drop", "live")[::2] == (
        2,
        "workerbee: this asks first, and there is nobody to answer: give --yes (see workerbee drop --help)\n",
    )
    assert ok(command("drop", "live", "-y")) == "jobset 'live' deleted\n"
    assert sql("SELECT jobset_id FROM wb_jobsets") == [("done",)]
    assert command("stop", "live")[0] == 3


@pytest.mark.usefixtures("jobset")
@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0), ("\x03", 130)])
def test_a_question(environ, folder, sql, answer, code):
    run = Terminal(
        [WORKERBEE, "drop", "done"], {"cwd": folder, "env": {**environ, "TERM": "xterm"}}, rows=24, stderr=None
    )
    try:
        question = "Delete jobset 'done' with its 7 jobs, 4 of them COMPLETE? [y/N]:"
        wait_until(lambda: question in " ".join(run.look()))
        run.type(answer)
        rows = run.everything()
    finally:
        run.close()
    assert run.process.returncode == code
    assert ("workerbee: nothing was done" in rows) == (code != 0)
    assert len(sql("SELECT jobset_id FROM wb_jobsets")) == (code != 0)


@pytest.mark.usefixtures("jobset")
def test_export(command, folder):
    rows = list(csv.DictReader(io.StringIO(ok(command("export", "done")))))
    assert {row["job_id"]: row["state"] for row in rows}["segv-1"] == "FAILED"
    assert len(objects(command("export", "done", "--format", "jsonl"))) == 7
    code, out, err = command("export", "done", "-o", "out.jsonl")
    assert (code, out, err) == (0, "", "7 jobs of jobset 'done' written to out.jsonl\n")
    assert len((folder / "out.jsonl").read_text().splitlines()) == 7
    code, out, err = command("export", "done", "-o", "no/out.csv")
    assert (code, out, err.count("\n"), "No such file or directory" in err) == (1, "", 1, True)
    assert command("export", "done", "-o", "out.txt")[0] == 2


def test_a_reader_that_has_seen_enough(command, start):
    ids = "".join(f"{n:0200}\n" for n in range(5000))
    assert command("run", "myjobs:Holder.work", "many", "--jobs", "-", "-q", input=ids)[0] == 0
    for arguments in (["export", "many"], ["export", "many", "--format", "jsonl"]):
        process = start(*arguments)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(100) == 141
        assert process.stderr.read() == ""
        process.stdout = None


@pytest.mark.usefixtures("jobset")
def test_plot(command, folder):
    code, out, err = command("plot", "done", "-o", "out.svg")
    assert (code, out, err) == (0, "", "jobset 'done' drawn to out.svg\n")
    assert "</svg>" in (folder / "out.svg").read_text()
    assert command("plot", "done", "-o", "out.txt")[0] == 2
