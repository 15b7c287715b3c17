"""What a node costs that has nothing to do but wait for others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from tests.benchmarks.fresh import Fresh
from tests.benchmarks.holding import hold, holding
from tests.benchmarks.run import Run
from tests.benchmarks.sample import Sample
from tests.benchmarks.table import Row
from tests.helpers import wait_until

BEES = 64
HOLDERS = 2
QUIET = 5.0  # seconds
# A moment after its last transaction a session reports them; asked from another database, this is none of them.
TRANSACTIONS = "SELECT xact_commit + xact_rollback, numbackends FROM pg_stat_database WHERE datname = %s"


@dataclass(frozen=True)
class Cost:
    """Of what lives in a database: transactions a second, connections; of a node there: CPUs, processes."""

    transactions: float
    connections: int
    cpus: float = 0.0
    processes: int = 0


def watch(run: Run, database: str, node: Fresh | None, seconds: float) -> Cost:
    """What it costs for so many seconds."""
    ((before, _),) = run.server.ask(TRANSACTIONS, database)
    cpu, begun = cpu_seconds(node), time.monotonic()
    time.sleep(seconds)
    ((after, connections),) = run.server.ask(TRANSACTIONS, database)
    taken = time.monotonic() - begun
    processes = 0 if node is None else 1 + len(psutil.Process(node.pid).children(recursive=True))
    return Cost((after - before) / taken, connections, (cpu_seconds(node) - cpu) / taken, processes)


def cpu_seconds(node: Fresh | None) -> float:
    """Of a node's processes, those included that it has waited for."""
    if node is None:
        return 0.0
    top = psutil.Process(node.pid)
    times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
    return (
        sum(time.user + time.system for time in times) + top.cpu_times().children_user + top.cpu_times().children_system
    )


def wait_beside(run: Run) -> tuple[Cost, Cost]:
    """Of the nodes that hold the last claims, alone; and of both, with what is the waiting node's own."""
    seconds = run.size(30, 5)
    with run.loaded(HOLDERS) as parameters, holding(parameters, HOLDERS):
        database = parameters["dbname"]
        alone = watch(run, database, None, seconds)
        with Fresh(hold, parameters=parameters, bees=BEES, folder="/nonexistent") as node:
            _wait_until_idle(run, database, node)
            return alone, watch(run, database, node, seconds)


def _wait_until_idle(run: Run, database: str, node: Fresh) -> None:
    """Until the node's bees have come, found nothing and gone: for some seconds, only its keeper is connected."""
    busy = time.monotonic()

    def idle() -> bool:
        nonlocal busy
        ((connections,),) = run.server.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", database)
        if connections != HOLDERS + 2:
            busy = time.monotonic()
        return time.monotonic() - busy > QUIET or not node.alive()

    wait_until(idle, "the node to wait")


def rows(run: Run) -> Iterator[Row]:
    costs = []
    name = f"a waiting node of {BEES} bees: seconds to see it"

    def trial() -> float:
        begun = time.monotonic()
        costs.append(wait_beside(run))
        return time.monotonic() - begun

    run.measure({name: trial})
    queries = Sample(both.transactions - alone.transactions for alone, both in costs)
    connections = Sample(both.connections - alone.connections for alone, both in costs)
    what = f"a waiting node of {BEES} bees, others hold the last claims"
    yield Row("waiting", f"{what}: queries", queries, "a second", target=1, at_most=True)
    cpu = Sample(100 * both.cpus for _, both in costs)
    yield Row("waiting", f"{what}: CPU of all its processes", cpu, "% of one", target=1, at_most=True)
    yield Row("waiting", f"{what}: connections", connections, "", target=1, at_most=True)
    processes = Sample(both.processes for _, both in costs)
    yield Row("waiting", f"{what}: processes, supervisor and keeper included", processes, "")
