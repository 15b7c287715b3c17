"""Setting up: one transaction, whoever else is at it, however many jobs there are, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import os
import signal
import sys

import psycopg2
import pytest

from tests.helpers import alive, wait_until
from workerbee import DatabaseError, InvalidValue, WorkerbeeError, postgres_jobset
from workerbee.address import Address, connect
from workerbee.loading import set_up
from workerbee.store import Store

RELATIONS = "SELECT relname::text FROM pg_class WHERE relname LIKE 'wb\\_%' ORDER BY 1"

# Starters in step: `gate` tells the test that we are here, and opens when the test opens the pipe.
# Every job that runs leaves a line in the file `ran`.
STARTER = """
import os, sys
from workerbee import postgres_jobset

def gate(name):
    print("at", name, flush=True)
    open(name).close()

def job(job_id, _data):
    ran = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ran, (job_id + "\\n").encode())
    os.close(ran)

def ids(count, gate_at=None):
    for number in range(count):
        if number == gate_at:
            gate("half")
        yield str(number)

jobset_id, gated = sys.argv[1:]
if gated == "start":
    gate("start")
    ids = list(ids(60))
elif gated == "half":
    ids = ids(60, gate_at=30)
else:
    ids = ids(60)
print(postgres_jobset(jobset_id, job, ids))
"""


@pytest.fixture
def gates(tmp_path):
    """Lets all pass who wait at a gate, or come there later: `gates(name)`."""
    for name in ("start", "half"):
        os.mkfifo(tmp_path / name)

    opened = []
    # For reading too, which waits for nobody; and kept open, for those who come later.
    yield lambda name: opened.append(os.open(tmp_path / name, os.O_RDWR))
    for pipe in opened:
        os.close(pipe)


def await_line(process, text):
    """Read the script's output up to a line with `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"no {text!r} from the script")


def waiting_for_lock(sql, kind):
    """How many sessions wait for a lock of this kind."""
    ((count,),) = sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND wait_event = %s",
        kind,
    )
    return count


def ran(tmp_path):
    return sorted((tmp_path / "ran").read_text().split(), key=int)


ALL_IDS = [str(number) for number in range(60)]


def test_others_see_all_or_nothing_while_it_loads(script, gates, sql):
    first = script(STARTER, "slow", "half")
    await_line(first, "at half")
    assert sql(RELATIONS) == []
    gates("half")
    assert first.wait() == 0
    assert sql("SELECT count(*), min(pos), max(pos) FROM wb__slow") == [(60, 1, 60)]
    assert sql("SELECT jobset_id, total FROM wb_jobsets") == [("slow", 60)]


def test_many_starters(script, gates, sql, tmp_path):
    starters = [script(STARTER, "many", "start") for _ in range(6)]
    for starter in starters:
        await_line(starter, "at start")
    gates("start")
    said = [starter.communicate()[0] for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 6
    assert sorted("Creating table for jobset 'many'..." in text for text in said) == [False] * 5 + [True]
    joined = "jobset 'many' exists already, with 60 jobs; the 60 job_ids given are ignored."
    assert sorted(joined in text for text in said) == [False] + [True] * 5
    assert sql("SELECT total FROM wb_jobsets") == [(60,)]
    assert sql("SELECT state, count(*) FROM wb__many GROUP BY 1") == [("COMPLETE", 60)]
    assert ran(tmp_path) == ALL_IDS


def test_two_first_jobsets_at_once(script, gates, sql):
    """Neither may see, or stumble over, the shared tables that the other has not committed yet."""
    first = script(STARTER, "first", "half")
    await_line(first, "at half")
    second = script(STARTER, "second", "")
    wait_until(lambda: waiting_for_lock(sql, "advisory"), "the second starter to wait for the first")
    gates("half")
    assert (first.communicate()[0].count("Creating table"), second.communicate()[0].count("Creating table")) == (0, 1)
    assert (first.returncode, second.returncode) == (0, 0)
    assert sql("SELECT jobset_id, total FROM wb_jobsets ORDER BY 1") == [("first", 60), ("second", 60)]


@pytest.mark.parametrize("there_are_others", [False, True])
@pytest.mark.usefixtures("gates")
def test_a_killed_loader_leaves_nothing(script, sql, address, tmp_path, there_are_others):
    if there_are_others:
        postgres_jobset("other", lambda *_: None, ["a"], **address, verbose=False)
    before = sql(RELATIONS)
    first = script(STARTER, "killed", "half")
    await_line(first, "at half")
    waiting = script(STARTER, "killed", "")
    wait_until(lambda: waiting_for_lock(sql, "transactionid" if there_are_others else "advisory"), "the second to wait")
    assert sql(RELATIONS) == before
    first.kill()
    said = waiting.communicate()[0]
    assert waiting.returncode == 0
    assert "Creating table for jobset 'killed'..." in said
    assert "60 of 60 jobs complete" in said
    assert ran(tmp_path) == ALL_IDS


def test_killed_alone_then_started_again(script, gates, sql, tmp_path):
    first = script(STARTER, "again", "half")
    await_line(first, "at half")
    first.kill()
    wait_until(lambda: not alive(first.pid))
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'workerbee%'"
    wait_until(lambda: sql(sessions) == [(0,)], "the server to notice")
    assert sql(RELATIONS) == []
    second = script(STARTER, "again", "half")
    await_line(second, "at half")
    gates("half")
    assert "60 of 60 jobs complete" in second.communicate()[0]
    assert ran(tmp_path) == ALL_IDS


def quiet(_line):
    """For set_up to tell its steps to."""


INTERRUPTED = """
import itertools, signal, sys
from workerbee.address import connect, resolve
from workerbee.loading import set_up
from workerbee.store import Store

class Stop(BaseException):
    pass

def stop(*_):
    raise Stop

signal.signal(signal.SIGALRM, stop)
store = Store(connect(resolve(), "workerbee test"), "stopped")
for _ in range(10):
    try:
        # Long ids: the driver sends for most of the time, and that is where the signal comes.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        set_up(store, itertools.repeat("x" * 2600), None, lambda line: None)
    except Stop:
        print("stopped", store.run("find_shared_tables"), flush=True)
"""


def test_a_signal_while_the_driver_sends(script):
    """What the signal's handler raises, such as KeyboardInterrupt, comes out and is not taken for a failed COPY."""
    process = script(INTERRUPTED)
    assert process.communicate()[0].splitlines() == ["stopped [(False,)]"] * 10


CTRL_C = """
import itertools
from workerbee import postgres_jobset
postgres_jobset("endless", print, map(str, itertools.count()))
"""


def test_ctrl_c_while_loading(script, sql):
    process = script(CTRL_C)
    wait_until(
        lambda: sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY pg_temp.wb_staging%'"), "the COPY to begin"
    )
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == -signal.SIGINT
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert "psycopg2" not in said
    assert sql(RELATIONS) == []


MEMORY = """
import resource
from workerbee.address import connect, resolve
from workerbee.loading import set_up
from workerbee.store import Store

def load(name, jobs):
    connection = connect(resolve(), "workerbee test")
    set_up(Store(connection, name), jobs, None, print)
    connection.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def ids(count):
    for number in range(count):
        yield f"{number:0100}"

def pairs(count):
    for job_id in ids(count):
        yield job_id, {"path": job_id, "more": [job_id + str(n) for n in range(6)]}

before = load("small", pairs(1000))
print("grown", load("ids", ids(300_000)) - before, load("pairs", pairs(20_000)) - before)
"""


def test_a_generator_is_never_held_whole(script, sql):
    process = script(MEMORY)
    said = process.communicate()[0].splitlines()
    # The ids alone are 43 MB as Python has them, the data more than that.
    assert all(int(kilobytes) < 15_000 for kilobytes in said[-1].removeprefix("grown ").split())
    assert "jobset 'ids' set up with 300000 jobs." in said
    assert "job_data provided for 20000 jobs" in said
    assert sql("SELECT total FROM wb_jobsets ORDER BY 1") == [(1000,), (20_000,), (300_000,)]
    assert sql("SELECT count(*) FROM wb__pairs WHERE data->>'path' = job_id") == [(20_000,)]


@pytest.fixture
def store(parameters):
    def make(jobset_id, **more):
        connection = connect(Address({**parameters, **more}), "workerbee test")
        connections.append(connection)
        return Store(connection, jobset_id)

    connections = []
    yield make
    for connection in connections:
        connection.close()


def test_positions_and_ranges(store, sql):
    for count in (1, 2, 3, 511, 512, 513, 1023, 1024, 1025, 10_000):
        name = f"n{count}"
        set_up(store(name), map(str, range(count)), None, quiet)
        # The rows lie on disk in the order of positions, each once, none left out.
        assert sql(f"SELECT pos FROM wb__{name}") == [(pos,) for pos in range(1, count + 1)]
        ids = [int(job_id) for (job_id,) in sql(f"SELECT job_id FROM wb__{name} ORDER BY pos")]
        assert sorted(ids) == list(range(count))
        ranges = sql(f"SELECT attempts, lo, hi FROM wb_ranges__{name} ORDER BY lo")
        assert [pos for _, lo, hi in ranges for pos in range(lo, hi + 1)] == list(range(1, count + 1))
        width = max(1, count // 512)
        assert {hi - lo + 1 for _, lo, hi in ranges[:-1]} <= {width}
        assert {attempts for attempts, _, _ in ranges} == {0}
        if count > 1000:
            # Shuffled: about half the neighbours ascend.
            ascents = sum(a < b for a, b in itertools.pairwise(ids))
            assert 0.4 * count < ascents < 0.6 * count


def test_wide_ranges_are_limited(store, sql):
    """Ten million jobs' ranges, without the jobs."""
    one = store("wide")
    set_up(one, ["a"], None, quiet)
    sql("DELETE FROM wb_ranges__wide")
    one.run("deal_ranges", total=10_000_001, most=1024)
    assert sql("SELECT count(*), min(lo), max(hi), max(hi - lo + 1), sum(hi - lo + 1) FROM wb_ranges__wide") == [
        (9766, 1, 10_000_001, 1024, 10_000_001)
    ]


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("wb__x", "CREATE TABLE wb__x (a int)"),
        ("wb__x", "CREATE VIEW wb__x AS SELECT 1"),
        ("wb__x", "CREATE TYPE wb__x AS ENUM ()"),
        ("wb_claims__x", "CREATE SEQUENCE wb_claims__x"),
        ("wb_jobs__x", "CREATE TABLE wb_jobs__x (a int)"),
        ("wb_id__x", "CREATE TABLE t (a int CONSTRAINT wb_id__x UNIQUE)"),
    ],
)
def test_a_foreign_table(address, sql, name, statement):
    sql(statement)
    before = sql(RELATIONS)
    with pytest.raises(DatabaseError) as caught:
        postgres_jobset("x", lambda *_: None, ["a"], **address, verbose=False)
    assert f'"{name}" already exists' in str(caught.value)
    assert "none of this workerbee's" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert sql(RELATIONS) == before


def test_ids_of_an_existing_jobset_are_not_read(address, capsys):
    postgres_jobset("there", lambda *_: None, ["a", "b"], **address, verbose=False)

    def ids():
        pytest.fail("read")
        yield

    for given, said in (
        (ids(), "; the job_ids (not counted) given are ignored."),
        (["c"], "; the 1 job_ids given are ignored."),
        (None, "."),
    ):
        summary = postgres_jobset("there", pytest.fail, given, **address)
        assert f"jobset 'there' exists already, with 2 jobs{said}" in capsys.readouterr().out
        assert summary.total == 2


def test_what_is_said_of_a_stream(address, capsys):
    postgres_jobset("stream", lambda *_: None, iter([("a", {}), "b", "c"]), **address)
    said = capsys.readouterr().out
    assert (
        "Adding jobs to jobset 'stream'...\njob_data provided for 1 jobs\njobset 'stream' set up with 3 jobs." in said
    )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_databases_that_are_not_in_utf8(server, encoding, monkeypatch):
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN9")
    name = f"wb_{encoding.lower()}_{os.getpid()}"
    admin = psycopg2.connect(**server)
    admin.autocommit = True
    admin.cursor().execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' "
        + ("LOCALE_PROVIDER libc" if admin.server_version >= 150000 else "")
    )
    address = {**{key: value for key, value in server.items() if key != "dbname"}, "database": name}
    try:
        fits = {"LATIN1": "naïve", "SQL_ASCII": "naïve 日本 👩", "EUC_JP": "日本"}[encoding]
        seen = {}
        postgres_jobset("fits", seen.__setitem__, [(fits, {"x": "👩\0"})], **address, verbose=False)
        assert seen == {fits: {"x": "👩\0"}}
        if encoding != "SQL_ASCII":
            late = (str(number) if number != 20_000 else "👩" for number in range(40_000))
            with pytest.raises(InvalidValue, match=r"cannot hold.*job_ids.*COPY wb_staging, line 20001"):
                postgres_jobset("not", pytest.fail, late, **address, verbose=False)
    finally:
        admin.cursor().execute(f"DROP DATABASE {name}")
        admin.close()


def test_data_too_deep_for_the_server(address, sql):
    deep = {}
    for _ in range(3000):
        deep = {"d": deep}
    sql(f"ALTER DATABASE {address['database']} SET max_stack_depth = '100kB'")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        with pytest.raises(InvalidValue, match=r"cannot hold.*job_data.*stack depth"):
            postgres_jobset("deep", pytest.fail, [("a", deep)], **address, verbose=False)
    finally:
        sys.setrecursionlimit(limit)
    assert sql(RELATIONS) == []


@pytest.mark.parametrize("odd", ["back\\slash", "\\N", "tab\there", "ü", "x" * 2600, ("pair", {"a": 1}), None])
def test_plain_ids_beside_odd_ones_are_what_they_were(store, sql, odd):
    ids = [*map(str, range(1200))]
    if odd is not None:
        ids[700] = odd
    set_up(store("odd"), iter(ids), None, quiet)
    rows = sql("SELECT job_id, data FROM wb__odd")
    assert dict(rows) == dict(item if isinstance(item, tuple) else (item, None) for item in ids)
    assert len(rows) == 1200


@pytest.mark.parametrize("odd", ["", "x" * 2601, "nul\0", "\udcff", b"bytes", 7])
def test_an_id_that_cannot_be_is_found_among_plain_ones(store, sql, odd):
    ids = [*map(str, range(1200))]
    ids[700] = odd
    with pytest.raises(WorkerbeeError):
        set_up(store("bad"), iter(ids), None, quiet)
    assert sql("SELECT to_regclass('wb__bad')") == [(None,)]
