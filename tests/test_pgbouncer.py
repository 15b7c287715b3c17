"""PgBouncer in transaction mode between all of it and the database: nothing leans on a session."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter

import psycopg2
import pytest

from tests.helpers import wait_until
from tests.server import free_port, open_folder, running
from workerbee import Jobset, cluster, postgres_jobset
from workerbee.job import Counts
from workerbee.records import Added, Reset

# The program of the system, or of a wheel beside the Python that runs the tests.
PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

SCRIPT = """
    import json, os, signal, sys, time
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
        if job_id == "11" and "crash" in sys.argv:
            os.kill(os.getpid(), signal.SIGSEGV)
        note(f"end {job_id}")
        if job_id == "7":
            raise ValueError

    print(postgres_jobset("pooled", job, map(str, range(100)), **json.loads(sys.argv[1])))
"""


class Pooler:
    """A PgBouncer on `port`, with `settings`, before the server that `parameters` name."""

    def __init__(self, folder, parameters, **settings):
        self.port = free_port()
        users = folder / "users"
        users.touch(0o600)
        os.chown(users, *cluster.server_ids())
        users.write_text(f'"{parameters["user"]}" "{parameters["password"]}"\n')
        self._ini = folder / "pgbouncer.ini"
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": "transaction",
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"host={parameters['host']} port={parameters['port']}"
        self._ini.write_text("\n".join(["[databases]", f"* = {server}", "[pgbouncer]", *lines, ""]))
        self._process = None
        self.start()

    def start(self):
        # It refuses to be root.
        uid, gid = cluster.server_ids()
        account = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
        self._process = subprocess.Popen(
            [PROGRAM, "-q", self._ini],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **account,
        )
        wait_until(self._listens, "PgBouncer to listen")

    def _listens(self):
        assert self._process.poll() is None, "PgBouncer has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def server_settings(self, parameters):
        """What sessions keep, of two of PgBouncer's connections to the database."""
        clients = [psycopg2.connect(**{**parameters, "port": self.port}) for _ in range(2)]
        for client in clients:  # each in a transaction: it has a connection to itself
            with client.cursor() as cursor:
                cursor.execute("""
                    SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
                           current_setting('lock_timeout'), current_setting('default_transaction_isolation'),
                           (SELECT count(*) FROM pg_prepared_statements),
                           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
                """)
                yield cursor.fetchone()
        for client in clients:
            client.close()

    def stop(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def own():
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def server(own):
    return own.parameters


@pytest.fixture
def pooler(own, request):
    with open_folder() as folder:
        pooler = Pooler(folder, own.parameters, **getattr(request, "param", {}))
        yield pooler
        pooler.stop()


@pytest.fixture
def start(script, pooler):
    """Start the script, with PgBouncer for its server: `start("crash", argument=value)`."""

    def start(*words, **options):
        return script(SCRIPT, json.dumps(options), *words, PGHOST="127.0.0.1", PGPORT=str(pooler.port))

    return start


def runs(tmp_path, word):
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(word))


def assert_all_done(process, tmp_path, sql, crashes=0, lost=()):
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"jobset 'pooled': {99 - bool(crashes)} of 100 jobs complete" in said
    expected = {str(n): 1 for n in range(100)} | {"7": 3}
    begins = {job: count + (job in lost) for job, count in expected.items()}
    if crashes:
        begins["11"] = crashes
        del expected["11"]
    assert runs(tmp_path, "begin") == begins, said
    assert runs(tmp_path, "end") == expected, said
    failures = Counter(kind for (kind,) in sql("SELECT kind FROM wb_failures"))
    assert failures == Counter(error=3, crash=crashes, lost=len(lost)), said
    assert sql("SELECT count(*) FROM wb_claims__pooled") == [(0,)]


POOLS = [{"default_pool_size": 2}, {"default_pool_size": 20, "server_round_robin": 1}]


@pytest.mark.parametrize("pooler", POOLS, indirect=True)
def test_bees_that_crash(start, sql, tmp_path, pooler, parameters):
    (tmp_path / "go").touch()
    assert_all_done(start("crash", processes=4), tmp_path, sql, crashes=3)
    # Whoever is next on PgBouncer's connections finds them as new.
    for settings in pooler.server_settings(parameters):
        assert settings == ("0", "0", "0", "read committed", 0, 0)


def test_one_bee_that_crashes(start, sql, tmp_path):
    (tmp_path / "go").touch()
    for _ in range(3):
        process = start("crash")
        assert process.wait() == -signal.SIGSEGV, process.stdout.read()
    assert_all_done(start("crash"), tmp_path, sql, crashes=3)


def test_a_killed_supervisor(start, sql, tmp_path):
    first = start(processes=3)
    wait_until(lambda: runs(tmp_path, "begin").total() == 3)
    lost = set(runs(tmp_path, "begin"))
    first.kill()
    wait_until(lambda: sql("SELECT count(*) FROM wb_failures") == [(3,)], "its keeper to settle")
    (tmp_path / "go").touch()
    assert_all_done(start(processes=3), tmp_path, sql, lost=lost)


@pytest.mark.parametrize("pooler", POOLS[:1], indirect=True)
def test_two_starters_at_once(start, sql, tmp_path):
    (tmp_path / "go").touch()
    first, second = (start(processes=2) for _ in range(2))
    said = second.communicate()[0]
    assert second.returncode == 0, said
    assert_all_done(first, tmp_path, sql)


@pytest.mark.parametrize("pooler", POOLS, indirect=True)
def test_a_jobset_is_seen_and_steered(pooler, parameters, sql, tmp_path):
    # A temporary table, a cursor and a lock, each within one transaction: the next may be another session's.
    address = {**parameters, "host": "127.0.0.1", "port": pooler.port}
    address["database"] = address.pop("dbname")
    postgres_jobset("pooled", lambda *_: None, map(str, range(5)), **address, verbose=False)
    jobset = Jobset("pooled", **address)
    assert jobset.add(map(str, range(3000))) == Added(2995, 5)
    assert jobset.reset(["0", "1"]) == Reset(2, 0)
    assert jobset.retry() == 0
    assert jobset.stop() == 0
    assert len({job.job_id for job in jobset.jobs()}) == 3000
    assert list(jobset.failures()) == []
    assert jobset.status().counts == jobset.history().jobset.counts == Counts(3000, 2997, 0, 0)
    assert jobset.export(tmp_path / "jobs.csv") == 3000
    jobset.drop()
    assert sql("SELECT relname FROM pg_class WHERE relname LIKE 'wb%pooled'") == []


@pytest.mark.parametrize("processes", [None, 3])
def test_the_pooler_is_restarted(start, sql, tmp_path, pooler, processes):
    process = start(processes=processes)
    wait_until(lambda: runs(tmp_path, "begin").total() == (processes or 1))
    pooler.stop()
    (tmp_path / "go").touch()
    wait_until(lambda: runs(tmp_path, "end").total() == (processes or 1))
    pooler.start()
    assert_all_done(process, tmp_path, sql)
