"""`workerbee retry`, `reset`, `add`, `stop`, `drop`: a jobset is steered while its nodes work, or when none does."""

from __future__ import annotations

import sys
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.sources import job_source
from workerbee.errors import JobsetInUse
from workerbee.job import Kind
from workerbee.jobset import Jobset

KINDS = tuple(kind.value for kind in Kind)
jobset_argument = click.argument("jobset_id", metavar="JOBSET")
ids_argument = click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.command("retry")
@jobset_argument
@ids_argument
@click.option("--kind", type=click.Choice(KINDS), help="Only jobs whose last attempt failed by this.")
@click.option("--match", metavar="TEXT", help="Only jobs whose last failure has this in its type or message.")
@takes_address
def retry_command(
    jobset_id: str, job_ids: tuple[str, ...], kind: str | None, match: str | None, address: dict[str, Any]
) -> int:
    """Give FAILED jobs all their attempts again: all of them, or those named.

    Nodes that are at work take them up; if there are none, start the run again.
    """
    number = Jobset(jobset_id, **address).retry(job_ids or None, kind, match)
    click.echo(f"{counted(number, 'job')} pending again in jobset '{jobset_id}'")
    return 0


@click.command("reset")
@jobset_argument
@ids_argument
@click.option("--all", "every", is_flag=True, help="All jobs of the jobset.")
@yes_option
@takes_address
def reset_command(jobset_id: str, job_ids: tuple[str, ...], every: bool, yes: bool, address: dict[str, Any]) -> int:
    """Have jobs run again, COMPLETE ones, too."""
    if bool(job_ids) == every:
        raise click.UsageError("give JOB_IDs, or --all")
    jobset = Jobset(jobset_id, **address)
    if not yes:
        if every:
            counts = jobset.overview().counts
            ask(
                f"Have all {counts.total} jobs of jobset '{jobset_id}' run again, {counts.complete} COMPLETE ones, too?"
            )
        else:
            ask(f"Have {counted(len(job_ids), 'job')} of jobset '{jobset_id}' run again, even if COMPLETE?")
    result = jobset.reset(None if every else job_ids, all=every)
    left_alone = f"; {counted(result.running, 'job')} claimed, and left alone" if result.running else ""
    click.echo(f"{counted(result.reset, 'job')} pending again in jobset '{jobset_id}'{left_alone}")
    return 0


@click.command("add")
@jobset_argument
@click.argument("more", nargs=-1, metavar="")
@click.option("--jobs", multiple=True, required=True, metavar="FILE|-|GLOB...", help="The job ids, as for `run`.")
@takes_address
def add_command(jobset_id: str, more: tuple[str, ...], jobs: tuple[str, ...], address: dict[str, Any]) -> int:
    """Add jobs to a jobset; those that it has are skipped, and counted.

    Nodes that are at work take them up; if there are none, start the run again.
    """
    source = job_source(jobs, more)
    assert source is not None
    result = Jobset(jobset_id, **address).add(source)
    skipped = f"; {counted(result.present, 'job')} skipped, there already" if result.present else ""
    click.echo(f"{counted(result.added, 'job')} added to jobset '{jobset_id}'{skipped}")
    return 0


@click.command("stop")
@jobset_argument
@click.option("--node", type=click.IntRange(1), metavar="N", help="Only this node, as `status` numbers them.")
@click.option("--now", is_flag=True, help="Interrupt running jobs, and give them back uncharged.")
@takes_address
def stop_command(jobset_id: str, node: int | None, now: bool, address: dict[str, Any]) -> int:
    """Tell nodes to end, wherever they are: they claim no more, and end when their running jobs have.

    They hear it within two seconds. Start the run again, and it goes on with what is left.
    """
    told = Jobset(jobset_id, **address).stop(node, now=now)
    click.echo(f"{counted(told, 'node')} of jobset '{jobset_id}' told to end")
    return 0


@click.command("drop")
@jobset_argument
@click.option("--force", is_flag=True, help="Also while nodes are alive; they end with an error.")
@yes_option
@takes_address
def drop_command(jobset_id: str, force: bool, yes: bool, address: dict[str, Any]) -> int:
    """Delete a jobset, with all that is known of its jobs and failures.

    Refused while nodes are alive.
    """
    jobset = Jobset(jobset_id, **address)
    seen = jobset.overview()
    if seen.nodes_alive and not force:
        raise JobsetInUse(
            f"{counted(seen.nodes_alive, 'node')} alive in jobset '{jobset_id}': workerbee stop {jobset_id}, or --force"
        )
    if not yes:
        jobs = counted(seen.counts.total, "job")
        ask(f"Delete jobset '{jobset_id}' with its {jobs}, {seen.counts.complete} of them COMPLETE?")
    jobset.drop(force=force)
    click.echo(f"jobset '{jobset_id}' deleted")
    return 0


def counted(number: int, noun: str) -> str:
    """1 job, 2 jobs."""
    return f"{number} {noun}{'s' * (number != 1)}"


def ask(question: str) -> None:
    """Go on only after a yes."""
    if not sys.stdin.isatty():
        raise click.UsageError("this asks first, and there is nobody to answer: give --yes")
    if not click.confirm(question, err=True):
        raise click.ClickException("nothing was done")
