"""`workerbee list`: every jobset of a database, a line each."""

from __future__ import annotations

from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.layout import ago, number, say, say_json, table, width
from workerbee.job import Counts
from workerbee.jobset import list_jobsets
from workerbee.progress import duration, pace
from workerbee.status import Overview

HEAD = ("JOBSET", "TOTAL", "COMPLETE", "FAILED", "CLAIMED", "PENDING", "NODES", "RATE", "LEFT", "ACTIVE")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@takes_address
def list_command(as_json: bool, address: dict[str, Any]) -> int:
    """List the jobsets, the latest active first.

    RATE is over the last minutes, LEFT the time until the end if all goes on as lately, ACTIVE when a node was last
    heard of.
    """
    found = list_jobsets(**address)
    if as_json:
        for one in found:
            say_json(overview_object(one))
    elif found:
        say(table(HEAD, [_row(one) for one in found], 0, width()))
    else:
        click.echo("no jobsets", err=True)
    return 0


def _row(one: Overview) -> tuple[str, ...]:
    counts = one.counts
    numbers = (counts.total, counts.complete, counts.failed, counts.claimed, counts.pending, one.nodes_alive)
    rate = pace(one.rate).replace("jobs/", "/").replace(" ", "") if one.rate else "-"
    return (one.jobset_id, *map(number, numbers), rate, left(one), ago(one.at - one.active_at))


def left(one: Overview) -> str:
    """The time until the end."""
    if one.ended:
        return "ended"
    return "-" if one.eta is None else duration(one.eta)


def counts_object(counts: Counts) -> dict[str, int]:
    """The jobs by state, for JSON."""
    return {name: getattr(counts, name) for name in ("total", "pending", "claimed", "complete", "failed")}


def overview_object(one: Overview) -> dict[str, Any]:
    """All of it, for JSON."""
    return {**vars(one), "counts": counts_object(one.counts), "ended": one.ended, "eta": one.eta}
