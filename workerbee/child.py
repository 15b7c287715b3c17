"""One child process: how it starts, what it is told at birth, how it ended. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from workerbee.birth import PR_SET_CHILD_SUBREAPER, STACK_SIGNAL, Birth, begin, prctl
from workerbee.forked import Forked


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
        with contextlib.suppress(ValueError):  # killed, and still there: it waits for a device, in the kernel
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
    prctl(PR_SET_CHILD_SUBREAPER, int(adopt))


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
        begin(method, birth, close)
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
