"""What good jobs do: they return, though some of them harm the process that they run in, in a lasting way."""

from __future__ import annotations

import contextlib
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
from pathlib import Path

from tests.chaos.site import Site


def returns(_site: Site) -> None:
    pass


def sleeps(site: Site) -> None:
    time.sleep(site.random.uniform(0, 0.05))


def sleeps_long(site: Site) -> None:
    time.sleep(site.random.uniform(0.5, 1.8))


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
