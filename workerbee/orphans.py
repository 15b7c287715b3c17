"""Processes that jobs left behind: how to know them, and how to end them.

A bee's descendants carry its mark wherever they go: programs in their environment, forks as the name of a mapping
that they inherit. So nothing is taken for ours that the caller started on the side.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

VARIABLE = "WORKERBEE_BEE"
_mapping: mmap.mmap | None = None


def bee_mark(node: str, pid: int) -> str:
    """The mark of one bee of the node with mark `node`, which it begins with."""
    return f"{node}-{pid}."


def wear(mark: str) -> None:
    """Let this process, and all that it will start, carry `mark`."""
    global _mapping  # noqa: PLW0603 - it must live as long as the process
    os.environ[VARIABLE] = mark
    if sys.platform == "linux":
        fd = os.memfd_create(f"workerbee-{mark}")
        os.truncate(fd, mmap.PAGESIZE)
        _mapping = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)


def wears(pid: int, mark: str) -> bool:
    """Whether the process carries a mark that begins with `mark`."""
    process = Path("/proc", str(pid))
    with contextlib.suppress(OSError):
        if f"\0{VARIABLE}={mark}".encode() in b"\0" + process.joinpath("environ").read_bytes():
            return True
        return f"/memfd:workerbee-{mark}".encode() in process.joinpath("maps").read_bytes()
    return False


def children(pid: int | None = None) -> set[int]:
    """The children of the process `pid`, or of this one, zombies included."""
    pid = os.getpid() if pid is None else pid
    found: set[int] = set()
    try:
        for task in Path("/proc", str(pid), "task").iterdir():
            # A thread may end while we look.
            with contextlib.suppress(OSError):
                found.update(map(int, (task / "children").read_text().split()))
    except OSError:  # it has ended, or there is no /proc
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(process.pid for process in psutil.Process(pid).children())
    return found


def end(pids: Iterable[int], mark: str) -> None:
    """Kill those of `pids` that carry `mark`, and what hangs below them."""
    for pid in pids:
        if wears(pid, mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # Below first: once the process is dead, nothing tells what was below it.
                for one in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.send_signal(signal.SIGKILL)


def reap(pids: Iterable[int]) -> None:
    """Take those of `pids`, children of this process, out of the process table that have ended."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def is_alive(pid: int) -> bool:
    """Whether a process `pid` exists that is more than a zombie."""
    try:
        os.kill(pid, 0)
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except ProcessLookupError:
        return False
    except (PermissionError, psutil.Error):
        return True  # another user's: /proc may hide it, kill() does not
