"""A node that gets fewer processes or descriptors than it wants."""

from __future__ import annotations

import contextlib
import os
import re

import pytest

from tests.helpers import alive, descendants, wait_until

# The supervisor may open as many descriptors, or its user have as many processes, as the arguments say.
SCRIPT = """
    import ctypes, os, resource, sys, time
    from pathlib import Path
    from workerbee import backoff, postgres_jobset

    def be_limited_though_root():
        # Who is limited is decided by the real user, who is let into the database by the effective one.
        os.setresuid(54321, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, data) == 0
        for i in (0, 1):
            data[i] &= ~(1 << 21 | 1 << 24)  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE
        assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())

    def job(job_id, data):
        while not Path("go").exists():
            time.sleep(0.01)

    kind, number = sys.argv[1], int(sys.argv[2])
    if kind == "NPROC":
        be_limited_though_root()
    resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (number, number))
    backoff.NO_BEES = 2.0
    print(postgres_jobset("short", job, map(str, range(100)), processes=64))
"""
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who has no other processes")


class Said:
    """What a script prints, as it comes."""

    def __init__(self, process):
        self._process = process
        self.text = ""
        os.set_blocking(process.stdout.fileno(), False)

    def read(self):
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._process.stdout.fileno(), 65536):
                self.text += piece.decode()
        return self.text

    def refusals(self, reason):
        """The pauses after which the bee of each slot is tried again."""
        found = {}
        for slot, pause in re.findall(
            rf"bee (\d+) cannot be started \({reason}\), next try in ([\d.]+) s", self.read()
        ):
            found.setdefault(slot, []).append(float(pause))
        return found


@pytest.mark.parametrize(
    ("kind", "number", "reason"),
    [
        # A board for 64 bees takes 65, a bee five or so.
        ("NOFILE", 64 + 60, "Too many open files"),
        pytest.param("NPROC", 6, "Resource temporarily unavailable", marks=needs_root),
    ],
)
def test_a_node_works_with_the_bees_that_it_could_start(script, sql, tmp_path, kind, number, reason):
    process = script(SCRIPT, kind, str(number))
    said = Said(process)

    def tried_again():
        assert process.poll() is None, said.read()
        return [pauses for pauses in said.refusals(reason).values() if len(pauses) >= 3]

    pauses = wait_until(tried_again, "a bee to be tried three times")[0]
    assert pauses[0] < pauses[1] < pauses[2]
    # A try that fails leaves nothing open: or the node could never have more again.
    fds = len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208
    tries = sum(map(len, said.refusals(reason).values()))
    wait_until(lambda: sum(map(len, said.refusals(reason).values())) > tries + 60)
    assert len(os.listdir(f"/proc/{process.pid}/fd")) <= fds + 10  # noqa: PTH208
    pids = descendants(process.pid)
    assert 2 <= len(pids) <= 30
    (tmp_path / "go").touch()
    assert process.wait() == 0, said.read()
    assert "100 of 100 jobs complete, 0 failed" in said.read()
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
    assert not any(map(alive, pids))


@needs_root
def test_a_node_that_can_start_no_bee_gives_up_with_the_reason(script, sql):
    process = script(SCRIPT, "NPROC", "1")
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert re.search(r"NodeFailed: .*cannot be started.*Resource temporarily unavailable", said), said
    assert len(re.findall("bee 0 cannot be started", said)) >= 3
    assert sql("SELECT DISTINCT state FROM wb_jobs__short") == [("PENDING",)]
    assert sql("SELECT count(*) FROM wb_failures") == [(0,)]
