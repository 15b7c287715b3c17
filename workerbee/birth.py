"""What a child process does before its work: whom it dies with, where its streams go, what it carries."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import threadpoolctl

from workerbee import orphans
from workerbee.shared import NamelessFile

# Nobody else uses it: a job may have its own idea of SIGUSR1.
STACK_SIGNAL = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
EXPENDABLE = 500  # of 1000: how much rather than others the kernel should kill this one when memory is short
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Birth:
    """What a child is told before its work begins; plain values, which also survive being pickled."""

    parent: int
    die_with_parent: bool = False
    expendable: bool = False
    mark: str = ""
    stdout: Connection | None = None
    stderr: Connection | None = None
    log: Path | None = None
    stack: NamelessFile | None = None
    threads: int | None = None


def begin(method: str, birth: Birth, close: Sequence[int]) -> None:
    """Do all that, in a child started by `method`; a forked one closes the descriptors `close`."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setpgid(0, 0)
    if method == "forkserver":
        _let_fork_server_end()
    if birth.die_with_parent:
        _die_with_parent(method, birth.parent)
    for fd in close:
        with contextlib.suppress(OSError):
            os.close(fd)
    _reset_signals()
    if birth.expendable:
        _be_expendable()
    _redirect(birth)
    if birth.stack is not None:
        birth.stack.empty()
        faulthandler.enable(birth.stack.fd)
        faulthandler.register(STACK_SIGNAL, birth.stack.fd)
    if birth.mark:
        orphans.wear(orphans.bee_mark(birth.mark, os.getpid()))
    if birth.threads is not None:
        limit_threads(birth.threads)
    _reseed()


def _let_fork_server_end() -> None:
    # multiprocessing hands every child a descriptor that keeps the fork server alive. Without it, the server ends with
    # the supervisor, and the bees with the server, whatever the keeper is waiting for.
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    fd, server._forkserver_alive_fd = server._forkserver_alive_fd, None
    if fd is not None:
        os.close(fd)


def _die_with_parent(method: str, parent: int) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if method != "forkserver" and os.getppid() != parent:
        os._exit(1)  # it died before we asked to be told


def _be_expendable() -> None:
    with contextlib.suppress(OSError):  # no Linux
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)
        try:
            os.write(fd, str(min(1000, int(os.read(fd, 16)) + EXPENDABLE)).encode())
        finally:
            os.close(fd)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # A process in the background of a terminal is stopped when it writes there, if the user has set tostop.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def _redirect(birth: Birth) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    if birth.log is not None:
        log = os.open(birth.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    for connection, fd in ((birth.stdout, 1), (birth.stderr, 2)):
        if connection is not None:
            os.dup2(connection.fileno(), fd)
            connection.close()
    if birth.log is not None or birth.stdout is not None:
        # The caller's sys.stdout may be anything (a notebook's, a test's): what a job prints goes to our fds.
        sys.stdout, sys.stderr = _stream(1), _stream(2)


class _Lossy(io.FileIO):
    """What cannot be written, on a full disk, is lost: the jobs matter more than what they print."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _stream(fd: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(_Lossy(fd, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def limit_threads(threads: int) -> None:
    """Keep BLAS and OpenMP to `threads` in this process: the libraries loaded by now, and those loaded later."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    thread_pools().limit(limits=threads)


@cache
def thread_pools() -> threadpoolctl.ThreadpoolController:
    """Those of the libraries loaded by now. To find them takes longer than all else at birth: a parent that forks does
    it, `cache_clear` included, before its children would."""
    return threadpoolctl.ThreadpoolController()


def _reseed() -> None:
    # Forked siblings share the generators' state, and would all draw the same numbers.
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def prctl(option: int, value: int) -> None:
    """Set `option` of this process, where there is such a thing."""
    if sys.platform == "linux":
        _libc().prctl(option, value, 0, 0, 0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
