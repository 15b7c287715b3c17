"""The fleet: the scripts of a round, started again when they are killed, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import workerbee
from tests.chaos.glimpse import Glimpse
from tests.chaos.journal import Identity, Journal, children_of
from tests.chaos.plan import NodePlan, Plan

ROOT = Path(__file__).parents[2]


@dataclass
class Node:
    """One script that was started; times are monotonic seconds."""

    index: int
    plan: NodePlan
    process: subprocess.Popen[bytes]
    log: Path
    glimpse: Glimpse
    began: float
    signals: list[tuple[float, signal.Signals]] = field(default_factory=list)  # sent to its supervisor
    below: dict[Identity, None] = field(default_factory=dict)  # every process seen below it
    bees: list[Identity] = field(default_factory=list)  # when its supervisor was killed
    ended: float | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def inline(self) -> bool:
        return self.plan.processes is None

    @property
    def finished(self) -> bool:
        """Its call has returned: a job of an inline bee may end the script with 0 just as well."""
        return (self.log.parent / f"done{self.pid}").exists()

    @property
    def told_to_stop(self) -> bool:
        return any(number is not signal.SIGKILL for _, number in self.signals)

    def send(self, number: signal.Signals) -> None:
        """Signal the supervisor."""
        self.signals.append((time.monotonic(), number))
        self.process.send_signal(number)

    def note_processes(self) -> None:
        """Remember what is below it now."""
        try:
            below = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in below:
            identity = Identity.of(process.pid)
            if identity:
                self.below[identity] = None

    def said(self) -> str:
        """What it has printed, its bees' logs included."""
        bees = self.log.parent.glob(f"bees/*-{self.pid}-bee*.log")
        return "".join(path.read_text(errors="replace") for path in (self.log, *bees))


class Fleet:
    """All scripts of `plan`, past ones included; each node reaches the database in one of the folders `hosts`."""

    def __init__(self, plan: Plan, folder: Path, server: Path, relay: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._hosts = {False: server, True: relay}
        self._journal = Journal(folder / "journal")
        self.nodes: list[Node] = []

    def start(self) -> None:
        for index in range(len(self._plan.nodes)):
            self._start(index)

    def living(self) -> Iterator[Node]:
        """The nodes whose script has not ended."""
        return (node for node in list(self.nodes) if node.ended is None)

    def tend(self) -> list[Node]:
        """Start those again that did not finish; returns the nodes that have ended since the last time."""
        ended = [node for node in self.living() if node.process.poll() is not None]
        for node in ended:
            node.ended = self._journal.write("exit", node=node.pid, code=node.process.returncode)
            if not node.finished:
                self._start(node.index)
        return ended

    def end(self) -> None:
        """Kill all that is left, whatever it is."""
        for node in self.nodes:
            node.process.kill()
            node.process.wait()
        children = children_of(list(self._journal.lines()))
        for identity in (*children, *(identity for node in self.nodes for identity in node.below)):
            if identity.lives():
                os.kill(identity.pid, signal.SIGKILL)

    def _start(self, index: int) -> None:
        start = sum(node.index == index for node in self.nodes)
        plan = self._plan.start(index, start)
        log = self._folder / f"node{index}-{len(self.nodes)}.log"
        host = self._hosts[plan.relayed]
        arguments = [self._folder, self._plan.seed, self._plan.number, len(self._plan.jobs), index, start, host]
        others = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PYTEST"))}
        # The package that is under test, wherever this run itself found it.
        path = os.pathsep.join(map(str, (ROOT, Path(workerbee.__file__).parents[1])))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.script", *map(str, arguments)],
                env={**others, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._journal.write("node", node=process.pid, index=index)
        glimpse = Glimpse(process.pid, plan.processes or 1)
        self.nodes.append(Node(index, plan, process, log, glimpse, time.monotonic()))
