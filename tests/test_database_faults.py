"""What a database, or the way to it, can do to a run: each time the real thing, on a server of these tests' own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections import Counter

import psycopg2
import psycopg2.errors
import pytest

from tests.helpers import alive, descendants, wait_until
from tests.proxy import Proxy
from tests.server import running, small_disk
from workerbee.address import Address, connect, link
from workerbee.errors import DatabaseError
from workerbee.queries import shelf
from workerbee.session import Session

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

    print(postgres_jobset("faults", job, map(str, range(int(sys.argv[2]))), **json.loads(sys.argv[1])))
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

    def start(environ=(), jobs=40, **options):
        return script(SCRIPT, json.dumps(options), str(jobs), **dict(environ))

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


@pytest.fixture
def role(sql, parameters):
    """Make a user without a superuser's rights: `role("CONNECTION LIMIT 2")` is how libpq finds it."""
    user = f"user_of_{parameters['dbname']}"

    def make(options=""):
        sql(f"CREATE ROLE {user} LOGIN PASSWORD 'x' {options}")
        sql(f"GRANT CREATE ON SCHEMA public TO {user}")
        return {"PGUSER": user, "PGPASSWORD": "x"}

    yield make
    sql(f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = '{user}'")
    sql(f"DROP OWNED BY {user} CASCADE")
    sql(f"DROP ROLE {user}")


def assert_refused(process):
    said = output(process)
    assert process.returncode == 1, said
    assert said.count("Traceback") == said.count("workerbee.errors.DatabaseError: ") == 1, said
    assert "lacks a right" in said
    assert "died" not in said


def test_a_right_taken_away_ends_the_node(start, sql, tmp_path, role):
    node = start(role(), processes=2)
    wait_for_jobs(tmp_path, 2)
    # The keeper needs none: a bee is the one to find out.
    sql("ALTER TABLE wb__faults OWNER TO tester")
    let_go(tmp_path)
    assert_refused(node)
    assert sql("SELECT kind FROM wb_failures") == []


def test_a_right_taken_away_ends_a_node_that_only_waits(start, sql, tmp_path, role):
    user = role()
    nodes = [start(user, jobs=1, processes=1, lease=1)]
    wait_for_jobs(tmp_path, 1)
    nodes.append(start(user, jobs=1, processes=1, lease=1))
    wait_until(lambda: sql("SELECT count(*) FROM wb_nodes WHERE keeper_pid > 0") == [(2,)], "both nodes to beat")
    idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ ' bee 0$'"
    wait_until(lambda: sql(idle) == [(1,)], "the second bee to find nothing")
    sql("ALTER TABLE wb_nodes OWNER TO tester")
    wait_until(lambda: nodes[1].poll() is not None, "the second node to end")
    let_go(tmp_path)
    for node in nodes:
        assert_refused(node)


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


def test_a_role_with_fewer_connections_than_bees(start, sql, tmp_path, own, role):
    process = start(role("CONNECTION LIMIT 2"), processes=4)
    wait_for_jobs(tmp_path, 1)
    wait_until(lambda: refused(own, "too many connections for role") > 3, "the other bees to try again")
    let_go(tmp_path)
    assert_all_ran_once(process, tmp_path, sql)


def test_a_starter_waits_for_a_server_that_starts(start, tmp_path):
    let_go(tmp_path)
    # As a standby that nobody may ask yet; its primary never comes.
    with running(hot_standby="off", primary_conninfo="host=127.0.0.1 port=1 connect_timeout=1") as server:
        server.stop()
        server.stand_by()
        process = start(server.environ, processes=2)
        wait_until(lambda: refused(server, "not accepting connections") > 2, "the starter to try again")
        server.stop(signal.SIGQUIT)
        server.lead()
        said = assert_all_ran_once(process, tmp_path, server.sql)
    assert "Waiting for the database: cannot connect to database" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"PGPASSWORD": "wrong"}, "password authentication failed"),
        ({"PGDATABASE": "nowhere"}, 'database "nowhere" does not exist'),
        ({"PGPORT": "1"}, "Connection refused"),
    ],
)
def test_what_a_starter_does_not_wait_for(start, wrong, words):
    said = output(process := start(wrong, processes=2))
    assert process.returncode == 1
    assert "Waiting" not in said
    assert "workerbee.errors.DatabaseError: cannot connect to database" in said
    assert words in said


# The answer is lost, or never comes.


def through(proxy):
    return {"PGHOST": "127.0.0.1", "PGPORT": str(proxy.port)}


@pytest.mark.parametrize("way", ["swallow", "lose"])
def test_an_answer_to_a_node_is_lost(start, sql, tmp_path, proxy, way):
    let_go(tmp_path)
    getattr(proxy, way)(b"INSERT INTO wb_nodes")
    process = start(through(proxy), processes=2, lease=1)
    assert_all_ran_once(process, tmp_path, sql)
    assert proxy.broken == 1
    # Its row, if the server heard, is of a node that nobody hears of.
    assert sql("SELECT count(*) FROM wb_nodes") == [(2 if way == "swallow" else 1,)]


@pytest.mark.parametrize("way", ["swallow", "lose"])
def test_an_answer_to_a_starter_is_lost(start, sql, tmp_path, proxy, way):
    let_go(tmp_path)
    getattr(proxy, way)(b"COMMIT;")
    process = start(through(proxy), processes=2)
    said = output(process)
    # The ids came from an iterator, which nobody can begin anew.
    assert process.returncode == 1, said
    assert "workerbee.errors.DatabaseError: while jobset 'faults' was set up" in said
    assert_all_ran_once(start(through(proxy), processes=2), tmp_path, sql)


@pytest.mark.parametrize("processes", [None, 2])
def test_a_network_that_takes_everything_and_brings_nothing(start, sql, tmp_path, proxy, processes):
    process = start({**through(proxy), "PGCONNECT_TIMEOUT": "2"}, processes=processes)
    wait_for_jobs(tmp_path, processes or 1)
    proxy.silent = True
    let_go(tmp_path)
    wait_until(lambda: proxy.opened_in_silence > 1, "somebody to connect anew")
    proxy.silent = False
    assert_all_ran_once(process, tmp_path, sql)


def test_the_first_of_two_hosts_is_silent(parameters, proxy):
    proxy.silent = True
    both = {"host": "127.0.0.1,127.0.0.1", "port": f"{proxy.port},{parameters['port']}", "connect_timeout": "2"}
    session = Session(Address({**parameters, **both}), "hosts", "workerbee test", patience=0)
    assert session.call(lambda store: store.run("rollback")) == []
    session.close()


def test_a_statement_given_up_for_lost_is_only_slow(start, sql, tmp_path, proxy, parameters):
    process = start(through(proxy), processes=None)
    wait_for_jobs(tmp_path, 1)
    claim = sql("SELECT bee, number FROM wb_claims__faults")
    with psycopg2.connect(**parameters) as other, other.cursor() as cursor:
        # Bees can look, and cannot claim.
        cursor.execute("LOCK TABLE wb_claims__faults IN EXCLUSIVE MODE")
        let_go(tmp_path)
        waiting = "SELECT pid FROM pg_stat_activity WHERE query ~ 'wb_next' AND wait_event_type = 'Lock'"
        wait_until(lambda: len(sql(waiting)) == 1, "the bee to settle")
        # The server does not notice that the bee is gone.
        proxy.deaf = True
        proxy.cut()
        wait_until(lambda: len(sql(waiting)) == 2, "the bee to try again")
    other.close()
    assert_all_ran_once(process, tmp_path, sql)
    # It is the same bee, not one that had to begin anew.
    assert claim == [(1, 1)] and sql("SELECT last_value FROM wb_bees") == [(1,)]


def test_nobody_keeps_locks_after_going_silent(sql, parameters):
    address = Address(parameters)
    session = Session(address, "locks", "workerbee test", patience=60)
    # As short as the test can wait; the statement is the one on the shelf.
    text = shelf()["begin_bounded"].as_string(None).replace("'30s'", "'50ms'")
    sql("CREATE TABLE locked ()")

    def stop_in_the_middle(store):
        store._queries["begin_bounded"] = text
        store._queries["lock"] = "LOCK TABLE locked"
        with store.transaction():
            store.run("lock")
            wait_until(lambda: sql("SELECT count(*) FROM pg_locks WHERE relation = 'locked'::regclass") == [(0,)])
            store.run("lock")

    with pytest.raises(DatabaseError, match="idle-in-transaction timeout"):
        Session(address, "locks", "workerbee test", patience=0).call(stop_in_the_middle)
    assert session.call(lambda store: store.run("rollback")) == []
    session.close()


# The server lets nobody write.


@pytest.mark.parametrize("processes", [None, 2])
def test_read_only_for_a_while(start, sql, tmp_path, own, processes):
    process = start(processes=processes, lease=1)
    wait_for_jobs(tmp_path, processes or 1)
    before = refused(own, "UPDATE in a read-only transaction")
    own.configure(default_transaction_read_only="on")
    try:
        let_go(tmp_path)
        wait_until(lambda: refused(own, "UPDATE in a read-only transaction") > before + 5, "everybody to try again")
    finally:
        own.configure(default_transaction_read_only="")
    assert_all_ran_once(process, tmp_path, sql)


def test_an_outage_is_over_when_something_worked(own, parameters):
    # Not when there is a connection: one to a server that is read-only is no news.
    told = []

    def outage(why):
        told.append(why)
        if len(told) == 3:
            own.configure(default_transaction_read_only="")

    session = Session(Address(parameters), "outage", "workerbee test", patience=60, outage=outage)

    def write(store):
        store._queries["write"] = "CREATE TABLE IF NOT EXISTS written ()"
        return store.run("write")

    own.configure(default_transaction_read_only="on")
    try:
        assert session.call(write) == []
    finally:
        own.configure(default_transaction_read_only="")
        session.close()
    assert all("cannot execute CREATE TABLE in a read-only transaction" in why for why in told[:-1])
    assert len(told) > 3
    assert told[-1] == ""


def test_the_disk_is_full_for_a_while(start, tmp_path):
    with small_disk() as disk, running(disk / "data", max_wal_size="32MB") as server:
        process = start(server.environ, processes=2)
        wait_for_jobs(tmp_path, 2)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        let_go(tmp_path)
        wait_until(lambda: refused(server, "No space left on device") > 5, "everybody to try again")
        filler.unlink()
        if not server.runs():
            server.start()
        assert_all_ran_once(process, tmp_path, server.sql)


# Others are in the way.


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_another_isolation_by_default(start, sql, tmp_path, own, level):
    let_go(tmp_path)
    own.configure(default_transaction_isolation=level)
    try:
        before = refused(own, "could not serialize")
        first, second = (start(processes=2) for _ in range(2))
        said = output(second)
        assert second.returncode == 0, said
        assert_all_ran_once(first, tmp_path, sql)
    finally:
        own.configure(default_transaction_isolation="")
    # Not even tried again: bees do not fail each other.
    assert refused(own, "could not serialize") == before


def test_a_transaction_that_is_open_all_the_time(start, sql, tmp_path, parameters):
    with psycopg2.connect(**parameters) as other, other.cursor() as cursor:
        other.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("CREATE TEMPORARY TABLE held AS SELECT txid_current()")
        let_go(tmp_path)
        process = start(processes=2)
        assert_all_ran_once(process, tmp_path, sql)
    other.close()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("lock_timeout", "20ms", "due to lock timeout"),
        ("idle_session_timeout", "100ms", "due to idle-session timeout"),
    ],
)
def test_limits_of_an_administrator(start, sql, tmp_path, own, parameters, setting, value, words):
    process = start(processes=2)
    wait_for_jobs(tmp_path, 2)
    before = refused(own, words)
    with psycopg2.connect(**parameters) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE wb_claims__faults IN EXCLUSIVE MODE")
        own.configure(**{setting: value})
        try:
            let_go(tmp_path)
            wait_until(lambda: refused(own, words) > before + 1, "somebody to try again")
            other.rollback()
            assert_all_ran_once(process, tmp_path, sql)
        finally:
            own.configure(**{setting: ""})
    other.close()


@pytest.mark.parametrize("kind", [connect, link])
def test_a_backend_is_terminated(parameters, kind):
    session = Session(Address(parameters), "terminated", "workerbee test", patience=60, connect=kind)
    steps = ["terminate", "rollback"]

    def step(store):
        store._queries["terminate"] = "SELECT pg_terminate_backend(pg_backend_pid())"
        return store.run(steps.pop(0))

    assert session.call(step) == []
    assert steps == []
    session.close()


@pytest.mark.parametrize("processes", [None, 2])
def test_backends_are_terminated_in_the_middle_of_a_statement(start, sql, tmp_path, parameters, processes):
    process = start(processes=processes)
    wait_for_jobs(tmp_path, processes or 1)
    with psycopg2.connect(**parameters) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE wb_claims__faults IN EXCLUSIVE MODE")
        let_go(tmp_path)
        waiting = "query ~ 'wb_next' AND wait_event_type = 'Lock'"
        for _ in range(2):
            wait_until(lambda: sql(f"SELECT pid FROM pg_stat_activity WHERE {waiting}"), "a bee to settle")
            sql(f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE {waiting}")
    other.close()
    assert_all_ran_once(process, tmp_path, sql)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg2.errors.DeadlockDetected, "40P01"),
        (psycopg2.errors.SerializationFailure, "40001"),
        (psycopg2.errors.LockNotAvailable, "55P03"),
        (psycopg2.errors.QueryCanceled, "57014"),
    ],
)
def test_conflicts_are_tried_again_on_the_same_connection(parameters, error, code):
    """The errors are not the real thing: a block raises them."""
    told = []
    session = Session(
        Address(parameters), "conflict", "workerbee test", lambda _: None, patience=60, outage=told.append
    )
    pids = []

    def step(store):
        store._queries["pid"] = "SELECT pg_backend_pid()"
        store._queries["raise"] = f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"
        pids.append(store.run("pid"))
        if len(pids) < 3:
            with pytest.raises(error) as caught, store.transaction():
                store.run("raise")
            raise caught.value
        return "done"

    assert session.call(step) == "done"
    assert len(pids) == 3
    assert pids[0] == pids[1] == pids[2]
    assert not any(told)
    session.close()


def test_beats_that_all_had_to_wait_make_nobody_lost(start, sql, tmp_path, parameters):
    nodes = [start(processes=1, lease=1) for _ in range(3)]
    wait_for_jobs(tmp_path, 3)
    # Who has listened for less than a lease judges nobody.
    wait_until(lambda: sql("SELECT now() - max(started_at) > 2 * max(lease) FROM wb_nodes") == [(True,)])
    with psycopg2.connect(**parameters) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE wb_nodes IN EXCLUSIVE MODE")
        silent = "SELECT count(*) FROM wb_nodes WHERE beat_at < clock_timestamp() - lease"
        wait_until(lambda: sql(silent) == [(3,)], "every node to be silent")
    other.close()
    heard = sql("SELECT max(beat_at) FROM wb_nodes")[0][0]
    wait_until(lambda: sql("SELECT min(beat_at) FROM wb_nodes")[0][0] > heard, "every node to be heard again")
    let_go(tmp_path)
    for node in nodes[1:]:
        said = output(node)
        assert node.returncode == 0, said
    assert_all_ran_once(nodes[0], tmp_path, sql)


# It is not the database.


def test_a_bee_without_descriptors_is_replaced(script, sql, tmp_path):
    code = """
        import os, socket
        from pathlib import Path
        from workerbee import postgres_jobset

        def job(job_id, data):
            if job_id == "greedy" and not Path("greedy").exists():
                Path("greedy").touch()
                while not Path("cut").exists():
                    pass
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

        import resource
        print(postgres_jobset("descriptors", job, ["greedy", "other"], processes=1))
    """
    process = script(code)
    wait_until((tmp_path / "greedy").exists)
    cut_all(sql)
    wait_until(lambda: sql("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'bee 0'") == [(0,)])
    (tmp_path / "cut").touch()
    said = output(process)
    assert process.returncode == 0, said
    assert "2 of 2 jobs complete" in said
    assert sql("SELECT * FROM wb_failures") == []
