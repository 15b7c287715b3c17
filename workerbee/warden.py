"""Stops the embedded server when its last user has gone: `python -I -S warden.py BASE LOCK_FD`.

A program for `embedded.py`, which starts it beside each server; by path and with the standard library only,
so that it starts fast, from any folder, and holds nothing of the process that started it. BASE is the
server's folder; LOCK_FD is BASE/warden.lock, locked already: there is no moment without a warden or with two.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

FAST_STOP_SECONDS = 30


def main(base: Path, warden_lock: int) -> None:
    """Wait until nobody uses the server, stop it, and go."""
    users = os.open(base / "users.lock", os.O_RDWR)
    # Given only when the last process with a shared lock is gone: the kernel lets go of a killed one's too.
    # From here to our end, whoever wants to become a user waits.
    fcntl.flock(users, fcntl.LOCK_EX)
    stop_server(base)
    # Before users.lock, which goes with this process: the next user must not take us for a living warden.
    os.close(warden_lock)


def stop_server(base: Path) -> None:
    """Stop the server in BASE and wait until all its processes are gone; nothing to do if there is none."""
    server = os.open(base / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    become_owner(base / "data")
    while not (gone := take(server)) and not (pid := postmaster_pid(base)):
        # A starter was killed right after the launch: the server has the lock, but no pid file yet.
        time.sleep(0.01)
    if not gone:
        signal.signal(signal.SIGALRM, lambda *_: send(pid, signal.SIGQUIT))
        signal.alarm(FAST_STOP_SECONDS)
        send(pid, signal.SIGINT)
        fcntl.flock(server, fcntl.LOCK_EX)
    os.close(server)


def become_owner(folder: Path) -> None:
    """Drop root for the account that runs the server: it wrote the pid that we are going to signal."""
    with contextlib.suppress(FileNotFoundError):
        owner = folder.stat()
        if os.geteuid() == 0 != owner.st_uid:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)


def take(lock: int) -> bool:
    """Lock the open file, and only for us, unless that means to wait."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def postmaster_pid(base: Path) -> int:
    """0 while it is not known."""
    try:
        return int((base / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return 0


def send(pid: int, signum: int) -> None:
    """SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
