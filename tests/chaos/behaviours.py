"""What jobs do: good ones, such as harm their process in a lasting way, and bad ones."""

from __future__ import annotations

import contextlib
import ctypes
import locale
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Site:
    """Where a job runs: `folder` is the round's; `inline`: in the caller's own process; `report` notes a child."""

    job_id: str
    folder: Path
    inline: bool
    report: Callable[[int], None]
    random: Random


@dataclass(frozen=True)
class Behaviour:
    """`act(site)` is what the job does; `kind` is how each of its attempts must fail, of `type`, "" for any.

    Without a `kind` it returns; `once`: after it failed for the first time.
    """

    act: Callable[[Site], None]
    weight: float
    kind: str | None = None
    type: str = ""
    once: bool = False


def returns(_site: Site) -> None:
    pass


def sleeps(site: Site) -> None:
    time.sleep(site.random.uniform(0, 0.05))


def sleeps_long(site: Site) -> None:
    time.sleep(site.random.uniform(0.5, 1.5))


def burns(site: Site) -> None:
    end = time.process_time() + site.random.uniform(0, 0.03)
    while time.process_time() < end:
        sum(range(1000))


def prints(site: Site) -> None:
    # A job before this one may have closed what we print to.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(site.job_id, "says", "x" * site.random.choice((10, 100, 10_000)), flush=True)


def closes_fds(site: Site) -> None:
    if not site.inline:
        os.closerange(0, 4096)


def moves(_site: Site) -> None:
    folder = tempfile.mkdtemp(prefix="workerbee-chaos-gone-")
    os.chdir(folder)
    Path(folder).rmdir()


def masks(_site: Site) -> None:
    os.umask(0o777)


def handles_signals(site: Site) -> None:
    # SIGTERM and SIGINT are how an inline bee is told to stop.
    numbers = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGALRM, signal.SIGUSR1)
    for number in numbers if site.inline else (*numbers, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, site.random.choice((signal.SIG_IGN, signal.SIG_DFL, lambda *_: None)))


def changes_locale(_site: Site) -> None:
    locale.setlocale(locale.LC_ALL, "C")
    os.environ["LC_ALL"] = os.environ["LANG"] = "tlh"


def replaces_stdout(site: Site) -> None:
    sys.stdout = sys.stderr = None if site.random.random() < 0.5 else 17  # type: ignore[assignment]


def limits_itself(_site: Site) -> None:
    for limit, most in ((resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 4096)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most, hard))


def leaves_threads(_site: Site) -> None:
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def leaves_grandchildren(site: Site) -> None:
    if site.inline:
        return  # the caller's own, and left alone
    script = "sleep 600 & echo $!; sleep 600 & echo $!; wait"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=site.random.random() < 0.5)
    site.report(shell.pid)
    assert shell.stdout
    for _ in range(2):
        site.report(int(shell.stdout.readline()))


def leaves_daemon(site: Site) -> None:
    if site.inline:
        return
    readable, writable = os.pipe()
    program = site.random.random() < 0.5
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(writable, str(os.getpid()).encode())
            if program:
                os.execvp("sleep", ["sleep", "600"])
            os.close(writable)
            while True:
                time.sleep(600)
        os._exit(0)
    os.close(writable)
    site.report(int(os.read(readable, 100)))
    os.close(readable)


def forks_and_both_return(_site: Site) -> None:
    os.fork()


def starts_pool(_site: Site) -> None:
    # An earlier job's choice of this one would keep any Pool from ending.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]


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


BEHAVIOURS = {
    "returns": Behaviour(returns, 250),
    "sleeps": Behaviour(sleeps, 300),
    "sleeps_long": Behaviour(sleeps_long, 4),
    "burns": Behaviour(burns, 200),
    "prints": Behaviour(prints, 50),
    "closes_fds": Behaviour(closes_fds, 6),
    "moves": Behaviour(moves, 6),
    "masks": Behaviour(masks, 6),
    "handles_signals": Behaviour(handles_signals, 6),
    "changes_locale": Behaviour(changes_locale, 6),
    "replaces_stdout": Behaviour(replaces_stdout, 6),
    "limits_itself": Behaviour(limits_itself, 6),
    "leaves_threads": Behaviour(leaves_threads, 6),
    "leaves_grandchildren": Behaviour(leaves_grandchildren, 8),
    "leaves_daemon": Behaviour(leaves_daemon, 8),
    "forks_and_both_return": Behaviour(forks_and_both_return, 8),
    "starts_pool": Behaviour(starts_pool, 4),
    "spins": Behaviour(spins, 0.7, "timeout", "timeout"),
    "hangs_in_c": Behaviour(hangs_in_c, 0.7, "timeout", "timeout"),
    "suspends_itself": Behaviour(suspends_itself, 0.7, "timeout", "timeout"),
    "waits_for_child": Behaviour(waits_for_child, 0.7, "timeout", "timeout"),
    "ignores_sigterm": Behaviour(ignores_sigterm, 0.7, "timeout", "timeout"),
    "eats_memory": Behaviour(eats_memory, 1, "memory", "memory"),
    "raises": Behaviour(raises, 10, "error", "ValueError"),
    "raises_once": Behaviour(raises_once, 10, "error", "LookupError", once=True),
    "raises_with_bad_str": Behaviour(raises_with_bad_str, 4, "error"),
    "raises_hugely": Behaviour(raises_hugely, 0.3, "error", "ValueError"),
    "raises_unpicklable": Behaviour(raises_unpicklable, 4, "error"),
    "raises_keyboard_interrupt": Behaviour(raises_keyboard_interrupt, 4, "error", "KeyboardInterrupt"),
    "exits": Behaviour(exits, 4, "error", "SystemExit"),
    "leaves_process": Behaviour(leaves_process, 8, "crash", "exit"),
    "reads_nowhere": Behaviour(reads_nowhere, 5, "crash", "SIGSEGV"),
    "overflows_stack": Behaviour(overflows_stack, 3, "crash", "SIGSEGV"),
    "aborts": Behaviour(dies_of(signal.SIGABRT), 3, "crash", "SIGABRT"),
    "bus_error": Behaviour(dies_of(signal.SIGBUS), 3, "crash", "SIGBUS"),
    "divides_badly": Behaviour(dies_of(signal.SIGFPE), 3, "crash", "SIGFPE"),
    "illegal": Behaviour(dies_of(signal.SIGILL), 3, "crash", "SIGILL"),
    "kills_itself": Behaviour(dies_of(signal.SIGKILL), 4, "crash", "SIGKILL"),
}
