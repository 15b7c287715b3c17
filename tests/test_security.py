"""Nothing that comes from outside is run as code or SQL, drives a terminal, or gives the password away."""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
import textwrap
from pathlib import Path

import psycopg2
import pytest
from setproctitle import getproctitle

import workerbee
from tests.test_display import Terminal
from workerbee import postgres_jobset
from workerbee.address import resolve
from workerbee.loading import set_up
from workerbee.node import Node
from workerbee.queries import identifiers, shelf
from workerbee.session import Session
from workerbee.store import Store

PACKAGE = Path(workerbee.__file__).parent
HOSTILE = (
    "'); DROP TABLE wb_jobsets; --\"%s%(x)s{jobs}\\\n\r\t"
    "\x1b]0;title\x07\x1b[2J\x1b[?1049h\x9b2J\x08\u202e\u2066\u2028\x00"
)
# Drives a terminal, breaks a line, or turns the text around.
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
PASSWORD = "pa55w0rd'\\ %&x"


def calls():
    """Each call in the package, by its file and dotted name."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield file.stem, ast.unparse(node.func), node


def test_nothing_is_unpickled_but_what_the_parent_sent():
    found = {(module, name) for module, name, _ in calls() if re.search(r"\bload(s)?$|Unpickler|unpickle", name)}
    assert {(module, name) for module, name in found if "json" not in name} <= {
        ("portable", "pickle.loads"),
        ("calling", "loads"),  # json's
    }
    assert "from json import loads" in (PACKAGE / "calling.py").read_text("utf-8")
    modules = {
        alias.name if isinstance(node, ast.Import) else node.module
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert modules & {"marshal", "shelve", "dill", "yaml", "joblib"} == set()


def test_nothing_is_run_as_code_or_by_a_shell():
    names = {name for _, name, _ in calls()}
    assert names & {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"} == set()
    assert not [node for _, _, node in calls() for word in node.keywords if word.arg == "shell"]


def test_values_are_never_spliced_into_sql(sql, address):
    """Queries are files; only a jobset's own tables are put into them, as identifiers."""
    executed = [
        (module, ast.unparse(node.args[0]))
        for module, name, node in calls()
        if name.endswith((".execute", "cursor.send", ".executemany", ".copy_expert", ".callproc", ".mogrify"))
    ]
    # A channel takes its queries from the shelf, and the link under it passes them on.
    shelved = {"self._queries[name]", "head + self._queries[name]"}
    assert set(executed) == {("channel", query) for query in shelved} | {("link", "query")}
    for name, query in shelf().items():
        assert set(re.findall(r"\{(\w*)\}", query.string)) <= set(identifiers("x")), name
        assert "EXECUTE" not in query.string and "||" not in query.string, name
    # And no column could hold an object.
    postgres_jobset("types", lambda *_: None, ["a"], **address, verbose=False)
    types = sql("SELECT DISTINCT data_type FROM information_schema.columns WHERE table_name LIKE 'wb%%'")
    assert {name for (name,) in types} <= {
        "bigint", "smallint", "integer", "boolean", "text", "json", "real", "double precision", "interval",
        "timestamp with time zone",
    }  # fmt: skip


class HostileError(Exception):
    pass


HostileError.__qualname__ = HOSTILE


def test_hostile_words_are_only_words(address, sql, tmp_path, capfd, caplog):
    """In ids, in what an exception says and is called, in the name of a host; shown, logged, and in process titles."""
    titles = tmp_path / "titles"
    ids = {f"{n}{HOSTILE}".replace("\0", ""): {HOSTILE: HOSTILE} for n in range(6)}

    def job(job_id, data):
        with titles.open("a") as file:
            print(ascii(getproctitle()), file=file)
        assert data == {HOSTILE: HOSTILE}
        if job_id.startswith("0"):
            raise HostileError(HOSTILE)
        if job_id.startswith("1"):
            os._exit(1)

    store = Store(psycopg2.connect(**{("dbname" if k == "database" else k): v for k, v in address.items()}), "hostile")
    set_up(store, ids, ids, lambda _: None)
    node = store.add_node(HOSTILE.replace("\0", ""), HOSTILE.replace("\0", ""), 1, 1)
    store.settle_and_claim(store.add_bee(node, 1), [], 1, node)
    store.close()
    sql("UPDATE wb_nodes SET beat_at = now() - interval '1 hour'")
    more = {"processes": 2, "max_attempts": 1, "max_crashes": 1, "lease": 1}
    with caplog.at_level(logging.DEBUG, "workerbee"):
        summary = postgres_jobset("hostile", job, **address, **more, verbose=False)
    assert (summary.total, summary.failed) == (6, 2)
    assert {job_id for (job_id,) in sql("SELECT job_id FROM wb__hostile")} == set(ids)
    assert sql("SELECT count(*) FROM wb_jobsets") == [(1,)]
    assert len(caplog.records) >= 3
    sql("UPDATE wb__hostile SET state = 'PENDING', finished_at = NULL, errors = 0, crashes = 0")
    sql("INSERT INTO wb_ranges__hostile (attempts, hi, lo) VALUES (0, 6, 1)")
    postgres_jobset("hostile", job, **address, **more)
    out, err = capfd.readouterr()
    assert "DROP TABLE" in out
    for said in (out, err, *(record.getMessage() for record in caplog.records), titles.read_text()):
        assert CONTROLS.search(said) is None, ascii(said)
    # The line of the log is one line.
    assert not any("\n" in record.getMessage() for record in caplog.records)
    titles_seen = {ast.literal_eval(line) for line in titles.read_text().splitlines()}
    assert all(title.isprintable() for title in titles_seen)
    assert any("DROP TABLE" in title for title in titles_seen)


BAR = """
    import os, sys
    from workerbee import postgres_jobset

    HOSTILE = eval(sys.argv[1])

    class HostileError(Exception):
        pass

    HostileError.__qualname__ = HOSTILE

    def job(job_id, data):
        if job_id[0] in "01":
            raise HostileError(HOSTILE)
        if job_id[0] == "2":
            os._exit(1)

    ids = [f"{n}{HOSTILE}".replace("\\0", "") for n in range(8)]
    postgres_jobset("bar", job, ids, processes=2, max_attempts=1, max_crashes=1)
"""


def test_hostile_words_do_not_drive_a_terminal(environ, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(BAR))
    terminal = Terminal(
        [sys.executable, str(tmp_path / "script.py"), ascii(HOSTILE)],
        {"env": {**environ, "TERM": "xterm-256color"}, "cwd": tmp_path},
        rows=40,
        stderr=None,
        columns=300,
    )
    try:
        rows = terminal.everything()
    finally:
        terminal.close()
    assert sum("DROP TABLE" in row for row in rows) >= 3
    shown = terminal.raw.decode()
    assert (
        re.search(
            "[\x00-\x07\x0b\x0c\x0e-\x1a\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]|\x1b]|\x1b\\[2J|\x1b\\[\\?1049",
            shown,
        )
        is None
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_password_is_nowhere(address, sql, tmp_path, capfd, caplog, monkeypatch, method):
    seen, logs = tmp_path / "seen", tmp_path / "logs"
    monkeypatch.delenv("PGPASSWORD", raising=False)

    def job(job_id, _data):
        # What anybody on this machine may read of this process and its siblings, and what only we may.
        parent = os.getppid()
        for pid in (*map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()), parent):
            for name in ("cmdline", "comm", "environ"):
                with seen.open("ab") as file:
                    file.write(Path(f"/proc/{pid}/{name}").read_bytes())
        print(f"{job_id} runs")
        if job_id == "raises":
            raise ValueError
        if job_id == "aborts":
            os.abort()

    with caplog.at_level(logging.DEBUG):
        postgres_jobset(
            "secret", job, ["raises", "aborts", "fine"], **{**address, "password": PASSWORD}, processes=2,
            max_attempts=1, max_crashes=1, start_method=method, log_dir=logs,
        )  # fmt: skip
    said = [*capfd.readouterr(), *(record.getMessage() for record in caplog.records)]
    said += [file.read_text() for file in logs.iterdir()]
    said += [seen.read_bytes().decode("utf-8", "replace")]
    for (table,) in sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'wb%%'"):
        said += [row for (row,) in sql(f"SELECT t::text FROM {table} t")]
    said += [" ".join(map(str, row)) for row in sql("SELECT query, application_name FROM pg_stat_activity")]
    assert len(said) > 10
    secrets = {PASSWORD, ascii(PASSWORD), "pa55w0rd"}
    assert not [text for text in said if any(secret in text for secret in secrets)]


def test_the_password_is_in_no_repr(address, monkeypatch):
    nodes = []
    supervise = Node.supervise

    def seen(node, *display):
        nodes.append(node)
        return supervise(node, *display)

    monkeypatch.setattr(Node, "supervise", seen)
    address = {**address, "password": PASSWORD}
    postgres_jobset("secret", lambda *_: None, ["a"], **address, verbose=False, processes=1)
    (node,) = nodes
    session = Session(node.work.address, "secret", "name", patience=0)
    session.call(lambda store: store.counts())
    try:
        assert node.work.address.parameters["password"] == PASSWORD
        store = session._store
        things = [resolve(**address), node, node.work, node.work.address, session, store, store.connection]
        for thing in [*things, store.connection.dsn]:
            assert "pa55w0rd" not in f"{thing!r} {thing}"
    finally:
        session.close()


def test_failure_records_are_bounded(address, sql, tmp_path):
    def job(job_id, _data):
        print("🐝" * 300_000)
        print("🐝\0" * 300_000, end="", flush=True)
        if job_id == "aborts":
            os.abort()
        raise type("🐝" * 100_000, (Exception,), {})("🐝\0" * 1_000_000)

    postgres_jobset(
        "bounded", job, ["raises", "aborts"], **address, verbose=False, processes=1, max_attempts=1, max_crashes=1,
        log_dir=tmp_path,
    )  # fmt: skip
    rows = sql(
        "SELECT length(type), length(message), length(stack), length(log), octet_length(f::text) FROM wb_failures f"
    )
    assert len(rows) == 2
    for type_, message, stack, log, all_ in rows:
        assert type_ < 300 and message < 20_000 and stack < 70_000 and log < 70_000 and all_ < 500_000
