"""`workerbee status`: one jobset in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.layout import ago, moment, number, say, say_json, seconds, table, width
from workerbee.command.listing import left, overview_object
from workerbee.display import cause
from workerbee.jobset import Jobset
from workerbee.progress import pace
from workerbee.status import BeeStatus, NodeStatus, Status
from workerbee.text import printable, shortened

ENDED_NODES = 5  # of those that are gone, so many are shown


@click.command("status")
@click.argument("jobset_id", metavar="JOBSET")
@click.option("--bees", is_flag=True, help="Show every bee, not only those whose jobs have run longest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with everything.")
@takes_address
def status_command(jobset_id: str, bees: bool, as_json: bool, address: dict[str, Any]) -> int:
    """Show how a jobset stands: counts, rate, time left, how long jobs take, what fails, who does what.

    It is cheap to ask, on ten million jobs, too.
    """
    status = Jobset(jobset_id, **address).status()
    if as_json:
        say_json(overview_object(status))
    else:
        say(report(status, width(), bees))
    return 0


def report(status: Status, most: int, all_bees: bool = False) -> Iterator[str]:
    """The lines that say it all, of at most `most` characters where that can be."""
    yield from summary(status)
    yield from _section("Nodes", node_lines(status, most))
    bees = status.bees if all_bees else status.longest_running
    title = "Bees" if all_bees else "Running longest"
    yield from _section(title, bee_lines(bees, most))
    yield from _section("Failed attempts", failure_lines(status, most))


def summary(status: Status) -> Iterator[str]:
    """The jobset in a few lines."""
    counts, times = status.counts, status.durations
    share = int(100 * (counts.complete + counts.failed) / counts.total) if counts.total else 0
    yield f"jobset '{status.jobset_id}', {counts.total} job{'s' * (counts.total != 1)}"
    ended = f"{counts.complete} complete, {counts.failed} failed"
    yield f"{share} % done: {ended}, {counts.claimed} claimed, {counts.pending} pending"
    until = {"ended": "it has ended", "-": "no telling when it ends"}.get(left(status), f"about {left(status)} left")
    yield f"{pace(status.rate)} lately; {until}"
    if times.median is not None:
        sampled = f" (sample of {times.sampled})" if times.sampled < counts.complete else ""
        usual = f"median {seconds(times.median)}, 95 % within {seconds(times.p95)}"
        yield f"durations: {usual}, longest {seconds(times.longest)}{sampled}"
    created = f"created {moment(status.created_at)} by {printable(status.created_by)}"
    yield f"{created}, last active {ago(status.at - status.active_at)} ago"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        if not index:
            yield ""
            yield f"{title}:"
        yield f"  {line}"


def node_lines(status: Status, most: int) -> Iterator[str]:
    """A table of the nodes that are alive, and the last ones that are not."""
    alive = [node for node in status.nodes if node.alive]
    ended = [node for node in status.nodes if not node.alive]
    if status.nodes:
        head = ("HOST", "NODE", "PID", "BEES", "COMPLETE", "FAILED", "RATE", "UP", "STATE")
        rows = [_node_row(node, status) for node in [*alive, *ended[-ENDED_NODES:]]]
        yield from table(head, rows, 0, most - 2)
    if len(ended) > ENDED_NODES:
        yield f"and {len(ended) - ENDED_NODES} more that have ended"


def _node_row(node: NodeStatus, status: Status) -> tuple[str, ...]:
    if node.alive:
        state = {None: "alive", "drain": "draining", "now": "stopping"}.get(node.stop, node.stop or "")
    else:
        state = "ended" if node.ended_at else f"silent for {ago(status.at - node.beat_at)}"
    numbers = (str(node.node), str(node.pid), str(node.bees), number(node.done), number(node.failed))
    rate = pace(node.rate).replace("jobs/", "/").replace(" ", "") if node.alive else "-"
    up = ago((node.ended_at or status.at) - node.started_at)
    return (node.host, *numbers, rate, up, state)


def bee_lines(bees: tuple[BeeStatus, ...], most: int) -> Iterator[str]:
    """A table of what bees hold."""
    if bees:
        head = ("JOB", "SINCE", "HOST", "BEE", "PID")
        rows = []
        for bee in bees:
            more = f" and {bee.jobs - 1} more" if bee.jobs > 1 else ""
            job = f"{bee.job_id}{more}" if bee.job_id is not None else "-"
            rows.append((job, seconds(bee.seconds), bee.host, str(bee.bee), str(bee.pid or "?")))
        yield from table(head, rows, 0, most - 2)


def failure_lines(status: Status, most: int) -> Iterator[str]:
    """The causes of failures, the most frequent first."""
    for group in status.failures:
        why = f"{number(group.count):>6} x {group.kind.value}: {cause(group.kind, group.type, group.message)}"
        example = f", e.g. job '{shortened(group.example, 30)}'"
        yield printable(why, max(30, min(400, most - 2 - len(example)))) + example
