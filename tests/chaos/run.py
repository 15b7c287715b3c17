"""A run: rounds, each with a jobset, a fleet, a killer and a sampler, and in the end the checker."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.checker import Checker, Evidence
from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet, Node
from tests.chaos.journal import Journal, attempts_of
from tests.chaos.killer import Killer
from tests.chaos.outputs import wrong_output
from tests.chaos.plan import Plan, draw
from tests.chaos.relay import Relay
from tests.chaos.sampler import Sampler, left_by
from tests.chaos.server import Server
from tests.chaos.tables import Tables
from tests.helpers import wait_until

LONGEST = 240.0  # seconds without a fault in which a round must have come to its end
LEFT_WITHIN = 15.0
MOST_STARTS = 400  # of scripts in a round


@dataclass
class Result:
    """How a round went."""

    number: int
    seconds: float
    wrong: list[str]
    faults: Counter[str]
    states: Counter[str]
    kinds: Counter[str]
    attempts: int
    narrow: int
    samples: int
    usage: dict[str, float]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        told = {
            "jobs": dict(self.states),
            "failures": dict(self.kinds),
            "faults": self.faults.total(),
            "samples": self.samples,
        }
        words = "; ".join(f"{name} {what}" for name, what in told.items())
        verdict = f"{len(self.wrong)} WRONG" if self.wrong else "fine"
        return f"round {self.number}: {verdict} in {self.seconds:.1f} s: {self.attempts} attempts; {words}"


class Run:
    """Rounds of `jobs` jobs by `seed`; what they leave is kept in `keep`, if that is a folder."""

    def __init__(self, seed: int, jobs: int, keep: Path | None = None) -> None:
        self._seed = seed
        self._jobs = jobs
        self._folder = keep or Path(tempfile.mkdtemp(prefix="workerbee-chaos-"))
        self._keep = keep is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)  # root's server runs under another account
        self.results: list[Result] = []

    def go_on(self, seconds: float, first: int = 0) -> bool:
        """Rounds from number `first` on, for so many seconds; whether all of them were fine."""
        deadline = time.monotonic() + seconds
        # A socket's path must be short.
        home = Path(tempfile.mkdtemp(prefix="wb-chaos-"))
        home.chmod(0o755)
        server = Server(home)
        try:
            while not self.results or time.monotonic() < deadline:
                number = first + len(self.results)
                result = self._round(draw(self._seed, number, self._jobs), server, home, deadline)
                self.results.append(result)
                print(result, *(f"    {line}" for line in result.wrong), sep="\n", flush=True)
        finally:
            server.stop()
            shutil.rmtree(home, ignore_errors=True)
            if not self._keep:
                shutil.rmtree(self._folder, ignore_errors=True)
        return not any(result.wrong for result in self.results)

    def _round(self, plan: Plan, server: Server, home: Path, deadline: float) -> Result:
        begun = time.monotonic()
        folder = self._folder / f"round{plan.number}"
        (folder / "once").mkdir(parents=True)
        journal = Journal(folder / "journal")
        for file in (journal.path, folder / "locks"):
            file.touch()
        relay = Relay(home / f"r{plan.number}" / "relay", server.folder)
        fleet = Fleet(plan, folder, server.folder, relay.folder)
        killer = Killer(plan.faults())
        faults = Faults(fleet, server, relay, journal, killer.later)
        killer.commit = faults.commit
        sampler = Sampler(fleet, faults, server, journal, plan.jobset_id)
        wrong: list[str] = []
        try:
            fleet.start()
            sampler.start()
            killer.start()
            wrong += self._tend(fleet, killer, sampler, deadline)
        finally:
            killer.stop()
            left = _leftovers(fleet, faults, journal)
            fleet.end()
            sampler.stop()
            relay.close()
        with server.connect("checker") as connection:
            tables = Tables(connection, plan.jobset_id)
            wrong += sampler.wrong + left + self._last_look(tables)
            evidence = _evidence(plan, fleet, faults, sampler, journal, tables)
            checker = Checker(evidence)
            wrong += checker.wrong()
            wrong += [line for node in fleet.nodes for line in wrong_output(node, faults.hits, faults.disturbances)]
            sizes = tables.sizes()
            if not wrong:
                tables.drop()
        connection.close()
        return Result(
            plan.number,
            time.monotonic() - begun,
            wrong,
            faults.done,
            Counter(row.state for row in evidence.rows),
            Counter(failure.kind for failure in evidence.failures),
            len(evidence.attempts),
            checker.narrow,
            sampler.samples,
            sampler.usage.summary(),
            sizes,
        )

    def _tend(self, fleet: Fleet, killer: Killer, sampler: Sampler, deadline: float) -> list[str]:
        """Wait until the jobset is finished; faults are over at `deadline`, so that this can be."""
        quiet: float | None = None
        while list(fleet.living()):
            for node in fleet.tend():
                sampler.check_ended(node)
            now = time.monotonic()
            if quiet is None and now > deadline:
                killer.stop()
                quiet = now
            if now > (quiet or deadline) + LONGEST:
                return [f"the round does not end: {sampler.describe()}"]
            if len(fleet.nodes) > MOST_STARTS:
                return [f"scripts end again and again: {fleet.nodes[-2].said()[-1000:]}"]
            if killer.failure or sampler.failure:
                break
            time.sleep(0.05)
        return []

    def _last_look(self, tables: Tables) -> list[str]:
        counters, wrong = tables.snapshot()
        if counters["pending"] or counters["claimed"]:
            wrong.append(f"the scripts have ended, and there is work left: {counters}")
        return wrong


def _leftovers(fleet: Fleet, faults: Faults, journal: Journal) -> list[str]:
    """Processes of the round that are still there at its end."""
    nodes = [node for node in fleet.nodes if node.pid not in faults.unattended and node.ended and not node.inline]

    def left() -> dict[int, list[int]]:
        return {node.pid: pids for node in nodes if (pids := left_by(node, journal))}

    try:
        wait_until(lambda: not left(), seconds=LEFT_WITHIN)
    except AssertionError:
        return [f"node {node} has ended, and of its processes there are still {pids}" for node, pids in left().items()]
    return []


def _evidence(plan: Plan, fleet: Fleet, faults: Faults, sampler: Sampler, journal: Journal, tables: Tables) -> Evidence:
    lines = list(journal.lines())
    signals = [(at, node.pid, number) for node in fleet.nodes for at, number in node.signals]
    return Evidence(
        list(plan.jobs),
        plan.max_attempts,
        plan.max_crashes,
        plan.job_timeout,
        {node.pid: node.plan.lease for node in fleet.nodes},
        offset=time.time() - time.monotonic(),
        rows=tables.rows(),
        failures=tables.failures(),
        attempts=attempts_of(lines),
        hits=faults.hits,
        signals=[entry for entry in signals if entry[2] != 9],
        disturbances=faults.disturbances,
        fallen={node.pid: node.ended or 0.0 for node in fleet.nodes if _fell(node)},
        hiccups=sampler.hiccups,
        summaries=[(line["total"], line["complete"], line["failed"]) for line in lines if line["what"] == "summary"],
    )


def _fell(node: Node) -> bool:
    """Its script ended without settling for its bees: by a crash of the inline bee, or for want of a database."""
    return not node.finished and (node.inline or not node.told_to_stop)
