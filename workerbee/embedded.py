"""A PostgreSQL server that needs no installation, shared by all processes of one OS user on a machine.

`start()` makes the calling process a user of the server, and starts it if it is not up. Nobody stops it by
hand: a small process beside it, the warden, does when its last user has gone. It all rests on one private
folder, `pg18` in the home, and on kernel locks (flock) there, which end with the processes that hold them:

    users.lock    shared: each user, its forks included; exclusive: the warden, while it stops the server
    warden.lock   the warden
    server.lock   who sets up or starts the server, then all its processes: free means that none is left
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from workerbee import cluster
from workerbee.errors import DatabaseError
from workerbee.warden import take

START_SECONDS = 120
_user_locks: dict[Path, int] = {}


def start(home: Path | None = None) -> dict[str, str]:
    """Start the server of `home` if it is not up, and use it.

    Returns libpq's parameters for it. This process, and those that it forks, count as users until they exit
    (or exec another program). Raises DatabaseError, with the end of the server's log where there is one.
    """
    package = cluster.find_package()
    home = (home or default_home()).expanduser().resolve()
    try:
        base = _make_base(home)
        _become_user(base)
        _ensure_warden(base)
        folder = _ensure_server(base, package)
    except OSError as error:
        raise DatabaseError(f"cannot run the embedded PostgreSQL in {home}: {error}") from error
    return {"host": str(folder), "port": cluster.PORT, "user": cluster.ROLE, "dbname": cluster.DATABASE}


def default_home() -> Path:
    """WORKERBEE_HOME, or the platform's folder for a user's data; /var/lib/workerbee as root."""
    if given := os.environ.get("WORKERBEE_HOME"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/workerbee")
    try:
        from platformdirs import user_data_path
    except ImportError:
        raise DatabaseError(cluster.NOT_INSTALLED) from None
    return user_data_path("workerbee")


def _make_base(home: Path) -> Path:
    """Our folder in `home`, made if need be; no other folder's permissions are changed."""
    base = home / "pg18"
    root = os.geteuid() == 0
    if root:
        cluster.check_open_to_server(home)
    for folder in [f for f in reversed(base.parents) if not f.exists()]:
        folder.mkdir(exist_ok=True)
        if root:
            folder.chmod(0o755)
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise DatabaseError(f"{base} is not a folder of {cluster.user_name()}: remove it, or set WORKERBEE_HOME")
    if root:
        os.chown(base, 0, cluster.server_ids()[1])
    base.chmod(0o710 if root else 0o700)
    return base


def _become_user(base: Path) -> None:
    """Hold users.lock until this process and its forks are gone. Waits while a warden stops the server."""
    lock = _open(base / "users.lock")
    held = _user_locks.get(base)
    # Not the same file: the folder was removed and made again, and our lock guards nothing.
    if held is not None and os.path.samestat(os.fstat(held), os.fstat(lock)):
        os.close(lock)
        return
    fcntl.flock(lock, fcntl.LOCK_SH)
    # Never closed. Of two threads that come here at once one is forgotten, which does no harm.
    _user_locks[base] = lock


def _open(path: Path) -> int:
    # For writing too: NFS gives exclusive locks to writers only. Python makes it close-on-exec.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextlib.contextmanager
def _taken_if_free(path: Path) -> Iterator[int | None]:
    """The lock, taken, for a process to inherit; None if another has it."""
    lock = _open(path)
    try:
        yield lock if take(lock) else None
    finally:
        os.close(lock)


def _ensure_warden(base: Path) -> None:
    """Start a warden if none lives. Before the server, which must not be left alone if we are killed next."""
    with _taken_if_free(base / "warden.lock") as lock:
        if lock is not None:
            warden = Path(__file__).with_name("warden.py")
            command = [sys.executable, "-I", "-S", str(warden), str(base), str(lock)]
            cluster.detach(command, base / "warden.log", lock)


def _ensure_server(base: Path, package: Path) -> Path:
    """The socket folder of the running server, started if need be; for a holder of users.lock."""
    launched = False
    deadline = time.monotonic() + START_SECONDS
    while not (folder := cluster.listening(base)):
        with _taken_if_free(base / "server.lock") as lock:
            if lock is not None and launched:
                raise DatabaseError(f"the embedded PostgreSQL did not start; {cluster.end_of_log(base)}")
            if lock is not None:
                cluster.launch(base, package, lock)
                launched = True
        # Held, but not listening: it comes up, for us or another starter, dead or alive; or its postmaster was
        # killed, and the rest of it has yet to notice.
        where = (base / "server.lock").read_text()
        if where not in ("", os.uname().nodename):
            raise DatabaseError(f"the embedded PostgreSQL in {base} is in use on another machine, {where}")
        if time.monotonic() > deadline:
            raise DatabaseError(f"the embedded PostgreSQL takes over {START_SECONDS} s; {cluster.end_of_log(base)}")
        time.sleep(0.01)
    return folder
