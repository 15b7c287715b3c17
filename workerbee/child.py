"""One child process: how it starts, what it is told at birth, how it ended. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import io
import multiprocessing
import os
import random
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import threadpoolctl

from workerbee import orphans
from workerbee.forked import Forked
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


class Child:
    """A process of its own group that runs `entry(*args)`, started by `method`: fork, spawn or forkserver.

    A forked child closes the descriptors `close`, which are its parent's alone. `fd` becomes readable when the
    process has ended.
    """

    def __init__(
        self, method: str, birth: Birth, entry: Callable[..., None], args: Sequence[Any], close: Sequence[int] = ()
    ) -> None:
        forked = method == "fork"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([entry.__module__])
        kind: Any = Forked if forked else context.Process
        process = kind(target=_live, args=(method, birth, close if forked else (), entry, *args))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError, AttributeError):  # closed, or there is none
                stream.flush()
        gc.freeze()  # a collection in the child would write to, and so copy, every page it shares with us
        try:
            with contextlib.nullcontext() if forked else _no_main():
                process.start()
        finally:
            gc.unfreeze()
        self._process = process
        self.pid: int = process.pid
        if forked:
            # Both sides do it: whoever comes second must not find the group missing.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpgid(self.pid, self.pid)
        # A grandchild that inherited the sentinel pipe would keep it silent; a pidfd knows only the process.
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open") and method != "forkserver":
            with contextlib.suppress(OSError):  # none is to be had: the sentinel will do
                self._pidfd = os.pidfd_open(self.pid)
        self.fd: int = process.sentinel if self._pidfd is None else self._pidfd

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal; None while it lives."""
        code: int | None = self._process.exitcode
        return code

    def wait(self, seconds: float) -> int | None:
        """Like `poll`, after at most `seconds`."""
        self._process.join(seconds)
        return self.poll()

    def ask_for_stack(self) -> None:
        """Have it write the Python stacks of its threads, as a crash would; stopped or in C code, too."""
        for number in (STACK_SIGNAL, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and all in its group."""
        kill_group(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of an ended child, and kill what it left behind in its group."""
        kill_group(self.pid)
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._process.close()


def occupy_standard_fds() -> None:
    """Open /dev/null wherever stdin, stdout or stderr is closed, before a file of ours gets that number.

    Children have their standard streams there, and would overwrite it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def kill_group(pid: int) -> None:
    """Kill every process of the group `pid`, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def adopt_orphans(adopt: bool) -> None:
    """Whether descendants whose parent dies become children of this process (Linux; elsewhere they never do)."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    # multiprocessing would import the caller's script again in the child, which without a __main__ guard would
    # start a node there. Nothing needs it: cloudpickle carries what __main__ defines by value.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _live(method: str, birth: Birth, close: Sequence[int], entry: Callable[..., None], *args: Any) -> None:
    # The child's whole life: it never returns into the stack that forked it.
    code = 1
    try:
        _begin(method, birth, close)
        entry(*args)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # whatever a job has made of them
                    stream.flush()
        finally:  # SystemExit, even
            os._exit(code)


def _begin(method: str, birth: Birth, close: Sequence[int]) -> None:
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setpgid(0, 0)
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


def _die_with_parent(method: str, parent: int) -> None:
    if method == "forkserver":
        # multiprocessing hands every child a descriptor that keeps the fork server alive. Without it, the server
        # ends with the supervisor, and this child with the server.
        from multiprocessing import forkserver

        server: Any = forkserver._forkserver
        fd, server._forkserver_alive_fd = server._forkserver_alive_fd, None
        if fd is not None:
            os.close(fd)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if method != "forkserver" and os.getppid() != parent:
        os._exit(1)  # it died before we asked to be told


def _be_expendable() -> None:
    own = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):  # no Linux
        own.write_text(str(min(1000, int(own.read_text()) + EXPENDABLE)))


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
    threadpoolctl.threadpool_limits(threads)


def _reseed() -> None:
    # Forked siblings share the generators' state, and would all draw the same numbers.
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
