"""The sampler: looks at tables and processes all the time while a round runs, and notes what is wrong."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import Any

import psutil
import psycopg2

from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet, Node
from tests.chaos.journal import Identity, Journal, children_of
from tests.chaos.server import Server
from tests.chaos.tables import Tables
from tests.chaos.usage import Usage
from tests.chaos.watches import GONE_WITHIN, BeeWatch, ExitWatch, IdleWatch, TerminalWatch

EVERY = 0.25
RECOVERY = 8.0  # seconds in which a node is back at work after an outage: it waits up to 5 s between tries
LAST_WORDS = 10.0
OUTAGES = ("restart", "fill_connections", "freeze_network", "cut_sessions", "lose_answers")


class Sampler(threading.Thread):
    """Watches the round of `fleet` until `stop()`; `wrong` is what it found."""

    def __init__(self, fleet: Fleet, faults: Faults, server: Server, journal: Journal, jobset_id: str) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self._faults = faults
        self._server = server
        self._journal = journal
        self._jobset_id = jobset_id
        self._stopped = threading.Event()
        self._connection: Any = None
        self._offered: dict[int, int] = {}
        self._bees = BeeWatch()
        self._idle = IdleWatch()
        self._terminal = TerminalWatch()
        self._exits = ExitWatch()
        self._looked_after: set[int] = set()
        self.usage = Usage()
        self.samples = 0
        self.hiccups: list[float] = []  # when this thread was late by a second: the machine stood still
        self.wrong: list[str] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        last = time.monotonic()
        try:
            while not self._stopped.wait(EVERY):
                try:
                    self._look_at_tables()
                except psycopg2.Error:
                    self._offered = {}
                    with contextlib.suppress(psycopg2.Error):
                        if self._connection:
                            self._connection.close()
                    self._connection = None
                self._look_at_processes()
                now = time.monotonic()
                if now - last > EVERY + 1:
                    self.hiccups.append(now)
                last = now
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        if self._connection:
            self._connection.close()
        if self.failure:
            raise self.failure

    def _look_at_tables(self) -> None:
        if self._connection is None:
            self._connection = self._server.connect("sampler")
        tables = Tables(self._connection, self._jobset_id)
        if not tables.exist():
            return
        _, wrong = tables.snapshot()
        self._note(wrong)
        self._offered = tables.offered()
        self.samples += 1
        if self.samples % 8 == 0:
            self._note(self._terminal.saw(tables.terminal()))
        now = time.monotonic()
        # A process that stands still may do so anywhere, also between two statements.
        excused = self._disturbed(0, now, "stop_", "freeze_", "restart")
        self._note(self._idle.saw(now, {} if excused else tables.idle()))

    def _look_at_processes(self) -> None:
        now = time.monotonic()
        nodes = list(self._fleet.living())
        for node in nodes:
            node.note_processes()
            self.usage.look_at(node)
        slots = sum(node.plan.processes or 1 for node in nodes)
        seen = {n.pid: (self._excused(n, now, slots), self._lives(n)) for n in nodes if n.glimpse.found()}
        self._note(self._bees.saw(now, seen))
        stopping = [node for node in nodes if node.told_to_stop and now > self._exit_deadline(node)]
        self._note(self._exits.saw(now, {node.pid: self._exit_deadline(node) for node in stopping}))
        self._look_after_killed(now)

    def _lives(self, node: Node) -> dict[str, bool]:
        slots = enumerate(node.glimpse.slots())
        bees = {f"bee {index}": bool(slot.pid) and Identity.of(slot.pid) is not None for index, slot in slots}
        return {**bees, "keeper": node.glimpse.keeper() is not None}

    def _excused(self, node: Node, now: float, slots: int) -> bool:
        """Whether the node need not have all its bees now, of all nodes' `slots`."""
        return bool(
            node.inline
            or node.signals
            or self._offered.get(node.pid, 0) <= slots
            or node.glimpse.header().stop
            or self._disturbed(node.pid, now - 1, "stop_supervisor", "stop_keeper")
            or self._disturbed(node.pid, now - RECOVERY, "restart", "fill_", "freeze_")
        )

    def _exit_deadline(self, node: Node) -> float:
        told = min(at for at, number in node.signals if number is not signal.SIGKILL)
        names = (*OUTAGES, "stop_supervisor", "stop_keeper")
        ends = [d.end for d in self._faults.disturbances if d.touches(node.pid, told, told + 3600) and d.name in names]
        # In the dark it cannot say what became of its jobs, nor how the jobset stands.
        slow = RECOVERY if ends else 0
        return max([told, *ends]) + node.plan.grace + LAST_WORDS + slow

    def _look_after_killed(self, now: float) -> None:
        """When a supervisor was killed, soon nothing is left of what ran below it."""
        for node in self._fleet.nodes:
            killed = [at for at, number in node.signals if number is signal.SIGKILL]
            if not killed or node.inline or node.pid in self._looked_after or now < killed[0] + GONE_WITHIN:
                continue
            # Bees end by themselves, whoever else stands still.
            bees = [bee.pid for bee in node.bees if bee.lives()]
            self._note([f"node {node.pid} was killed, and its bees {bees} live"] if bees else [])
            if self._disturbed(node.pid, killed[0], "stop_"):
                continue  # its keeper may stand still: later
            self._looked_after.add(node.pid)
            if node.pid not in self._faults.unattended:
                left = [pid for pid in left_by(node, self._journal) if not _is_keeper(pid)]
                self._note([f"node {node.pid} was killed, and of its processes there are still {left}"] if left else [])

    def check_ended(self, node: Node) -> None:
        """Now that it has ended: if it did so in order, nothing may be left in its name."""
        orderly = node.finished or node.process.returncode in (143, 129, -signal.SIGINT)
        killed = any(number is signal.SIGKILL for _, number in node.signals)
        since = min([node.ended or 0.0, *(at for at, _ in node.signals)]) - RECOVERY
        names = ["restart", "fill_", "freeze_", "stop_keeper", "kill_keeper", "stop_supervisor"]
        if len(node.signals) > 1:
            names.append("cut_sessions")  # the second signal does not wait until its keeper is connected again
        if not orderly or killed or self._disturbed(node.pid, since, *names):
            return
        with contextlib.suppress(psycopg2.Error), contextlib.closing(self._server.connect("check")) as connection:
            held = Tables(connection, self._jobset_id).held_by(node.pid)
            if held and not self._disturbed(node.pid, since, *names):
                self._note([f"node {node.pid} has ended, and there is in its name {held}"])

    def describe(self) -> str:
        """How things stand, for a round that does not end."""
        nodes = {
            node.pid: [(slot.phase.name, slot.pid, slot.read_job_id()) for slot in node.glimpse.slots()]
            for node in self._fleet.living()
            if node.glimpse.found()
        }
        with contextlib.suppress(psycopg2.Error), contextlib.closing(self._server.connect("check")) as connection:
            sessions = Tables(connection, self._jobset_id).ask(
                "SELECT pid, application_name, state, wait_event, pg_blocking_pids(pid)::text, left(query, 80) "
                "FROM pg_stat_activity WHERE application_name LIKE 'workerbee%'"
            )
            return f"{nodes}, {sessions}"
        return f"{nodes}, and the database is away"

    def _disturbed(self, node: int, since: float, *names: str) -> bool:
        now = time.monotonic()
        disturbances = list(self._faults.disturbances)
        if not node:
            return any(d.name.startswith(names) and d.end >= since for d in disturbances)
        return any(d.name.startswith(names) and d.touches(node, since, now) for d in disturbances)

    def _note(self, wrong: list[str]) -> None:
        for line in wrong:
            self._journal.write("wrong", line=line)
            self.wrong.append(line)


def left_by(node: Node, journal: Journal) -> list[int]:
    """What is still there of all that was seen below `node`, and of what its jobs left behind."""
    children = [child for child, of in children_of(list(journal.lines())).items() if of == node.pid]
    return sorted({identity.pid for identity in (*node.below, *children) if identity.lives()})


def _is_keeper(pid: int) -> bool:
    # It stays until the database has heard it.
    try:
        return next(iter(psutil.Process(pid).cmdline()), "").endswith(" keeper")
    except psutil.Error:
        return False
