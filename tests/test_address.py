"""Which database, as whom, and what is said when that does not work."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest

from tests.helpers import alive, wait_until
from workerbee import DatabaseError, InvalidValue, WorkerbeeError, batch, cluster, postgres_jobset
from workerbee.address import connect, resolve

USER, PASSWORD = "weaver", "ge%heim/ @:=1'\\"
GUEST, GUEST_PASSWORD = "guest", "gastwort"
DATABASE, OTHER = "hive", "other"


class Server(NamedTuple):
    host: str
    port: str

    def address(self, **changes):
        """Arguments that work."""
        return {
            "host": self.host,
            "port": self.port,
            "user": USER,
            "database": DATABASE,
            "password": PASSWORD,
            **changes,
        }

    def without(self, *names):
        return {name: value for name, value in self.address().items() if name not in names}


def free_port():
    """One that nothing listens at; nothing keeps it free, either."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tcp():
    """A server that asks for passwords, over TCP; the embedded one lets its user in without."""
    # Not below pytest's tmp_path, which is closed to the account that root's server runs under.
    home = Path(tempfile.mkdtemp(prefix="workerbee-tcp-"))
    home.chmod(0o755)
    account: dict = {"cwd": "/"}
    data = home / "data"
    data.mkdir()
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    programs = cluster.find_programs(home, cluster.find_package())
    (home / "password").write_text("admin")
    (home / "password").chmod(0o644)
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "admin", "-A", "scram-sha-256", "--pwfile", home / "password", "-N"],
        check=True,
        stdout=subprocess.DEVNULL,
        **account,
    )
    server, process = None, None
    try:
        while server is None:
            port = free_port()
            settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
            options = [part for setting, value in settings.items() for part in ("-c", f"{setting}={value}")]
            with (home / "log").open("w") as log:
                process = subprocess.Popen([programs / "postgres", "-D", data, *options], stderr=log, **account)
            if wait_until(lambda process=process, port=port: _started(process, port), "the server") == "started":
                server = Server("127.0.0.1", port)
            else:  # somebody else has taken the port meanwhile
                assert "could not create any TCP/IP sockets" in (home / "log").read_text()
        admin = psycopg2.connect(host="127.0.0.1", port=server.port, user="admin", password="admin", dbname="postgres")
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("CREATE ROLE weaver LOGIN PASSWORD %s", (PASSWORD,))
            cursor.execute("CREATE ROLE guest LOGIN PASSWORD %s", (GUEST_PASSWORD,))
            cursor.execute("CREATE DATABASE hive OWNER weaver")
            cursor.execute("CREATE DATABASE other OWNER weaver")
        admin.close()
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait()
        shutil.rmtree(home)


def _started(process, port):
    """'started' once it takes connections, 'ended' if it never will."""
    if process.poll() is not None:
        return "ended"
    with suppress(psycopg2.OperationalError):
        # Whoever else may listen there may never answer.
        own = {"host": "127.0.0.1", "port": port, "user": "admin", "password": "admin", "dbname": "postgres"}
        psycopg2.connect(**own, connect_timeout=5).close()
        return "started"
    return None


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """Neither an address nor a batch system but those that a test sets."""
    for name in list(os.environ):
        if name.startswith("PG") or any(name in names for names in batch._SET_FOR_JOBS.values()):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def reached(*arguments, **options):
    """Who we are, and where, by the server's word."""
    connection = connect(resolve(*arguments, **options), "workerbee test")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database(), inet_server_port()::text")
        (found,) = cursor.fetchall()
    connection.close()
    return found


def quoted(text):
    """As a URI has it."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


# Which of several


def test_arguments(tcp):
    assert reached(**tcp.address()) == (USER, DATABASE, tcp.port)
    assert reached(**tcp.address(port=int(tcp.port))) == (USER, DATABASE, tcp.port)
    assert reached(tcp.host, tcp.port, USER, DATABASE, PASSWORD) == (USER, DATABASE, tcp.port)


def test_variables_take_the_place_of_missing_arguments(tcp, monkeypatch):
    variables = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "database": "PGDATABASE"}
    for name, variable in variables.items():
        monkeypatch.setenv(variable, tcp.address()[name])
        assert reached(**tcp.without(name)) == (USER, DATABASE, tcp.port)
    assert reached(password=PASSWORD) == (USER, DATABASE, tcp.port)
    assert reached(host="", port="", user="", database="", password=PASSWORD) == (USER, DATABASE, tcp.port)


def test_arguments_go_before_variables(tcp, monkeypatch):
    for variable in ("PGHOST", "PGUSER", "PGDATABASE", "PGPASS", "PGPASSWORD"):
        monkeypatch.setenv(variable, "wrong")
    monkeypatch.setenv("PGPORT", "1")
    assert reached(**tcp.address()) == (USER, DATABASE, tcp.port)


def test_the_password_of_many(tcp, monkeypatch, tmp_path):
    """Each source in turn has the right one, those after it a wrong one, and those before it none."""
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)

    def say(password):
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        passfile.write_text(f"*:*:*:{USER}:{escaped}\n")

    say(PASSWORD)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    base = tcp.without("password")
    assert reached(**base) == (USER, DATABASE, tcp.port)
    say("wrong")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert reached(**base) == (USER, DATABASE, tcp.port)
    monkeypatch.setenv("PGPASSWORD", "wrong")
    monkeypatch.setenv("PGPASS", PASSWORD)
    assert reached(**base) == (USER, DATABASE, tcp.port)
    monkeypatch.setenv("PGPASS", "wrong")
    uri = f"postgresql://{USER}:{quoted(PASSWORD)}@{tcp.host}:{tcp.port}/{DATABASE}"
    assert reached(database=uri) == (USER, DATABASE, tcp.port)
    assert reached(database=uri.replace(quoted(PASSWORD), "wrong"), password=PASSWORD) == (USER, DATABASE, tcp.port)
    with pytest.raises(DatabaseError, match="password authentication failed"):
        reached(**base)


def test_home_passfile(tcp, tmp_path):
    passfile = tmp_path / ".pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"{tcp.host}:{tcp.port}:{DATABASE}:{GUEST}:{GUEST_PASSWORD}\n")
    address = tcp.address(user=GUEST, password=None)
    assert reached(**address) == (GUEST, DATABASE, tcp.port)
    assert resolve(**address).has_password


def test_connection_strings(tcp, monkeypatch):
    monkeypatch.setenv("PGPASS", PASSWORD)
    here = f"{tcp.host}:{tcp.port}"
    for database in (
        f"postgresql://{USER}@{here}/{DATABASE}",
        f"postgres://{USER}@{here}/{DATABASE}?connect_timeout=30&application_name=mine",
        f"postgresql:///{DATABASE}?host={tcp.host}&port={tcp.port}&user={USER}",
        f"host={tcp.host} port={tcp.port} user={USER} dbname={DATABASE}",
        f"host = '{tcp.host}' port={tcp.port} user='{USER}' dbname={DATABASE}",
        # The first host that answers.
        f"postgresql://{USER}@{tcp.host}:{free_port()},{here}/{DATABASE}",
    ):
        assert reached(database=database) == (USER, DATABASE, tcp.port)
    # Arguments go before what the string says.
    wrong = "postgresql://wrong@192.0.2.1:1/other"
    assert reached(tcp.host, tcp.port, USER, wrong) == (USER, OTHER, tcp.port)
    assert reached(user=GUEST, password=GUEST_PASSWORD, database=f"postgresql://{USER}:x@{here}/{DATABASE}")[0] == GUEST


def test_services(tcp, monkeypatch, tmp_path):
    service = tmp_path / "services"
    lines = {"host": tcp.host, "port": tcp.port, "user": USER, "dbname": DATABASE, "password": PASSWORD}
    service.write_text("[hive]\n" + "".join(f"{key}={value}\n" for key, value in lines.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    for address in ({"database": "service=hive"}, {"database": "postgresql://?service=hive"}):
        assert reached(**address) == (USER, DATABASE, tcp.port)
    monkeypatch.setenv("PGSERVICE", "hive")
    assert reached() == (USER, DATABASE, tcp.port)
    assert reached(database=OTHER) == (USER, OTHER, tcp.port)
    assert "service hive" in str(resolve())
    assert resolve().has_password
    monkeypatch.setenv("PGSERVICE", "none")
    with pytest.raises(DatabaseError, match=r'service none.*"none" not found'):
        reached()


def test_what_is_said_before_connecting(tcp, capsys, monkeypatch):
    def said(**address):
        postgres_jobset("said", lambda *_: None, ["a"], **address)
        return capsys.readouterr().out.splitlines()

    first = f"Connecting to database {DATABASE} on {USER}@{tcp.host}:{tcp.port}..."
    assert said(**tcp.address())[0] == first
    assert "password" not in " ".join(said(**tcp.address()))
    monkeypatch.setenv("PGPASS", PASSWORD)
    uri = f"postgresql://{USER}@{tcp.host}:{tcp.port}/{DATABASE}"
    lines = said(database=uri)
    assert lines[0] == first
    assert not any("password" in line for line in lines)
    monkeypatch.delenv("PGPASS")
    with pytest.raises(DatabaseError):
        said(database=uri)
    assert capsys.readouterr().out.splitlines() == [
        first,
        " - No password is set. (If needed, set the environment variable PGPASS.)",
    ]


def test_the_system_user_is_libpqs(monkeypatch):
    """libpq goes by the process's uid, not by what sudo or su left in the environment."""
    monkeypatch.setenv("LOGNAME", "wrong")
    monkeypatch.setenv("USER", "wrong")
    assert resolve(host="h").user == resolve(host="h").database == pwd.getpwuid(os.geteuid()).pw_name


def test_a_passfile_out_of_reach(monkeypatch, tmp_path):
    assert not resolve(host="h").has_password
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    monkeypatch.setenv("PGPASSFILE", str(closed / "passfile"))
    assert not resolve(host="h").has_password


# What is said when it does not work


def refused(kind, *secrets, **address):
    """The one line of the error; none of the `secrets` is in it, nor anywhere near it."""
    with pytest.raises(kind) as caught:
        postgres_jobset("refused", lambda *_: None, ["a"], **{"verbose": False, **address})
    error = caught.value
    assert isinstance(error, WorkerbeeError)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert len(str(error).splitlines()) == 1
    for secret in secrets:
        assert secret not in f"{error} {error!r} {''.join(traceback.format_exception(error))}"
    return str(error)


def test_unreachable(tcp):
    port = free_port()
    said = refused(DatabaseError, PASSWORD, **tcp.address(port=port))
    assert said.startswith(f"cannot connect to database {DATABASE} on {USER}@127.0.0.1:{port}: ")
    assert "failed: Connection refused; Is the server running" in said
    folder = "/nowhere/at all"
    assert f"{USER}@{folder}:5432" in refused(DatabaseError, host=folder, user=USER, database="d")
    said = refused(DatabaseError, PASSWORD, **tcp.address(host="no\nhost.invalid"))
    assert f"{USER}@no\\nhost.invalid:{tcp.port}" in said


def test_wrong_password(tcp):
    said = refused(DatabaseError, "falsch", **tcp.address(password="falsch"))
    assert f"{USER}@127.0.0.1:{tcp.port}" in said
    assert f'password authentication failed for user "{USER}"' in said
    # A password that is a part of what is said anyway: nobody can see that it is one.
    assert refused(DatabaseError, **tcp.address(password=USER)) == said
    said = refused(DatabaseError, **tcp.without("password"))
    assert "no password supplied" in said


def test_missing_database(tcp):
    said = refused(DatabaseError, PASSWORD, **tcp.address(database="nothing"))
    assert said.startswith(f"cannot connect to database nothing on {USER}@127.0.0.1:{tcp.port}: ")
    assert 'database "nothing" does not exist' in said


def test_missing_user(tcp):
    assert '"nobody at all"' in refused(DatabaseError, PASSWORD, **tcp.address(user="nobody at all"))


def test_no_right_to_create(tcp):
    said = refused(DatabaseError, GUEST_PASSWORD, **tcp.address(user=GUEST, password=GUEST_PASSWORD, database=OTHER))
    assert f"user {GUEST} lacks a right in database {OTHER} on {GUEST}@127.0.0.1:{tcp.port}" in said
    assert "permission denied for schema public" in said
    assert "CREATE" in said


def test_no_right_to_join(tcp):
    """A jobset of another user's."""
    assert postgres_jobset("private", lambda *_: None, ["a"], **tcp.address(), verbose=False).ok
    with pytest.raises(DatabaseError, match=r"user guest lacks a right .* permission denied for table wb_"):
        postgres_jobset(
            "private", pytest.fail, ["a"], **tcp.address(user=GUEST, password=GUEST_PASSWORD), verbose=False
        )


MALFORMED = [
    "postgresql://weaver:ge%heim@127.0.0.1/hive",
    "postgresql://weaver:ge@heim@127.0.0.1/hive",
    "postgresql://weaver:geheim/@127.0.0.1/hive",
    "postgresql://weaver:12/geheim@127.0.0.1/hive",
    "postgresql://weaver:geheim/hive",
    "postgresql://weaver:geheim@127.0.0.1:54x/hive",
    "postgresql://weaver:geheim@127.0.0.1/hive?nonsense",
    "postgresql://weaver:geheim@[127.0.0.1/hive",
    "postgresql:/weaver:geheim@127.0.0.1/hive",
    "postgresql+psycopg2://weaver:geheim@127.0.0.1/hive",
    "postgresql+psycopg2://weaver:geheim@127.0.0.1/hive?sslmode=require",
    "PostgreSQL://weaver:geheim@127.0.0.1/hive",
    "mysql://weaver:geheim@127.0.0.1/hive",
    "weaver:geheim@127.0.0.1/hive",
    "host=127.0.0.1 user=weaver password='geheim dbname=hive",
    "host=127.0.0.1 user=weaver password=my geheim dbname=hive",
    "host=127.0.0.1 user=weaver geheim=hive",
]


@pytest.mark.parametrize("database", MALFORMED)
def test_a_malformed_connection_string_is_not_shown(database, capsys):
    said = refused(InvalidValue, "geheim", "heim@", database=database, verbose=True)
    assert said.startswith("database ")
    assert "geheim" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["host", "PGHOST", "PGDATABASE"])
def test_a_connection_uri_in_the_wrong_place(name, monkeypatch, capsys):
    uri = "postgresql://weaver:geheim@127.0.0.1/hive"
    if name.startswith("PG"):
        monkeypatch.setenv(name, uri)
    said = refused(InvalidValue, "geheim", verbose=True, **({"host": uri} if name == "host" else {}))
    assert name in said
    assert "database='postgresql://...'" in said
    assert "geheim" not in capsys.readouterr().out


def test_pgpass_that_is_no_text(monkeypatch):
    monkeypatch.setenv("PGPASS", os.fsdecode(b"geheim\xff"))
    assert "PGPASS" in refused(InvalidValue, "geheim", host="127.0.0.1")


def test_the_password_is_in_no_repr(tcp):
    address = resolve(**tcp.address())
    assert PASSWORD not in f"{address!r} {address} {address.host} {address.user} {address.database}"


UNCAUGHT = """
import sys
from workerbee.postgresql import postgres_jobset

def main():
    postgres_jobset("uncaught", print, ["a"], verbose=False)

main()
"""


def test_an_uncaught_error_shows_no_frames_of_ours(script):
    port = free_port()
    process = script(UNCAUGHT, PGHOST="127.0.0.1", PGPORT=port, PGUSER=USER, PGDATABASE=DATABASE, PGPASS="geheim")
    said = process.communicate()[0]
    assert process.returncode == 1
    lines = said.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    frames = [line for line in lines if line.startswith("  File ")]
    assert len(frames) == 2
    assert all(str(process.args[1]) in frame for frame in frames)
    assert lines[-1].startswith(f"workerbee.errors.DatabaseError: cannot connect to database {DATABASE} on {USER}@")
    assert "psycopg2" not in said
    assert "geheim" not in said


# No address at all


@pytest.mark.parametrize(("system", "variables"), batch._SET_FOR_JOBS.items())
def test_a_batch_system_wants_an_address(tcp, system, variables, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKERBEE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variables[0], "1")
    for address in ({}, {"password": "geheim"}, {"host": "", "port": ""}):
        said = refused(DatabaseError, "geheim", **address)
        assert f"under {system}" in said
        assert "PGHOST" in said
    assert not (tmp_path / "home").exists()
    assert reached(**tcp.address()) == (USER, DATABASE, tcp.port)


@pytest.mark.parametrize(
    "name", ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "host", "port", "user", "database"]
)
def test_any_part_of_an_address_names_a_server(name, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKERBEE_HOME", str(tmp_path / "home"))
    value = "5433" if "PORT" in name.upper() else "somewhat"
    if name.isupper():
        monkeypatch.setenv(name, value)
    address = resolve(**({} if name.isupper() else {name: value}))
    assert not address.embedded
    assert value in str(address)
    assert not (tmp_path / "home").exists()


EMBEDDED = """
from workerbee import postgres_jobset
print(postgres_jobset("here", print, ["a"]))
"""


def test_without_any_address_the_embedded_server(tmp_path):
    home = Path(tempfile.mkdtemp(prefix="workerbee-home-"))
    home.chmod(0o755)
    path = tmp_path / "script.py"
    path.write_text(EMBEDDED)
    # PGPASS is no address, nor is an address that is empty.
    environment = {**os.environ, "WORKERBEE_HOME": str(home), "PGPASS": "geheim", "PGHOST": ""}
    try:
        done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Connecting to the embedded PostgreSQL in {home}")
        assert "No password" not in done.stdout
        assert "1 of 1 jobs complete" in done.stdout
        assert done.stderr == ""
    finally:
        pids = home / "pg18" / "data" / "postmaster.pid"
        if pids.exists():
            with suppress(FileNotFoundError, IndexError):  # it is just ending
                pid = int(pids.read_text().split()[0])
                wait_until(lambda: not alive(pid), "the server to end, its user being gone")
        shutil.rmtree(home, ignore_errors=True)
