"""The installed `workerbee` command, as a person uses it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from tests.command import JOBS
from tests.helpers import alive, wait_until
from workerbee.command.run import OPTIONS, call_options


def states(sql, jobset_id):
    return dict(sql(f"SELECT job_id, state FROM wb_jobs__{jobset_id}"))


def test_version_and_help(command):
    assert command("--version") == (0, "workerbee 0.1.0\n", "")
    code, out, err = command("--help")
    assert (code, err) == (0, "")
    for words in ("run", "Exit codes:", "143", "_WORKERBEE_COMPLETE=bash_source"):
        assert words in out
    assert command("run", "-h")[1].startswith(
        "Usage: workerbee run [OPTIONS] MODULE:FUNCTION|SCRIPT.py:FUNCTION JOBSET"
    )
    for help in (out, command("run", "--help")[1]):
        assert max(map(len, help.splitlines())) <= 80
    code, out, err = command()
    assert (code, err) == (2, "")
    assert out.startswith("Usage: workerbee")
    module = subprocess.run(
        [sys.executable, "-m", "workerbee", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == "workerbee 0.1.0\n"


def test_every_keyword_of_the_call_is_an_option(command):
    assert call_options().keys() == OPTIONS.keys()
    help = command("run", "--help")[1]
    for name in OPTIONS:
        assert f"--{name.replace('_', '-')} " in help


def test_little_is_imported_for_little():
    code = """
        import sys
        import workerbee
        heavy = {"rich", "click", "psycopg2", "psutil", "matplotlib", "cloudpickle", "numpy", "multiprocessing"}
        print(sorted(heavy & sys.modules.keys()))
        import workerbee.command.main
        print(sorted(heavy & sys.modules.keys()))
        from workerbee import postgres_jobset
        print(sorted({"rich", "click", "matplotlib", "numpy"} - {"click"} & sys.modules.keys()))
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n['click']\n[]\n"


@pytest.mark.parametrize("bad", [b"--host\n", b"\xff\n"])
def test_ids_that_are_none(command, folder, bad):
    (folder / "ids").write_bytes(b"good\n" + bad)
    code, _, err = command("run", "myjobs:work", "bad", "--jobs", "ids")
    assert (code, err == "") == ((2, False) if bad[0] == 255 else (0, True))
    assert (bad[0] != 255) or err.startswith("workerbee: ids, line 2: no text in UTF-8; ")


def test_run_a_modules_function(command, folder, sql):
    (folder / "ids").write_text("a\r\n\nb c\nsegv-1\nraise-1\n")
    code, out, err = command("run", "myjobs:work", "things", "--jobs", "ids", "--max-crashes", "2", "--processes", "2")
    assert (code, err) == (1, "")
    assert states(sql, "things") == {"a": "COMPLETE", "b c": "COMPLETE", "segv-1": "FAILED", "raise-1": "FAILED"}
    assert "a has {} and [7]\n" in out
    assert "died of SIGSEGV in job 'segv-1' (2 of 2), job FAILED" in out
    # The jobset is there now, and over.
    code, out, err = command("run", "myjobs:Holder.work", "things", "--quiet")
    assert (code, out, err) == (1, "", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_run_a_scripts_function(command, folder, method):
    (folder / "sub").mkdir()
    # A name that is taken.
    (folder / "sub" / "os.py").write_text(JOBS + "\nimport beside\n")
    (folder / "sub" / "beside.py").write_text("")
    options = ["--start-method", method, "--processes", "1", "-q"]
    code, out, err = command("run", "sub/os.py:work", "things", "--jobs", "-", *options, input="a\n")
    assert (code, out, err) == (0, "a has {} and [7]\n", "")
    code, out, err = command("run", "myjobs:work", "others", "--jobs", "-", *options, input="a\n")
    assert (code, out, err) == (0, "a has {} and [7]\n", "")


def test_json_lines(command, sql):
    lines = '{"job_id": "a", "data": {"n": [1, null]}}\n\n{"job_id": "{b}"}\n'
    code, out, _ = command("run", "myjobs:work", "things", "--jobs", "-", "-q", input=lines)
    assert code == 0
    assert sorted(out.splitlines()) == ["a has {'n': [1, None]} and [7]", "{b} has {} and [7]"]
    for wrong in ('{"job_id": "c", "dta": {}}', "{", '{"data": {}}', '"c"', "c"):
        code, _, err = command("run", "myjobs:work", "wrong", "--jobs", "-", "-q", input=lines + wrong + "\n")
        assert code == 2
        assert err.startswith("workerbee: stdin, line 4: a JSON object with ")
        assert err.count("\n") == 1
    code, _, err = command("run", "myjobs:work", "wrong", "--jobs", "-", "-q", input='{"job_id": 3}\n')
    assert (code, "must hold str, not 3" in err) == (2, True)
    assert sql("SELECT jobset_id FROM wb_jobsets") == [("things",)]


def test_paths_as_ids(command, folder, sql):
    (folder / "in" / "deep").mkdir(parents=True)
    paths = {"in/b 1.txt", "in/b2.txt", "in/deep/b3.txt"}
    for path in paths:
        (folder / path).touch()
    assert command("run", "myjobs:work", "quoted", "--jobs", "in/**/b*.txt")[0] == 0
    assert set(states(sql, "quoted")) == paths
    assert command("run", "myjobs:work", "expanded", "--jobs", *sorted(paths))[0] == 0
    assert set(states(sql, "expanded")) == paths
    code, _, err = command("run", "myjobs:work", "none", "--jobs", "in/x*")
    assert (code, err) == (2, "workerbee: --jobs 'in/x*' matches no path\n")


def test_jobs_are_streamed(start, sql):
    process = start("run", "myjobs:work", "many", "--jobs", "-", "--max-attempts", "1", stdin=subprocess.PIPE)
    for n in range(200_000):
        process.stdin.write(f"{n:020}\n")
    # What it holds of four megabytes is little: most of them are with the server by now.
    process.stdin.flush()
    connections = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%%' AND datname = current_database()"
    wait_until(lambda: sql(connections) == [(1,)], "the COPY")
    process.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "myjobs:work"], 2, "give MODULE:FUNCTION, or --exec COMMAND, and a JOBSET (see workerbee run --help)"),
        (["run", "myjobs", "s"], 2, "'myjobs' is no MODULE:FUNCTION or SCRIPT.py:FUNCTION (see workerbee run --help)"),
        (["run", "nope:work", "s"], 2, "there is no module 'nope' here or on Python's path (see workerbee run --help)"),
        (["run", "nope.py:work", "s"], 2, "there is no script 'nope.py' (see workerbee run --help)"),
        (["run", "myjobs:nope", "s"], 2, "myjobs has no 'nope' (see workerbee run --help)"),
        (["run", "myjobs:STATE", "s"], 2, "job_function must be callable as job_function(job_id, job_data), not [7]"),
        (
            ["run", "myjobs:work", "S"],
            2,
            "jobset_id must be 1 to 52 characters of a-z, 0-9 and _, not 'S' (1 characters)",
        ),
        (["run", "myjobs:work", "s"], 3, "there is no jobset 's' in this database; give --jobs to create it"),
        (["run", "myjobs:work", "s", "t"], 2, "unexpected argument 't' (see workerbee run --help)"),
        (["run", "myjobs:work", "s", "--jobs", "no"], 2, "--jobs 'no' does not exist (see workerbee run --help)"),
        (["run", "myjobs:work", "s", "--grace", "x"], 2, "--grace must be a number of seconds from 0, not 'x'"),
        (["run", "myjobs:work", "s", "--wrong"], 2, "No such option '--wrong' (see workerbee run --help)"),
        (["run", "--exec", "nope {job_id}", "s"], 2, "--exec: there is no command 'nope' (see workerbee run --help)"),
        (["run", "--exec", "ls | wc", "s"], 2, "--exec: | means nothing without a shell; there is --shell (see "),
        (["run", "--exec", "ls '", "s"], 2, '--exec "ls \'": No closing quotation (see workerbee run --help)'),
        (
            ["run", "myjobs:work", "s", "--dsn", "a", "--database", "b"],
            2,
            "--database and --dsn are the same; give one",
        ),
        (["run", "myjobs:work", "s", "--host", "/nowhere"], 4, "cannot connect to database wb_test"),
        (["nope"], 2, "No such command 'nope' (see workerbee --help)"),
    ],
)
def test_errors_are_one_line(command, arguments, code, said):
    found = command(*arguments)
    assert found[0] == code
    assert found[2].startswith(f"workerbee: {said}")
    assert found[2].count("\n") == 1


def test_what_the_users_code_raises_is_shown_from_its_first_line(command, folder):
    (folder / "broken.py").write_text("def f():\n    raise KeyError('mine')\nf()\n")
    for target in ("broken:f", "broken.py:f"):
        code, out, err = command("run", target, "s")
        assert (code, out) == (1, "")
        assert err.startswith(
            f'Traceback (most recent call last):\n  File "{folder / "broken.py"}", line 3, in <module>'
        )
        assert err.endswith("KeyError: 'mine'\n")


def test_address(command, parameters):
    outside = dict.fromkeys(("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"), "")
    host, port, user = parameters["host"], parameters.get("port", "5432"), parameters["user"]
    given = ["--host", host, "--port", port, "--user", user, "--database", parameters["dbname"]]
    assert command("run", "myjobs:work", "s", "--jobs", "-", *given, input="a\n", **outside)[0] == 0
    dsn = f"host={host} port={port} user={user} dbname={parameters['dbname']}"
    assert (
        "exists already" in command("run", "myjobs:work", "s", "--jobs", "-", "--dsn", dsn, input="a\n", **outside)[1]
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(start, folder, number, code):
    process = start("run", "myjobs:work", "s", "--jobs", "-", stdin=subprocess.PIPE)
    process.stdin.write("wait-1\nb\n")
    process.stdin.close()
    process.stdin = None
    for line in process.stdout:
        if line.startswith("wait-1 has"):
            break
    process.send_signal(number)
    for line in process.stdout:
        if "no new claims" in line:
            break
    (folder / "go").touch()
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (code, "")


def test_a_pipe_whose_reader_has_gone(start):
    process = start("run", "--help")
    process.stdout.close()
    process.wait(100)
    assert process.stderr.read() == ""
    process.stdout = None


def test_completion(command):
    shown = command(_WORKERBEE_COMPLETE="bash_source")
    assert shown[0] == 0
    assert "complete" in shown[1]
    words = command(_WORKERBEE_COMPLETE="bash_complete", COMP_WORDS="workerbee run --max-", COMP_CWORD="2")[1]
    assert "plain,--max-attempts" in words.split()


def test_exec(command, folder, sql):
    lines = [
        '{"job_id": "a b", "data": {"n": 3, "more": {"x": [1]}}}',
        '{"job_id": "$(touch hacked)`touch hacked`;touch hacked", "data": {"n": 4, "more": "\'\\"*"}}',
    ]
    template = "printf '%s|' {job_id} n{n}n {more} {{n}} '{print $1}'"
    code, out, err = command("run", "--exec", template, "e", "--jobs", "-", "-q", input="\n".join(lines))
    assert (code, err) == (0, "")
    # No line ends here, and one bee's last piece may come after another's first.
    assert 'a b|n3n|{"x": [1]}|{n}|{print $1}|' in out
    assert "$(touch hacked)`touch hacked`;touch hacked|n4n|'\"*|{n}|{print $1}|" in out
    assert not (folder / "hacked").exists()
    code, _, _ = command("run", "--exec", "ls {nope}", "f", "--jobs", "-", "--max-attempts", "1", input="a\n")
    ((message,),) = sql("SELECT message FROM wb_failures WHERE jobset_id = 'f'")
    assert (code, message) == (1, "--exec names {nope}, and the job's data have no 'nope'")


def test_exec_in_a_shell(command, folder):
    hostile = "a'b\"$(touch hacked)`touch hacked`;touch hacked"
    template = (
        "printf '%s\\n' {job_id} \"<{job_id}>\" '<{job_id}>' \"'{job_id}'\" \\\"{job_id} ${HOME} {{x}}; true | true"
    )
    code, out, err = command("run", "--shell", "--exec", template, "e", "--jobs", "-", "-q", input=hostile, HOME="/my")
    assert (code, err) == (0, "")
    assert out.splitlines() == [hostile, f"<{hostile}>", f"<{hostile}>", f"'{hostile}'", f'"{hostile}', "/my", "{x}"]
    assert not (folder / "hacked").exists()


def test_exec_that_fails(command, sql):
    template = """
        [ {job_id} = ok ] && exit 0
        echo first >&2; echo "why, {job_id}" >&2
        [ {job_id} = signal ] && kill -KILL $$
        [ {job_id} = below ] && exit 139
        exit 3
    """
    ids = "ok\nsignal\nbelow\nplain\n"
    options = ["--shell", "--max-attempts", "2", "--processes", "2"]
    code, out, err = command("run", "--exec", template, "e", "--jobs", "-", *options, input=ids)
    assert code == 1
    assert err.count("why, plain\n") == 2
    assert "job 'plain' failed: CommandFailed: exit code 3: why, plain (2 of 2), job FAILED\n" in out
    assert states(sql, "e") == {"ok": "COMPLETE", "signal": "FAILED", "below": "FAILED", "plain": "FAILED"}
    rows = set(sql("SELECT job_id, kind, type, message, log FROM wb_failures"))
    assert rows == {
        ("signal", "error", "CommandFailed", "SIGKILL: why, signal", "first\nwhy, signal\n"),
        ("below", "error", "CommandFailed", "exit code 139 (SIGSEGV): why, below", "first\nwhy, below\n"),
        ("plain", "error", "CommandFailed", "exit code 3: why, plain", "first\nwhy, plain\n"),
    }


@pytest.mark.parametrize("how", ["timeout", "killed", "supervisor killed"])
def test_exec_dies_with_its_bee_and_all_it_started(start, folder, how):
    template = "setsid sleep 1000 & echo $! > pid; sleep 1000 & echo $! >> pid; echo $$ >> pid; touch there; wait"
    limit = ["--job-timeout", "0.5"] if how == "timeout" else []
    options = ["--shell", "--max-attempts", "1", "--max-crashes", "1", "--processes", "1", *limit]
    process = start("run", "--exec", template, "e", "--jobs", "-", *options, stdin=subprocess.PIPE)
    process.stdin.write("one\n")
    process.stdin.close()
    process.stdin = None
    wait_until((folder / "there").exists, "the command to start")
    pids = [int(pid) for pid in (folder / "pid").read_text().split()]
    assert len(pids) == 3
    if how == "killed":
        os.kill(psutil.Process(pids[2]).ppid(), signal.SIGKILL)
    elif how == "supervisor killed":
        process.kill()
    out, _ = process.communicate(timeout=100)
    wait_until(lambda: not any(map(alive, pids)), "the command's processes to be gone")
    if how == "timeout":
        assert re.search(r"job 'one' failed: .* 0.5 s.*\(1 of 1\), job FAILED", out)
    if how == "killed":
        assert "SIGKILL" in out


def test_exec_whose_child_keeps_stderr_open_ends_when_it_does(command):
    code, out, _ = command("run", "--shell", "--exec", "sleep 1000 & true", "e", "--jobs", "-", input="a\n")
    assert (code, "1 of 1 jobs complete" in out) == (0, True)


def test_exec_with_a_log(command, sql):
    options = ["--log-dir", "logs", "--max-attempts", "1", "--shell", "-q"]
    code, out, err = command(
        "run", "--exec", "echo o {job_id}; echo e >&2; false", "e", "--jobs", "-", *options, input="a"
    )
    assert (code, out, err) == (1, "", "")
    assert sql("SELECT log FROM wb_failures") == [("o a\ne\n",)]
