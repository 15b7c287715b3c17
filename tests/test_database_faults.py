"""What a database, or the way to it, can do to a run: each time the real thing, on a server of these tests' own."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import psycopg2
import pytest

from tests.helpers import alive, descendants, wait_until
from tests.proxy import Proxy
from tests.server import running

# Each job says that it runs and then that it ends, which it does once there is a file "go". One raises.
SCRIPT = """
    import json, os, sys, time
    from pathlib import Path
    from workerbee import link, postgres_jobset

    link.ANSWER = 2.0  # not 60: the tests would take as long

    def note(text):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{text}\\n".encode())
        os.close(fd)

    def job(job_id, data):
        note(f"begin {job_id}")
        while not Path("go").exists():
            time.sleep(0.01)
        note(f"end {job_id}")
        if job_id == "7":
            raise ValueError

    print(postgres_jobset("faults", job, map(str, range(40)), **json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def own():
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def server(own):
    return own.parameters


@pytest.fixture
def proxy(parameters):
    proxy = Proxy(parameters["host"], int(parameters["port"]))
    yield proxy
    proxy.close()


@pytest.fixture
def start(script):
    """Start the script: `start(argument=value)`."""

    def start(environ=(), **options):
        return script(SCRIPT, json.dumps(options), **dict(environ))

    return start


def runs(tmp_path, word):
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith(word))


def wait_for_jobs(tmp_path, count):
    wait_until(lambda: runs(tmp_path, "begin").total() >= count, f"{count} jobs to begin")


def let_go(tmp_path):
    (tmp_path / "go").touch()


def output(process):
    """All that the process has said, once it has ended."""
    try:
        return process.communicate(timeout=90)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it does not end: {process.communicate()[0]}") from None


def assert_all_ran_once(process, tmp_path, sql):
    said = output(process)
    assert process.returncode == 0, said
    assert "39 of 40 jobs complete, 1 failed" in said
    # The one that raises has three attempts; nothing else was run twice.
    expected = {str(n): 3 if n == 7 else 1 for n in range(40)}
    assert runs(tmp_path, "begin") == runs(tmp_path, "end") == expected, said
    assert sql("SELECT kind, attempt FROM wb_failures ORDER BY failure") == [("error", n) for n in (1, 2, 3)]
    assert sql("SELECT count(*) FROM wb_claims__faults") == [(0,)]
    return said


def refused(own, words):
    """How often the server has said `words`."""
    return own.log().count(words)


def cut_all(sql):
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'workerbee .* (bee|keeper)'")


# The tables are gone.


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize(
    "what", ["TABLE wb__faults, wb_ranges__faults, wb_claims__faults CASCADE", "TABLE wb_nodes CASCADE"]
)
def test_dropped_tables_end_every_node_with_one_clear_error(start, sql, tmp_path, processes, what):
    nodes = [start(processes=processes, lease=4) for _ in range(2)]
    wait_for_jobs(tmp_path, 2 * (processes or 1))
    children = {pid for node in nodes for pid in descendants(node.pid)}
    assert children
    sql(f"DROP {what}")
    let_go(tmp_path)
    for node in nodes:
        said = output(node)
        assert node.returncode == 1, said
        assert said.count("Traceback") == said.count("workerbee.errors.DatabaseError: ") == 1, said
        assert "tables of this jobset are gone, somebody has dropped them: relation" in said
        assert "died" not in said
    assert not [pid for pid in children if alive(pid)]


def test_a_right_taken_away_ends_the_node(start, sql, tmp_path, parameters):
    # The keeper needs no more than it has: a bee is the one to find out.
    user = "careless_" + parameters["dbname"]
    sql(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
    sql(f"GRANT CREATE ON SCHEMA public TO {user}")
    try:
        node = start({"PGUSER": user, "PGPASSWORD": "x"}, processes=2)
        wait_for_jobs(tmp_path, 2)
        sql("ALTER TABLE wb__faults OWNER TO tester")
        let_go(tmp_path)
        said = output(node)
        assert node.returncode == 1, said
        assert said.count("Traceback") == said.count("workerbee.errors.DatabaseError: ") == 1, said
        assert "lacks a right" in said
        assert sql("SELECT kind FROM wb_failures") == []
    finally:
        sql(f"DROP OWNED BY {user} CASCADE")
        sql(f"DROP ROLE {user}")


# No connections are left.


@pytest.fixture
def full(parameters):
    """Take every connection that is left; `full(False)` lets them go."""
    taken = []

    def fill(fill=True):
        while fill:
            try:
                taken.append(psycopg2.connect(**parameters))
            except psycopg2.OperationalError:
                return
        while taken:
            taken.pop().close()

    yield fill
    fill(False)


def test_a_starter_waits_for_a_connection(start, sql, tmp_path, own, full):
    let_go(tmp_path)
    full()
    before = refused(own, "too many clients")
    process = start(processes=2)
    wait_until(lambda: refused(own, "too many clients") > before + 1, "the starter to try again")
    full(False)
    assert "Waiting for the database: cannot connect to database" in assert_all_ran_once(process, tmp_path, sql)


@pytest.mark.parametrize("processes", [None, 2])
def test_bees_wait_for_a_connection(start, sql, tmp_path, own, full, processes):
    process = start(processes=processes)
    wait_for_jobs(tmp_path, processes or 1)
    full()
    before = refused(own, "too many clients")
    cut_all(sql)
    full()
    let_go(tmp_path)
    wait_until(lambda: refused(own, "too many clients") > before + 4, "everybody to try again")
    full(False)
    assert_all_ran_once(process, tmp_path, sql)


def test_a_role_with_fewer_connections_than_bees(start, sql, tmp_path, own, parameters):
    user = "limited_" + parameters["dbname"]
    sql(f"CREATE ROLE {user} LOGIN PASSWORD 'x' CONNECTION LIMIT 2")
    sql(f"GRANT CREATE ON SCHEMA public TO {user}")
    try:
        process = start({"PGUSER": user, "PGPASSWORD": "x"}, processes=4)
        wait_for_jobs(tmp_path, 1)
        wait_until(lambda: refused(own, "too many connections for role") > 3)
        let_go(tmp_path)
        assert_all_ran_once(process, tmp_path, sql)
    finally:
        sql(f"DROP OWNED BY {user} CASCADE")
        sql(f"DROP ROLE {user}")
