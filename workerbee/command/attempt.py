"""`workerbee try`: one job, here and now, with nothing written: how one debugs what failed elsewhere."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from typing import Any

import click
import psycopg2.errors

from workerbee.address import connect, resolve
from workerbee.command.addressing import takes_address
from workerbee.command.target import chosen_function, show_traceback, users_part
from workerbee.errors import JobNotFound, JobsetNotFound
from workerbee.job import JobFunction
from workerbee.options import check_job_function, check_jobset_id
from workerbee.session import Session
from workerbee.store import Store
from workerbee.text import shown

PATIENCE = 20.0  # seconds that the database may be busy or away
EXAMPLES = """\b
Examples:
  workerbee try jobs:resize thumbs photos/lenna.png
  workerbee try jobs:resize thumbs photos/lenna.png --pdb
"""


@click.command("try", epilog=EXAMPLES)
@click.argument("words", nargs=-1, metavar="MODULE:FUNCTION|SCRIPT.py:FUNCTION JOBSET JOB_ID")
@click.option("--pdb", "debug", is_flag=True, help="After an exception, look around where it was raised.")
@click.option("--exec", "template", metavar="COMMAND", help="Run a command, as `run` does, in place of a function.")
@click.option("--shell", is_flag=True, help="Give the command to /bin/sh.")
@takes_address
def try_command(words: tuple[str, ...], debug: bool, template: str | None, shell: bool, address: dict[str, Any]) -> int:
    """Run one job here, in the foreground, with its data from the database.

    Nothing is written there, whatever happens, and limits do not apply. Exit code 0: the function returned; 1: it
    raised, or the command failed; if it crashes this process, that is how the process ends.
    """
    function, rest = chosen_function(words, template, shell, ["JOBSET", "JOB_ID"])
    if len(rest) > 2:
        raise click.UsageError(f"unexpected argument {shown(rest[2])}")
    jobset_id, job_id = rest
    check_job_function(function)
    state, data, attempts = _read_job(check_jobset_id(jobset_id), job_id, address)
    say(f"job {shown(job_id)}, {state} after {attempts} failed attempts; its data: {shown(data, 500)}")
    faulthandler.enable()
    return _attempt(function, job_id, data, debug)


def _read_job(jobset_id: str, job_id: str, address: dict[str, Any]) -> tuple[str, dict[str, Any], int]:
    session = Session(
        resolve(**address), jobset_id, f"workerbee {jobset_id} try", patience=PATIENCE, connect=connect, starting=True
    )

    def read(store: Store) -> list[tuple[Any, ...]]:
        try:
            return store.run("read_job", job_id=job_id)
        except psycopg2.errors.UndefinedTable:
            raise JobsetNotFound(f"there is no jobset '{jobset_id}' in this database") from None

    try:
        rows = session.call(read)
    finally:
        session.close()
    if not rows:
        raise JobNotFound(f"jobset '{jobset_id}' has no job {shown(job_id)}")
    ((state, data, attempts),) = rows
    return state, json.loads(data) if data else {}, attempts


def _attempt(function: JobFunction, job_id: str, data: dict[str, Any], debug: bool) -> int:
    """Call the function; the exit code."""
    begun = time.monotonic()
    try:
        function(job_id, data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: a job that leaves the process has not completed
        show_traceback(error)
        say(f"job {shown(job_id)} failed after {time.monotonic() - begun:.1f} s")
        if debug:
            import pdb

            pdb.post_mortem(users_part(error.__traceback__) or error.__traceback__)
        return 1
    say(f"job {shown(job_id)} is done after {time.monotonic() - begun:.1f} s; this is not recorded")
    return 0


def say(line: str) -> None:
    """Tell the user something that is not the job's own output."""
    sys.stdout.flush()
    click.echo(f"workerbee: {line}", err=True)
