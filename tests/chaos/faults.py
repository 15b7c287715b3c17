"""The faults, a method each."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2

from tests.chaos.fleet import Fleet, Node
from tests.chaos.journal import Identity, Journal
from tests.chaos.plan import Fault
from tests.chaos.records import EVERYBODY, Disturbance, Hit
from tests.chaos.relay import Relay
from tests.chaos.server import Server

# These need no node to go for.
AIMLESS = ("restart_fast", "restart_immediate", "hold_snapshot", "fill_connections")


class Faults:
    """What can be done to `fleet`, `server` and `relay`. `later(seconds, undo)` is called for what ends again."""

    def __init__(
        self,
        fleet: Fleet,
        server: Server,
        relay: Relay,
        journal: Journal,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._relay = relay
        self._journal = journal
        self._later = later
        self.disturbances: list[Disturbance] = []
        self.hits: list[Hit] = []
        self.done: Counter[str] = Counter()
        self._found = False
        self.unattended: set[int] = set()  # nodes killed without a keeper to clear up after them

    def commit(self, fault: Fault) -> None:
        """Do it, if there is anything to do it to."""
        self._journal.write("fault", name=fault.name, pick=fault.pick)
        self._found = False
        # What we go for may be gone, or the server be away, before we get there.
        with contextlib.suppress(ProcessLookupError, psycopg2.Error):
            getattr(self, fault.name)(fault)
            self.done[fault.name] += self._found or fault.name in AIMLESS

    def kill_bee(self, fault: Fault) -> None:
        if target := self._picked(self._bees(), fault.pick):
            self._kill(*target, "bee")

    def stop_bee(self, fault: Fault) -> None:
        if target := self._picked(self._bees(), fault.pick):
            self._suspend(*target, 3 * fault.seconds, "stop_bee")

    def kill_keeper(self, fault: Fault) -> None:
        if target := self._picked(self._keepers(), fault.pick):
            self._note("kill_keeper", target[0].pid, 0)
            self._kill(*target, "keeper")

    def stop_keeper(self, fault: Fault) -> None:
        if target := self._picked(self._keepers(), fault.pick):
            self._suspend(*target, 2 * target[0].plan.lease * fault.seconds, "stop_keeper")

    def kill_supervisor(self, fault: Fault) -> None:
        if node := self._picked(list(self._fleet.living()), fault.pick):
            keeper = node.glimpse.keeper()
            if keeper is None or is_suspended(keeper):
                self.unattended.add(node.pid)
            node.note_processes()
            self._kill_supervisor(node)

    def stop_supervisor(self, fault: Fault) -> None:
        if node := self._picked(list(self._fleet.living()), fault.pick):
            self._suspend(node, node.pid, 2 * node.plan.lease * fault.seconds, "stop_supervisor")

    def kill_heads(self, fault: Fault) -> None:
        """The keeper and then the supervisor: nobody is left to end the bees."""
        if target := self._picked(self._keepers(), fault.pick):
            node, keeper = target
            self.unattended.add(node.pid)
            node.note_processes()
            for pid in (node.pid, keeper):
                os.kill(pid, signal.SIGSTOP)  # nobody starts another one in between
            self._kill(node, keeper, "keeper")
            self._kill_supervisor(node)

    def kill_node(self, fault: Fault) -> None:
        """All processes at once, as when the machine goes down."""
        if node := self._picked(list(self._fleet.living()), fault.pick):
            self.unattended.add(node.pid)
            node.note_processes()
            everything = [node.pid, *(identity.pid for identity in node.below if identity.lives())]
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in everything:
                    if number is signal.SIGKILL and pid == node.pid:
                        self._kill_supervisor(node)
                    else:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, number)

    def terminate(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGTERM)

    def terminate_twice(self, fault: Fault) -> None:
        node = self._signal(fault, signal.SIGTERM)
        if node:
            time.sleep(0.1 * fault.seconds)  # two that arrive at once would be one
            self._journal.write("signal", node=node.pid, number=signal.SIGTERM)
            node.send(signal.SIGTERM)

    def interrupt(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGINT)

    def hang_up(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGHUP)

    def restart_fast(self, _fault: Fault) -> None:
        self._restart(signal.SIGINT)

    def restart_immediate(self, _fault: Fault) -> None:
        self._restart(signal.SIGQUIT)

    def cut_sessions(self, fault: Fault) -> None:
        with contextlib.closing(self._server.connect("killer")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'workerbee%' ORDER BY pid")
            pids = [pid for (pid,) in cursor.fetchall()]
            # One of them, or all, or some.
            chosen = pids[int(fault.pick * len(pids)) :][: 1 if fault.seconds < 0.75 else None]
            self._note("cut_sessions", EVERYBODY, 0)
            cursor.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", (chosen,))
            self._found = bool(chosen)

    def hold_snapshot(self, fault: Fault) -> None:
        connection = self._server.connect("snapshot")
        connection.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        self._later(5 * fault.seconds, connection.close)

    def fill_connections(self, fault: Fault) -> None:
        disturbance = self._note("fill_connections", EVERYBODY)
        taken: list[Any] = []
        with contextlib.suppress(psycopg2.Error):
            while len(taken) < 1000:
                taken.append(self._server.connect("crowd"))

        def leave() -> None:
            for connection in taken:
                connection.close()
            disturbance.end = time.monotonic()

        self._later(fault.seconds, leave)

    def freeze_network(self, fault: Fault) -> None:
        nodes = [node for node in self._fleet.living() if node.plan.relayed]
        self._found = bool(nodes)
        if nodes:
            self._relay.freeze()
            disturbances = [self._note("freeze_network", node.pid) for node in nodes]

            def thaw() -> None:
                self._relay.thaw()
                for disturbance in disturbances:
                    disturbance.end = time.monotonic()

            self._later((0.3 + 2 * fault.pick) * nodes[0].plan.lease, thaw)

    def lose_answers(self, fault: Fault) -> None:
        for node in self._fleet.living():
            if node.plan.relayed:
                self._found = True
                self._note("lose_answers", node.pid, 1)
        self._relay.lose(1 + int(5 * fault.pick))

    def _bees(self) -> list[tuple[Node, int]]:
        return [(node, pid) for node in self._fleet.living() if not node.inline for pid in node.glimpse.bees()]

    def _keepers(self) -> list[tuple[Node, int]]:
        found = [(node, node.glimpse.keeper()) for node in self._fleet.living()]
        return [(node, pid) for node, pid in found if pid is not None]

    def _picked(self, targets: list[Any], pick: float) -> Any:
        self._found = bool(targets)
        return targets[int(pick * len(targets))] if targets else None

    def _note(self, name: str, node: int, seconds: float = math.inf) -> Disturbance:
        now = time.monotonic()
        self.disturbances.append(Disturbance(name, node, now, now + seconds))
        return self.disturbances[-1]

    def _kill(self, node: Node, pid: int, role: str) -> None:
        running = None
        if role == "bee":
            # Stand still first, so that what the board says is what it is killed in.
            os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + 1
            while not is_suspended(pid) and time.monotonic() < deadline:
                time.sleep(0.001)
            running = node.glimpse.running(pid) if is_suspended(pid) else None
        at = self._journal.write("hit", pid=pid, node=node.pid, role=role, running=running)
        self.hits.append(Hit(at, pid, node.pid, role, running))
        os.kill(pid, signal.SIGKILL)

    def _kill_supervisor(self, node: Node) -> None:
        self._note("kill_supervisor", node.pid)
        if not node.inline:
            node.bees = [identity for bee in node.glimpse.bees() if (identity := Identity.of(bee))]
        at = self._journal.write("hit", pid=node.pid, node=node.pid, role="supervisor")
        self.hits.append(Hit(at, node.pid, node.pid, "supervisor"))
        node.send(signal.SIGKILL)

    def _suspend(self, node: Node, pid: int, seconds: float, name: str) -> None:
        identity = Identity.of(pid)
        if identity is None:
            return
        disturbance = self._note(name, node.pid)
        self._journal.write("suspend", pid=pid, node=node.pid, name=name, seconds=seconds)
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            if identity.lives():
                os.kill(pid, signal.SIGCONT)
            disturbance.end = time.monotonic()

        self._later(seconds, go_on)

    def _signal(self, fault: Fault, number: signal.Signals) -> Node | None:
        # Before it has a board it has no handlers either, and dies of the signal as any program does.
        nodes = [node for node in self._fleet.living() if node.glimpse.found()]
        node: Node | None = self._picked(nodes, fault.pick)
        if node:
            self._journal.write("signal", node=node.pid, number=number)
            node.send(number)
        return node

    def _restart(self, number: signal.Signals) -> None:
        disturbance = self._note("restart", EVERYBODY)
        self._server.restart(number)
        disturbance.end = time.monotonic()


def is_suspended(pid: int) -> bool:
    """Whether the process has been stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False
