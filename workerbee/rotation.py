"""A bee's log file, kept from growing for ever."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

LARGEST = 10_000_000  # bytes, from which a log is put aside; a job's own output is never split
KEPT = 3  # old ones


def rotate(path: Path, largest: int = LARGEST) -> int:
    """Before a job begins, put the log at `path`, which stdout goes to, aside if it is too large; where in it the job's
    output will begin. Raises `OSError` when a job has closed stdout."""
    size = os.fstat(1).st_size
    # A job may have redirected it: then it is not ours to move.
    if size < largest or not _is(path, 1):
        return size
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever a job has made of them
            stream.flush()
    streams = [fd for fd in (1, 2) if _is(path, fd)]
    for number in range(KEPT - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _old(path, number).replace(_old(path, number + 1))
    path.replace(_old(path, 1))
    fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for fd in streams:
            os.dup2(fresh, fd)
    finally:
        os.close(fresh)
    return 0


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False
