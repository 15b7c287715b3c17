"""Processes that jobs left behind: how to know them, and how to end them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from workerbee.child import MARK
from workerbee.shared import NAME


def children() -> set[int]:
    """The children of this process, zombies included."""
    found: set[int] = set()
    try:
        for task in Path("/proc/self/task").iterdir():
            # A thread may end while we look.
            with contextlib.suppress(OSError):
                found.update(map(int, (task / "children").read_text().split()))
    except OSError:  # no /proc, or a kernel without that file
        found.update(process.pid for process in psutil.Process().children())
    return found


def is_ours(pid: int, mark: str, inode: int) -> bool:
    """Whether a bee of the node `mark` started the process: it has the mark in its environment (a program that a
    job started), or it still maps the board, file `inode` (a fork of a bee)."""
    process = Path("/proc", str(pid))
    with contextlib.suppress(OSError):
        if f"{MARK}={mark}".encode() in process.joinpath("environ").read_bytes().split(b"\0"):
            return True
        board = f"/memfd:{NAME} "
        for line in process.joinpath("maps").read_text("utf-8", "replace").splitlines():
            if board in line and line.split(maxsplit=5)[4] == str(inode):
                return True
    return False


def end(pids: Iterable[int], mark: str, inode: int) -> None:
    """Kill those of `pids` that bees of the node `mark` started."""
    for pid in pids:
        if is_ours(pid, mark, inode):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
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
