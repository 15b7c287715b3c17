"""What bad jobs do: they raise, hang, eat memory, or take their process down."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from tests.chaos.site import Site


def raises(site: Site) -> None:
    raise ValueError(f"{site.job_id} \0 \udcff is bad")


def raises_once(site: Site) -> None:
    before = site.folder / "once" / site.job_id.replace("/", "-")
    if not before.exists():
        before.touch()
        raise LookupError("the first time")


def raises_with_bad_str(_site: Site) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise MuteError


def raises_hugely(_site: Site) -> None:
    raise ValueError("x" * 100_000_000)


def raises_unpicklable(_site: Site) -> None:
    class BoundError(Exception):
        def __reduce__(self) -> str:
            raise TypeError("cannot be pickled")

    error = BoundError("stays here")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def raises_keyboard_interrupt(_site: Site) -> None:
    raise KeyboardInterrupt


def exits(site: Site) -> None:
    sys.exit(site.random.choice((None, 0, 1, "words")))


def leaves_process(site: Site) -> None:
    os._exit(site.random.choice((0, 1, 3, 77)))


def reads_nowhere(_site: Site) -> None:
    ctypes.string_at(0)


def overflows_stack(_site: Site) -> None:
    sys.setrecursionlimit(2**30)
    kind = ctypes.CFUNCTYPE(ctypes.c_int)
    again = kind(lambda: again())  # noqa: PLW0108 - it is not known before
    again()


def spins(_site: Site) -> None:
    while True:
        pass


def hangs_in_c(_site: Site) -> None:
    while True:
        ctypes.PyDLL(None).sleep(600)  # holding the GIL; the signal that asks for its stack ends the call


def suspends_itself(_site: Site) -> None:
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


def waits_for_child(site: Site) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    while not child:
        time.sleep(600)
    site.report(child)
    os.waitpid(child, 0)


def ignores_sigterm(_site: Site) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def eats_memory(_site: Site) -> None:
    eaten = []
    for _ in range(40):
        eaten.append(b"x" * 100_000_000)
        time.sleep(0.05)


def dies_of(number: signal.Signals) -> Callable[[Site], None]:
    def die(_site: Site) -> None:
        os.kill(os.getpid(), number)
        signal.pause()

    return die
