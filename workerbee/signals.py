"""Signals noted, not acted on: the handlers queue and wake, the loop decides."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from workerbee.readable import readable

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The stop signals that arrived since `noted()` began; `fd` becomes readable with each."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.stops: list[signal.Signals] = []

    def wait(self, seconds: float) -> None:
        """Sleep, but not on through a signal."""
        readable([self.fd], seconds)
        self.drain()

    def drain(self) -> None:
        """Forget what woke us; the signals themselves stay noted in `stops`."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 512):
                pass


@contextlib.contextmanager
def noted(react: Callable[[Signals], None] | None = None) -> Iterator[Signals]:
    """Note SIGINT, SIGTERM and SIGHUP instead of dying of them; put the caller's handlers back at the end.

    `react` is called in the handler, for those who have no loop that would look. A signal that the caller ignores
    stays ignored (nohup, background jobs of a shell). Only the main thread can have handlers; in another one,
    signals stay the main thread's affair.
    """
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signals = Signals(readable)
    if threading.current_thread() is not threading.main_thread():
        try:
            yield signals
        finally:
            os.close(readable)
            os.close(writable)
        return

    def note(number: int, _frame: object) -> None:
        signals.stops.append(signal.Signals(number))
        if react is not None:
            react(signals)

    before = {number: signal.getsignal(number) for number in (*STOPS, signal.SIGCHLD)}
    wakeup = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    try:
        for number in STOPS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, note)
        # Where SIGCHLD is ignored the kernel throws exit statuses away.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield signals
    finally:
        for number, handler in before.items():
            # None: installed from C, and not ours to put back.
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(readable)
        os.close(writable)
