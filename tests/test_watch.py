"""`workerbee watch`, on a terminal and elsewhere; and the terminal afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.command import WORKERBEE
from tests.helpers import wait_until
from tests.test_display import Terminal
from workerbee.command.page import sparks

ENTER, LEAVE, SHOW_CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


@pytest.fixture
def jobset(start, sql):
    """A node at work on a jobset: some jobs have failed, one runs until a file `go` exists."""
    process = start("run", "myjobs:work", "watched", "--jobs", "-", "--processes", "2", stdin=subprocess.PIPE)
    process.stdin.write("\n".join(["wait-1", "segv-1", "raise-\x1b[31m1", *map(str, range(40))]))
    process.stdin.close()
    process.stdin = None
    ready = "SELECT count(*) FILTER (WHERE state = 'FAILED') = 2 AND count(*) FILTER (WHERE state = 'CLAIMED') = 1"
    wait_until(lambda: sql("SELECT to_regclass('wb_jobs__watched') IS NOT NULL") == [(True,)])
    wait_until(lambda: sql(f"{ready} FROM wb_jobs__watched") == [(True,)])
    return process


@pytest.fixture
def watch(environ, folder):
    """Watch on a terminal."""
    started = []

    def run(*arguments, rows=24, columns=80, **more):
        environment = {**environ, "TERM": "xterm-256color", **more}
        surroundings = {"cwd": folder, "env": environment}
        run = Terminal([WORKERBEE, "watch", *arguments], surroundings, rows=rows, stderr=None, columns=columns)
        run.before = termios.tcgetattr(run._fd)
        started.append(run)
        return run

    yield run
    for run in started:
        run.close()


def shows(run, pattern):
    wait_until(lambda: re.search(pattern, "\n".join(run.look()), re.MULTILINE), pattern)


def check_restored(run):
    assert run.raw.count(ENTER) == run.raw.count(LEAVE) == 1
    assert run.raw.index(ENTER) < run.raw.rindex(LEAVE)
    assert SHOW_CURSOR in run.raw[run.raw.index(ENTER) :]
    assert termios.tcgetattr(run._fd) == run.before


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50), (30, 6)])
def test_page_and_keys(jobset, watch, folder, columns, rows):
    run = watch("watched", "--every", "0.2", columns=columns, rows=rows)
    shows(run, r"^jobset 'watched', 1 node$")
    shows(run, r"^━+.* 97 %")
    shows(run, r"^40 of 43 complete, 2 f")
    shows(run, r"^q quit +f failures +n no")
    if columns > 30:
        shows(run, r"^  wait-1 +\d.* s  ")
        shows(run, r" 3 x crash: SIGSEGV, e\.g\. job 'segv-1'$")
        run.type("f")
        shows(run, r"^  \d\d:\d\d:\d\d 'raise-\\x1b\[31m1' FAILED: ValueError: no way$")
        shows(run, r"f back")
        run.type("n")
        shows(run, r"^Bees$")
        shows(run, r"n back")
        run.type("n")
        shows(run, r"^Running longest$")
    # All on one page, no line wrapped, nothing scrolled, and drawn over what was there.
    assert not run.screen.history.top
    assert max(map(len, run.screen.display)) == columns
    run.resize(60, 20)
    run.screen.reset()
    shows(run, r"^q quit  f failures  n nodes$")
    (folder / "go").touch()
    shows(run, r" 100 % +ended")
    shows(run, r"^41 of 43 complete, 2 failed, 0 claimed, 0 pending$")
    run.type("q")
    rows = run.everything()
    assert run.process.returncode == 1
    check_restored(run)
    assert b"\x1b[2J" not in run.raw
    assert jobset.wait(100) == 1
    assert "100 % done: 41 complete, 2 failed, 0 claimed, 0 pending" in rows


@pytest.mark.parametrize(
    ("how", "code"),
    [("\x03", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), ("drop", 3), ("q", 1)],
)
def test_the_terminal_is_restored(jobset, watch, sql, how, code):
    assert jobset.poll() is None
    run = watch("watched", "--every", "0.2")
    shows(run, r"^q quit")
    # Ctrl-Z would stop us with the terminal as it is.
    ignored = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{run.process.pid}/status").read_text(), re.MULTILINE)
    assert int(ignored[1], 16) >> (signal.SIGTSTP - 1) & 1
    run.type("f")
    shows(run, r"f back")
    if how == "drop":
        sql("DELETE FROM wb_jobsets WHERE jobset_id = 'watched'")
    elif isinstance(how, str):
        run.type(how)
    else:
        run.process.send_signal(how)
    rows = run.everything()
    assert run.process.returncode == code
    check_restored(run)
    if how == "drop":
        assert "workerbee: there is no jobset 'watched' in this database" in rows


def test_a_terminal_that_is_not_there(command):
    code, out, err = command("watch", "nope")
    assert (code, out, err) == (3, "", "workerbee: there is no jobset 'nope' in this database\n")


def test_without_a_terminal(jobset, start, folder):
    process = start("watch", "watched", "--every", "0.2")
    lines = [process.stdout.readline() for _ in range(7)]
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d job '(segv-1|raise-.*1)' attempt \d", line) for line in lines[:6]
    )
    assert re.fullmatch(r"97 %: 40 of 43 complete, 2 failed, 1 claimed, 1 node, .*\n", lines[6])
    (folder / "go").touch()
    out, err = process.communicate(timeout=100)
    assert out.splitlines()[-1].startswith("100 %: 41 of 43 complete, 2 failed, 0 claimed, ")
    assert out.splitlines()[-1].endswith(", ended")
    assert (process.returncode, err) == (1, "")
    assert jobset.wait(100) == 1


def test_no_color_and_no_utf8(jobset, watch):
    assert jobset.poll() is None
    run = watch("watched", NO_COLOR="1", PYTHONIOENCODING="ascii")
    shows(run, r"^q quit")
    assert not re.search(rb"\x1b\[[\d;]*3[0-7]m", run.raw)
    run.raw.decode("ascii")


def test_stdin_that_is_no_terminal(jobset, environ, folder):
    assert jobset.poll() is None
    command = ["/bin/sh", "-c", f"{WORKERBEE} watch watched < /dev/null"]
    run = Terminal(command, {"cwd": folder, "env": {**environ, "TERM": "xterm-256color"}}, rows=24, stderr=None)
    shows(run, r"^q quit")
    os.killpg(run.process.pid, signal.SIGINT)
    run.everything()
    assert LEAVE in run.raw
    run.close()


def test_sparks():
    assert sparks([0, 1, 2, 7], 10, plain=False) == "▁▂▃█"
    assert sparks([0, 1, 2, 7], 2, plain=True) == "-#"
    assert sparks([0, 0], 5, plain=False) == "▁▁"
    assert sparks([], 5, plain=False) == sparks([1], 0, plain=False) == ""
