"""A PostgreSQL server of a test's own, with a password and a port, for it to restart, fill and misconfigure."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.helpers import wait_until
from workerbee import cluster

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "autovacuum_naptime": "1d",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "lc_messages": "C",
}


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """Runs in `folder`, an empty one, with `settings` beside those that all tests want."""

    def __init__(self, folder: Path, data: Path, **settings: str) -> None:
        self._folder = folder
        self._data = data
        self._programs = cluster.find_programs(folder, cluster.find_package())
        self._process: subprocess.Popen[bytes] | None = None
        self.parameters = {
            "host": "127.0.0.1",
            "port": str(free_port()),
            "user": "tester",
            "password": secrets.token_hex(),
            "dbname": "postgres",
        }
        self._settings = {**SETTINGS, "port": self.parameters["port"], **settings}
        # Root's server runs as somebody else, who needs a place to write.
        self._data.mkdir()
        os.chown(self._data, *cluster.server_ids())
        password = folder / "password"
        password.write_text(self.parameters["password"])
        os.chown(password, *cluster.server_ids())
        command = ["-D", str(self._data), "-U", "tester", "--auth=scram-sha-256", f"--pwfile={password}"]
        command += ["--no-sync", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        subprocess.run([self._programs / "initdb", *command], check=True, stdout=subprocess.DEVNULL, **self._account())

    def _account(self) -> dict[str, object]:
        uid, gid = cluster.server_ids()
        account = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
        return {**account, "cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._launch()
        wait_until(self._answers, "the server to start")

    def _launch(self) -> None:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account(),
            )

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it: fast with SIGINT, immediately with SIGQUIT."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def stand_by(self) -> None:
        """Start it as a standby that takes no connections."""
        (self._data / "standby.signal").touch()
        self._launch()

    def lead(self) -> None:
        """Start it as a primary again."""
        (self._data / "standby.signal").unlink()
        self.start()

    @property
    def environ(self) -> dict[str, str]:
        """How libpq finds it."""
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        return {names[key]: value for key, value in self.parameters.items()}

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def sql(self, query: str, *values: object, dbname: str = "") -> list[tuple[object, ...]]:
        """What a superuser is told."""
        connection = psycopg2.connect(**{**self.parameters, **({"dbname": dbname} if dbname else {})})
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def configure(self, **settings: str) -> None:
        """ALTER SYSTEM and reload; an empty value resets."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
        self.sql("SELECT pg_reload_conf()")

    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            self.sql("SELECT")
        except psycopg2.OperationalError:
            assert self._process is not None
            assert self._process.poll() is None, self.log()
            return False
        return True


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that root's server can get to: pytest's tmp_path is closed to its account."""
    folder = Path(tempfile.mkdtemp(prefix="workerbee-server-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(data: Path | None = None, **settings: str) -> Iterator[Server]:
    """A server that runs, and is gone at the end; `data` is where its data go, if not beside its programs."""
    with open_folder() as folder:
        server = Server(folder, data or folder / "data", **settings)
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A folder on a disk of 96 MB; the test is skipped where it cannot be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="workerbee-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=755", "tmpfs", folder], check=False)
    try:
        if mounted.returncode:
            pytest.skip("needs the right to mount a small disk")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()
