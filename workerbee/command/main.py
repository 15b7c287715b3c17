"""The command's entry: subcommands, imported when they are asked for, and how each error ends it."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import sys
from typing import Any, NoReturn

import click

from workerbee.errors import (
    DatabaseError,
    InvalidType,
    InvalidValue,
    JobNotFound,
    JobsetInUse,
    JobsetNotFound,
    NodeFailed,
    WorkerbeeError,
)

# Each in the module of its own that is named here, and of which nothing is imported before.
COMMANDS = {
    "run": "run",
    "try": "attempt",
    "list": "listing",
    "status": "report",
    "watch": "live",
    "failures": "blame",
    "retry": "steer",
    "reset": "steer",
    "add": "steer",
    "stop": "steer",
    "drop": "steer",
    "export": "artifact",
    "plot": "artifact",
}
USAGE, NO_JOBSET, NO_DATABASE, NODE_FAILED, IN_USE = 2, 3, 4, 5, 6
EXIT_CODES = {
    0: "all is well; after `run` and `watch`: every job is COMPLETE",
    1: "`run`, `watch`: some jobs are not, but FAILED or left; `try`: it failed",
    USAGE: "a wrong option or argument",
    NO_JOBSET: "there is no such jobset, or job",
    NO_DATABASE: "the database cannot be reached, or does not let us",
    NODE_FAILED: "this node gave up: bees cannot start, the database stays away",
    IN_USE: "nodes work on the jobset",
    129: "ended by SIGHUP,",
    130: "by Ctrl-C,",
    143: "by SIGTERM, all in good order",
}


class Commands(click.Group):
    """Subcommands whose modules are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"workerbee.command.{COMMANDS[cmd_name]}")
        found: click.Command = getattr(command, f"{cmd_name}_command")
        return found

    def invoke(self, ctx: click.Context) -> Any:
        # Before click makes something else of these.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:
            leave_pipe()


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"workerbee {importlib.metadata.version('workerbee')}")
        ctx.exit()


def _exit_codes() -> str:
    return "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog=f"""\b
Which database: the options --host, --port, --user, --database, --dsn of each
command, else the PG* variables, else an embedded PostgreSQL. A password comes
from PGPASS, PGPASSWORD or ~/.pgpass.

\b
Exit codes:
{_exit_codes()}

\b
Completion for bash; zsh and fish are alike:
  eval "$(_WORKERBEE_COMPLETE=bash_source workerbee)"
""",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Say which.")
@click.pass_context
def workerbee(ctx: click.Context) -> None:
    """Run jobs over PostgreSQL, on one machine or many, and see how they fare."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(USAGE)


def main() -> NoReturn:
    """Run the command that `sys.argv` names, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = workerbee.main(prog_name="workerbee", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        fail(_said(error), error.exit_code)
    except click.Abort:  # Ctrl-C, or no answer, at a question
        click.echo(err=True)
        fail("nothing was done", 130)
    except BrokenPipeError:
        leave_pipe()
    except WorkerbeeError as error:
        fail(str(error), _code(error))
    except OSError as error:  # a file that was named cannot be written
        fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> NoReturn:
    """End with one line on stderr."""
    click.echo(f"workerbee: {' '.join(message.split())}", err=True)
    sys.exit(code)


def leave_pipe() -> NoReturn:
    """End as quietly as `cat` does when nobody reads what it writes."""
    # What is still buffered would be tried again when the interpreter exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _said(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if isinstance(error, click.UsageError) and context else ""
    return error.format_message().rstrip(".") + hint


def _code(error: WorkerbeeError) -> int:
    kinds = {
        InvalidValue: USAGE,
        InvalidType: USAGE,
        JobsetNotFound: NO_JOBSET,
        JobNotFound: NO_JOBSET,
        JobsetInUse: IN_USE,
        DatabaseError: NO_DATABASE,
        NodeFailed: NODE_FAILED,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), 1)
