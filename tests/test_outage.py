"""The database goes away in the middle, and comes back."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
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


@pytest.mark.parametrize("processes", [None, 2])
def test_a_stop_does_not_wait_for_a_database_that_is_away(script, home, tmp_path, processes):
    parameters = embedded.start(home)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    found = {names[key]: value for key, value in parameters.items()}
    process = script(SCRIPT, repr(processes), **found)
    wait_until(lambda: runs(tmp_path, "begin").total() == (processes or 1))
    postmaster = int((home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGINT)
    wait_until(lambda: not alive(postmaster))
    (tmp_path / "go").touch()
    wait_until(lambda: runs(tmp_path, "end").total() == (processes or 1))
    process.terminate()
    # It has 30 s for its jobs, and 600 for the database. The jobs are done.
    assert process.wait(timeout=60) == 143, process.stdout.read()
    embedded.start(home)
    process = script(SCRIPT, repr(processes), **found)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "299 of 300 jobs complete, 1 failed" in said


class Relay:
    """Stands between a script and the server; cuts the connection at every third message with `words` in it, before
    the server has `heard` it, or when it has answered.
    """

    def __init__(self, folder: Path, server: Callable[[], socket.socket], words: bytes, heard: bool) -> None:
        self._server = server
        self._words = words
        self._heard = heard
        self._seen = 0
        self.cuts = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, self._server() as server, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    answer = server.recv(65536)
                    if not answer:
                        return
                    client.sendall(answer)
                if client in ready:
                    message = client.recv(65536)
                    if not message:
                        return
                    if self._words in message:
                        self._seen += 1
                        if self._seen % 3 == 0:
                            self.cuts += 1
                            if self._heard:
                                server.sendall(message)
                                server.recv(65536)
                            return
                    server.sendall(message)


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize(
    ("processes", "words"),
    [(1, b'INSERT INTO "wb_claims'), (None, b"SELECT pos, job_id"), (None, b"WITH charged AS"), (None, b"COMMIT;")],
)
def test_an_answer_that_never_came(script, parameters, sql, tmp_path, processes, words, heard):
    def server():
        link = socket.socket(socket.AF_UNIX)
        link.connect(f"{parameters['host']}/.s.PGSQL.{parameters['port']}")
        return link

    if not parameters["host"].startswith("/"):
        pytest.skip("the relay knows only sockets with a path")
    folder = Path(tempfile.mkdtemp(prefix="workerbee-relay-"))
    relay = Relay(folder, server, words, heard)
    try:
        (tmp_path / "go").touch()
        # A bee per job or two, so that there are bees enough to be added.
        code = SCRIPT.replace("range(300)", "range(20)").replace("eval(sys.argv[1])", "eval(sys.argv[1]), **OPTIONS")
        options = {"max_jobs_per_bee": 2} if processes else {}
        code = code.replace("import os, sys, time", f"import os, sys, time; OPTIONS = {options}")
        process = script(code, repr(processes), PGHOST=str(folder), PGPORT="5432")
        said = process.communicate()[0]
    finally:
        relay.close()
        shutil.rmtree(folder)
    assert process.returncode == 0, said
    assert "19 of 20 jobs complete, 1 failed" in said
    assert runs(tmp_path, "begin") == runs(tmp_path, "end") == {str(n): 3 if n == 17 else 1 for n in range(20)}
    assert sql("SELECT kind, attempt FROM wb_failures ORDER BY failure") == [("error", n) for n in (1, 2, 3)]
    assert sql("SELECT count(*) FROM wb_claims__outage") == [(0,)]
    assert relay.cuts


@pytest.mark.parametrize("processes", [None, 3])
def test_a_node_starts_its_embedded_server_again(script, home, tmp_path, processes):
    # No address: the node's own keeper is the one to look after the server.
    nowhere = dict.fromkeys(("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD"), "")
    process = script(SCRIPT, repr(processes), WORKERBEE_HOME=str(home), **nowhere)
    wait_until(lambda: runs(tmp_path, "begin").total() == (processes or 1))
    postmaster = int((home / "pg18" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    (tmp_path / "go").touch()
    said = process.communicate()[0]
    assert_all_ran_once(process, tmp_path, said)
    if processes:
        assert re.search(
            r"database is away \(.+\): jobs run on, and their outcomes are kept\nthe database is back\n", said
        )


def test_closed_standard_streams(home, environ):
    code = "from workerbee import postgres_jobset as run; run('closed', lambda *_: None, ['a'], processes=2)"
    named = {name: value for name, value in environ.items() if not name.startswith("PG")}
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(command, env={**named, "WORKERBEE_HOME": str(home)}, check=False).returncode == 0
    pid_file = home / "pg18" / "data" / "postmaster.pid"
    wait_until(lambda: not pid_file.exists(), "the server to stop with its last user")
