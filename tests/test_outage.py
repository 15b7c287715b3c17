"""The database goes away in the middle, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import psycopg2
import pytest

from tests.helpers import alive, wait_until
from workerbee import embedded

# Each job says that it runs and then that it ends; it ends when the file "go" allows so many.
SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from workerbee import postgres_jobset

    def note(text):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{text}\\n".encode())
        os.close(fd)

    def job(job_id, data):
        note(f"begin {job_id}")
        while not Path("go").exists():
            time.sleep(0.01)
        time.sleep(0.002)
        note(f"end {job_id}")
        if job_id == "17":
            raise ValueError

    print(postgres_jobset("outage", job, map(str, range(300)), processes=eval(sys.argv[1])))
"""


def runs(tmp_path, word):
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(word))


def assert_all_ran_once(process, tmp_path, said):
    assert process.returncode == 0, said
    assert "299 of 300 jobs complete, 1 failed" in said
    # The one that raises has three attempts; nothing else was run twice.
    expected = {str(n): 3 if n == 17 else 1 for n in range(300)}
    assert runs(tmp_path, "begin") == runs(tmp_path, "end") == expected


@pytest.mark.parametrize("processes", [None, 3])
def test_connections_are_cut_again_and_again(script, sql, tmp_path, processes):
    process = script(SCRIPT, repr(processes))
    (tmp_path / "go").touch()
    while process.poll() is None:
        done = runs(tmp_path, "end").total()
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'bee( [0-9]+)?$|keeper$'")
        wait_until(lambda done=done: runs(tmp_path, "end").total() > done + 10 or process.poll() is not None)
    assert_all_ran_once(process, tmp_path, process.communicate()[0])


@pytest.fixture
def home():
    """The home of an embedded server of the test's own, which it may kill."""
    home = Path(tempfile.mkdtemp(prefix="workerbee-outage-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("processes", [None, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_the_server_is_restarted(script, home, tmp_path, processes, number):
    parameters = embedded.start(home)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    process = script(SCRIPT, repr(processes), **{names[key]: value for key, value in parameters.items()})
    # The first jobs run, and will end while there is no database to tell.
    wait_until(lambda: runs(tmp_path, "begin").total() == (processes or 1))
    postmaster = int((home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, number)
    wait_until(lambda: not alive(postmaster))
    (tmp_path / "go").touch()
    wait_until(lambda: runs(tmp_path, "end").total() == (processes or 1))
    assert embedded.start(home) == parameters
    assert_all_ran_once(process, tmp_path, process.communicate()[0])
    with psycopg2.connect(**parameters) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM wb_claims__outage")
        assert cursor.fetchall() == [(0,)]
    connection.close()
