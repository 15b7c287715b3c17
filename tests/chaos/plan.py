"""The plan: all that a seed decides about a round, so that the same seed plans the same round again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.chaos.behaviours import BEHAVIOURS


@dataclass(frozen=True)
class Job:
    """What the job `job_id` does, with `number` to draw its details from."""

    job_id: str
    does: str
    number: int

    @property
    def data(self) -> dict[str, Any]:
        return {"does": self.does, "number": self.number}


@dataclass(frozen=True)
class NodePlan:
    """How the script of a node calls `postgres_jobset`; `relayed`: it reaches the database through the relay."""

    processes: int | None
    start_method: str
    lease: float
    grace: float
    claim: str | int
    max_jobs_per_bee: int | None
    job_timeout: float | None
    memory_limit: str | None
    logged: bool
    relayed: bool


@dataclass(frozen=True)
class Fault:
    """Something bad, `after` seconds after the one before; `pick`, from 0 to 1, chooses the victim."""

    after: float
    name: str
    pick: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """One round."""

    seed: int
    number: int
    jobs: tuple[Job, ...]
    nodes: tuple[NodePlan, ...]
    max_attempts: int
    max_crashes: int
    width: int  # jobs to a range, which is the most that a bee can claim at once

    @property
    def jobset_id(self) -> str:
        return f"chaos_{self.number}"

    @property
    def job_timeout(self) -> float | None:
        return self.nodes[0].job_timeout

    def start(self, index: int, start: int) -> NodePlan:
        """How the node `index` calls when its script is started for the `start`th time, from 0: not always alike."""
        first = self.nodes[index]
        if not start or first.processes is None:
            return first
        another = _draw_node(Random(f"{self.seed}/{self.number}/node{index}/{start}"), 0)
        return replace(another, relayed=first.relayed, job_timeout=first.job_timeout, memory_limit=first.memory_limit)

    def faults(self) -> Iterator[Fault]:
        """What the killer does, one after the other, for as long as the round lasts."""
        random = Random(f"{self.seed}/{self.number}/faults")
        pace = random.choice((0.5, 1, 1, 2))
        while True:
            (name,) = random.choices(list(FAULTS), list(FAULTS.values()))
            yield Fault(pace * random.choice(PAUSES), name, random.random(), random.uniform(0.5, 1))


# How often each fault comes, as weights; the names are those of methods of `Faults`.
FAULTS = {
    "kill_bee": 20,
    "stop_bee": 8,
    "kill_keeper": 6,
    "stop_keeper": 4,
    "kill_supervisor": 6,
    "stop_supervisor": 4,
    "kill_heads": 5,
    "kill_node": 2,
    "terminate": 4,
    "terminate_twice": 5,
    "interrupt": 3,
    "hang_up": 3,
    "restart_fast": 2,
    "restart_immediate": 2,
    "cut_sessions": 8,
    "hold_snapshot": 4,
    "fill_connections": 1,
    "freeze_network": 5,
    "lose_answers": 8,
}
LIMITED = ("timeout", "memory")  # kinds of failure that take a limit
JOB_TIMEOUT = 2.0
PAUSES = (0.05, 0.2, 0.5, 1.0, 1.5)


def draw(seed: int, number: int, count: int) -> Plan:
    """The plan of round `number` with `count` jobs."""
    random = Random(f"{seed}/{number}/nodes")
    nodes = tuple(_draw_node(random, index) for index in range(random.choice((2, 3, 3))))
    # Nobody could end a job that hangs in a bee in the caller's own process.
    limited = random.random() < 0.7 and all(node.processes for node in nodes)
    if limited:
        nodes = tuple(replace(node, job_timeout=JOB_TIMEOUT, memory_limit="1GB") for node in nodes)
    return Plan(
        seed,
        number,
        tuple(draw_job(seed, f"{number}/{index}", limited) for index in range(count)),
        nodes,
        max_attempts=random.choice((2, 3)),
        max_crashes=random.choice((2, 3)),
        width=random.choice((1, 10, 100)),
    )


def draw_job(seed: int, job_id: str, limited: bool) -> Job:
    random = Random(f"{seed}/{job_id}")
    weights = [0 if one.kind in LIMITED and not limited else one.weight for one in BEHAVIOURS.values()]
    (does,) = random.choices(list(BEHAVIOURS), weights)
    return Job(job_id, does, random.randrange(2**32))


def _draw_node(random: Random, index: int) -> NodePlan:
    inline = index > 0 and random.random() < 0.25
    # Importing takes a spawned bee half a second: with crashes all the time, such a node does little else.
    (method,) = random.choices(("fork", "forkserver", "spawn"), (10, 2, 1))
    return NodePlan(
        processes=None if inline else random.choice((2, 3, 4)),
        start_method=method,
        lease=random.choice((2.0, 3.0, 4.0)),
        grace=random.choice((0.5, 3.0, 6.0)),
        claim=random.choice(("auto", "one", 8, 64)),
        max_jobs_per_bee=None if inline else random.choice((None, None, 50)),
        job_timeout=None,
        memory_limit=None,
        logged=not inline and random.random() < 0.3,
        relayed=index > 0 and random.random() < 0.5,
    )
