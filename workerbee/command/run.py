"""`workerbee run`: all of `postgres_jobset` without a script."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import click

from workerbee.command.addressing import takes_address
from workerbee.command.sources import job_source
from workerbee.command.target import chosen_function
from workerbee.errors import InvalidType, InvalidValue, JobsetNotFound
from workerbee.postgresql import postgres_jobset

TEXTS = {"log_dir"}  # never numbers
NO_OPTIONS = {"password", "on_event"}  # one would be seen by all in the process list, the other is no text
# The only default that is another: who starts a command for a jobset has no process of his own to keep to.
DEFAULTS = {"processes": "auto"}
OPTIONS: Mapping[str, tuple[str, str]] = {
    "processes": ("N|auto|none", "Bees to run; auto: one per usable CPU; none: one, in this very process."),
    "claim": ("N|auto|one", "Jobs that a bee claims at once; auto: what should be through in 50 ms."),
    "max_attempts": ("N", "Errors and timeouts after which a job is FAILED."),
    "max_crashes": ("N", "Bees that a job may take down before it is FAILED."),
    "max_jobs_per_bee": ("N", "Replace a bee after so many jobs."),
    "job_timeout": ("SECONDS", "What an attempt may take."),
    "memory_limit": ("SIZE", "What a bee may use with all it started: 4GB, 512MiB."),
    "node_memory": ("SIZE|auto", "What all together may use; auto: 90 % of what there is."),
    "max_failures": ("N|N%", "Stop early when so many jobs are FAILED."),
    "stop_after": ("SECONDS", "End within this time."),
    "grace": ("SECONDS", "What running jobs have to finish after Ctrl-C or SIGTERM."),
    "lease": ("SECONDS", "A node that is silent for longer has lost its claims."),
    "db_patience": ("SECONDS", "How long the database may be away."),
    "start_method": ("METHOD", "How bees are made: fork, spawn, forkserver."),
    "threads_per_bee": ("N", "BLAS and OpenMP threads in each bee."),
    "log_dir": ("FOLDER", "Where what jobs print goes, a file per bee."),
}
EXAMPLES = """\b
Examples:
  workerbee run jobs:resize thumbs --jobs ids.txt
  workerbee run script.py:resize thumbs --jobs 'photos/**/*.jpg'
  workerbee run --exec 'convert {job_id} out/{width}.png' thumbs --jobs -
  workerbee run jobs:resize thumbs --job-timeout 60 --host db.example.org
"""


def call_options() -> dict[str, object]:
    """The keywords of `postgres_jobset` that are options, each with its default as the call has it."""
    parameters = inspect.signature(postgres_jobset).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in NO_OPTIONS]
    return {p.name: DEFAULTS.get(p.name, p.default) for p in keywords}


def takes_call_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each of them."""
    for name, default in reversed(call_options().items()):
        metavar, text = OPTIONS.get(name, ("VALUE", ""))
        option = click.option(
            f"--{dashed(name)}",
            name,
            metavar=metavar,
            default=default,
            help=text,
            show_default=True,
            type=click.UNPROCESSED,
            callback=_value,
        )
        function = option(function)
    return function


def dashed(name: str) -> str:
    """A keyword as it is written on a command line."""
    return name.replace("_", "-")


def _value(_ctx: click.Context, option: click.Parameter, given: Any) -> Any:
    # A number, None, or text: what it may be is for the call to say.
    if not isinstance(given, str) or option.name in TEXTS:
        return given
    if given == "none":
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(given)
    return given


@click.command("run", epilog=EXAMPLES, options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="MODULE:FUNCTION|SCRIPT.py:FUNCTION JOBSET")
@click.option("--exec", "template", metavar="COMMAND", help="Run a command per job, in place of a function; see above.")
@click.option("--shell", is_flag=True, help="Give the command to /bin/sh.")
@click.option("--jobs", multiple=True, metavar="FILE|-|GLOB...", help="The job ids, to create the jobset; see above.")
@click.option("-q", "--quiet", is_flag=True, help="Show only what jobs print.")
@takes_call_options
@takes_address
def run_command(
    words: tuple[str, ...],
    template: str | None,
    shell: bool,
    jobs: tuple[str, ...],
    quiet: bool,
    address: dict[str, Any],
    **options: Any,
) -> int:
    """Run a function, or a command, over the jobs of a jobset.

    The jobset is created if it does not exist; the same command, started on as many machines as you like, joins in,
    and then needs no --jobs. MODULE is imported as by `python -m`; of a SCRIPT the `__main__` block does not run.

    --jobs names a file of ids, one a line, or of JSON objects, one a line, with "job_id" and "data"; - is stdin. Of a
    GLOB, quoted or expanded by the shell, the paths themselves are the ids. It may be given more than once.

    --exec runs a program per job, without a shell: {job_id}, and {key} for each key of the job's data, stand for one
    argument, or a part of one, whatever they hold; {{key}} is {key}. The attempt fails when its exit code is not 0;
    the end of its stderr is kept.
    """
    function, (jobset_id, *more) = chosen_function(words, template, shell, ["JOBSET"])
    if template and options["processes"] is None:
        raise click.UsageError("--exec runs processes of their own anyway: give --processes a number")
    try:
        summary = postgres_jobset(
            jobset_id,
            function,
            job_source(jobs, more),
            verbose=not quiet,
            **address,
            **options,
        )
    except JobsetNotFound as error:
        raise JobsetNotFound(str(error).replace("job_ids", "--jobs")) from None
    except (InvalidValue, InvalidType) as error:
        raise type(error)(as_option(str(error))) from None
    return 0 if summary.ok else 1


def as_option(message: str) -> str:
    """What the call says of an argument, said of the option."""
    name, space, rest = message.partition(" ")
    return f"--{dashed(name)}{space}{rest}" if name in OPTIONS else message
