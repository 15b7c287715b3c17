"""Reading how a jobset stands: every query costs the same on ten million jobs as on ten thousand."""

from __future__ import annotations

import psycopg2.errors

from workerbee.errors import JobNotFound, JobsetNotFound
from workerbee.status import BeeStatus, Durations, NodeStatus, Overview, Status
from workerbee.store import Store
from workerbee.text import shown

SAMPLE = 5_000  # completed jobs whose durations are looked at
MOST_ROWS = 100_000  # rows that are read for that
ENDED_NODES = 100  # of those that are gone, so many are shown


def find(store: Store) -> None:
    """Raise `JobsetNotFound` unless the jobset exists."""
    try:
        found = store.run("find_jobset")
    except psycopg2.errors.UndefinedTable:  # nobody has created any
        found = []
    if not found:
        raise JobsetNotFound(f"there is no jobset '{store.jobset_id}' in this database")


def position(store: Store, job_id: str) -> int:
    """Where a job is. Raises `JobNotFound`."""
    rows = store.run("find_position", job_id=job_id)
    if not rows:
        raise JobNotFound(f"jobset '{store.jobset_id}' has no job {shown(job_id)}")
    return int(rows[0][0])


def overview(store: Store) -> Overview:
    """The jobset in a few numbers."""
    nodes = [NodeStatus(*row) for row in store.run("describe_nodes", ended=0)]
    return _overview(store, nodes)


def status(store: Store, groups: int) -> Status:
    """The jobset in full, with the `groups` most frequent failures."""
    nodes = tuple(NodeStatus(*row) for row in store.run("describe_nodes", ended=ENDED_NODES))
    seen = _overview(store, nodes)
    return Status(
        **vars(seen),
        durations=_durations(store, seen.counts.total, seen.counts.complete),
        failures=tuple(store.failure_groups(groups)),
        nodes=nodes,
        bees=tuple(BeeStatus(*row) for row in store.run("describe_bees")),
    )


def _overview(store: Store, nodes: tuple[NodeStatus, ...] | list[NodeStatus]) -> Overview:
    rows = store.run("describe_jobset")
    if not rows:  # dropped a moment ago
        raise JobsetNotFound(f"there is no jobset '{store.jobset_id}' in this database")
    alive = [node for node in nodes if node.alive]
    ((at, created_at, created_by, active_at),) = rows
    rate = sum(node.rate for node in alive)
    return Overview(store.jobset_id, at, created_at, created_by, active_at, store.counts(), len(alive), rate)


def sampled_percent(total: int, complete: int) -> float:
    """The percentage of `total` jobs to read so as to see enough that are complete."""
    return 100 * min(1.0, SAMPLE / max(1, complete), MOST_ROWS / max(1, total))


def _durations(store: Store, total: int, complete: int) -> Durations:
    percent = sampled_percent(total, complete)
    ((median, p95, longest, sampled),) = store.run("sample_durations", percent=percent)
    ((slowest,),) = store.run("find_slowest")
    known = [seconds for seconds in (longest, slowest) if seconds is not None]
    return Durations(median, p95, max(known, default=None), sampled)
