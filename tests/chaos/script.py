"""A node's script, as a user would write it: `python -m tests.chaos.script FOLDER SEED ROUND JOBS NODE START HOST`.

FOLDER is the round's, NODE the index of its plan, START how often it was started before, HOST where the socket of the
database is.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, cast

from psycopg2 import sql

from tests.chaos.behaviours import BEHAVIOURS
from tests.chaos.journal import INTERRUPTED, RAISED, RETURNED, Identity, Journal
from tests.chaos.plan import draw
from tests.chaos.site import Site
from workerbee import postgres_jobset
from workerbee.description import Interrupted
from workerbee.queries import shelf

PR_SET_PDEATHSIG = 1


class Function:
    """The job function of the node whose script runs in the process `node`."""

    def __init__(self, folder: Path, inline: bool) -> None:
        self._folder = folder
        self._inline = inline
        self._node = os.getpid()
        self._journal = Journal(folder / "journal")

    def __call__(self, job_id: str, data: dict[str, Any]) -> None:
        pid = os.getpid()
        lock, held_by = self._enter(job_id)
        attempt = f"{pid}-{time.monotonic_ns()}"
        self._journal.write("start", job=job_id, pid=pid, node=self._node, attempt=attempt, held_by=held_by)
        try:
            site = Site(job_id, self._folder, self._inline, self._report, Random(data["number"]))
            BEHAVIOURS[data["does"]].act(site)
        except BaseException as error:
            if os.getpid() == pid:
                how = INTERRUPTED if isinstance(error, Interrupted) else RAISED
                self._journal.write("end", attempt=attempt, how=how)
            raise
        finally:
            if os.getpid() == pid:
                self._leave(lock)
        if os.getpid() == pid:
            self._journal.write("end", attempt=attempt, how=RETURNED)

    def _report(self, child: int) -> None:
        identity = Identity.of(child)
        if identity:
            self._journal.write("child", child=child, born=identity.born, node=self._node)

    def _enter(self, job_id: str) -> tuple[int, int]:
        """Lock the job's own byte of a file; the process that has it, if one has.

        Such a lock goes with its process, however that ends, and before anybody can see it dead; forks do not
        inherit it.
        """
        fd = os.open(self._folder / "locks", os.O_RDWR | os.O_CREAT, 0o666)
        byte = int(job_id.partition("/")[2])
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except BlockingIOError:
            flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            return fd, struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, flock))[4]
        return fd, 0

    def _leave(self, lock: int) -> None:
        with contextlib.suppress(OSError):  # the job has closed it
            os.close(lock)


def main(folder: Path, seed: int, number: int, count: int, node: int, start: int, host: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # when the run itself is killed
    plan = draw(seed, number, count)
    options = dataclasses.asdict(plan.start(node, start))
    deal_wide(max(1, count // plan.width))
    relayed, logged = options.pop("relayed"), options.pop("logged")
    assert relayed == (Path(host).name == "relay")
    summary = postgres_jobset(
        plan.jobset_id,
        Function(folder, options["processes"] is None),
        ((job.job_id, job.data) for job in plan.jobs),
        host=host,
        port=5432,
        user="workerbee",
        database="postgres",
        max_attempts=plan.max_attempts,
        max_crashes=plan.max_crashes,
        log_dir=folder / "bees" if logged else None,
        **options,
    )
    (folder / f"done{os.getpid()}").touch()
    Journal(folder / "journal").write("summary", node=os.getpid(), **dataclasses.asdict(summary))


def deal_wide(ranges: int) -> None:
    """Have pending work dealt in about so many ranges, as it is in a jobset that is larger."""
    queries = cast(dict[str, sql.SQL], shelf())
    text = queries["deal_ranges"].string
    assert text.count("512") == 1
    queries["deal_ranges"] = sql.SQL(text.replace("512", str(ranges)))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]), *map(int, arguments[1:6]), arguments[6])
