"""`workerbee failures`: every failed attempt, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.layout import moment, number, say, say_json, seconds, table, width
from workerbee.display import cause
from workerbee.job import FailureGroup, Kind
from workerbee.jobset import Jobset
from workerbee.records import FailureRecord
from workerbee.terminal import harmless
from workerbee.text import printable, shortened

EXAMPLES = """\b
Examples:
  workerbee failures thumbs --group
  workerbee failures thumbs --kind crash
  workerbee failures thumbs --job photos/lenna.png
  workerbee failures thumbs --match 'No space left' --json | jq .job_id
"""
KINDS = tuple(kind.value for kind in Kind)


@click.command("failures", epilog=EXAMPLES)
@click.argument("jobset_id", metavar="JOBSET")
@click.option("--group", "grouped", is_flag=True, help="Count them by kind and message.")
@click.option("--job", "job_id", metavar="ID", help="Only of this job, with stack and log.")
@click.option("--kind", type=click.Choice(KINDS), help="Only of this kind.")
@click.option("--match", metavar="TEXT", help="Only those with this text in type or message.")
@click.option("--full", is_flag=True, help="Show stacks and logs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@takes_address
def failures_command(
    jobset_id: str,
    grouped: bool,
    job_id: str | None,
    kind: str | None,
    match: str | None,
    full: bool,
    as_json: bool,
    address: dict[str, Any],
) -> int:
    """Show the failed attempts of a jobset's jobs, the newest first, a line each."""
    jobset = Jobset(jobset_id, **address)
    if grouped:
        if job_id or kind or match or full:
            raise click.UsageError("--group counts all failures; it goes with --json only")
        _show_groups(jobset, as_json)
        return 0
    for record in jobset.failures(job_id, kind, match):
        if as_json:
            say_json(record)
        elif full or job_id is not None:
            say(in_full(record))
        else:
            click.echo(in_short(record, width()))
    return 0


def _show_groups(jobset: Jobset, as_json: bool) -> None:
    groups = jobset.failure_groups(1000)
    if as_json:
        for group in groups:
            say_json(group)
    elif groups:
        rows = [
            (number(group.count), group.kind.value, cause(group.kind, group.type, group.message), _example(group))
            for group in groups
        ]
        say(table(("COUNT", "KIND", "WHY", "E.G. JOB"), rows, 2, width()))


def _example(group: FailureGroup) -> str:
    return shortened(group.example, 30) if sys.stdout.isatty() else group.example


def in_short(record: FailureRecord, most: int) -> str:
    """A failure in a line."""
    final = ", FAILED" if record.final else ""
    begun = f"{moment(record.failed_at)} job '{printable(record.job_id, 100)}' attempt {record.attempt}{final}: "
    why = f"{record.kind.value}: {cause(record.kind, record.type, record.message)}"
    return begun + printable(why, max(30, min(500, most - len(begun))))


def in_full(record: FailureRecord) -> Iterator[str]:
    """All that is known of a failure."""
    final = ", after which it is FAILED" if record.final else ""
    yield f"job '{printable(record.job_id, 3000)}', attempt {record.attempt}{final}"
    code = f" (exit code {record.exit_code})" if record.exit_code is not None and record.exit_code >= 0 else ""
    yield from _lines(f"  {record.kind.value}: {cause(record.kind, record.type, record.message)}{code}")
    after = f" after {seconds(record.seconds)}" if record.seconds is not None else ""
    where = f"on {printable(record.host)}, bee {record.bee}, pid {record.pid or '?'}"
    yield f"  {moment(record.failed_at)}{after}, {where}"
    for title, text in (("stack", record.stack), ("log", record.log)):
        if text.strip():
            yield f"  {title}:"
            for line in _lines(text.rstrip("\n")):
                yield f"    {line}".rstrip()
    yield ""


def _lines(text: str) -> Iterator[str]:
    # With str.splitlines, \r and other exotic breaks would go; harmless() deals with those.
    return map(harmless, text.split("\n"))
