"""The function that a command line names: MODULE:FUNCTION or SCRIPT.py:FUNCTION."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NoReturn

import click
import cloudpickle

from workerbee.command.program import Program
from workerbee.job import JobFunction
from workerbee.text import shown

OURS = str(Path(__file__).parents[1])


def chosen_function(
    words: tuple[str, ...], template: str | None, shell: bool, wanted: Sequence[str]
) -> tuple[JobFunction, tuple[str, ...]]:
    """The function or command that a command line asks for, and the words after it, one at least for each `wanted`."""
    names = " and a ".join(wanted)
    if template is None:
        if shell:
            raise click.UsageError("--shell goes with --exec")
        if len(words) <= len(wanted):
            raise click.UsageError(f"give MODULE:FUNCTION, or --exec COMMAND, and a {names}")
        return find_function(words[0]), words[1:]
    if len(words) < len(wanted):
        raise click.UsageError(f"give a {names}")
    program = Program(template, shell)
    program.check()
    return program, words


def find_function(target: str) -> JobFunction:
    """What `target` names, imported as by `python -m`, or from a file as by `python SCRIPT.py`, whose `__main__` block
    does not run. Raises `click.UsageError` if there is no such thing; what the import raises is shown, and the end."""
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise click.UsageError(f"{shown(target)} is no MODULE:FUNCTION or SCRIPT.py:FUNCTION")
    module = _import_script(Path(where)) if where.endswith(".py") else _import_module(where)
    try:
        function: JobFunction = operator.attrgetter(name)(module)
    except AttributeError:
        raise click.UsageError(f"{where} has no {shown(name)}") from None
    return function


def _import_module(name: str) -> ModuleType:
    # As `python -m` has it; an installed command's first place is the folder it was installed to.
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"there is no module {shown(error.name)} here or on Python's path") from None
        _give_up(error)
    except Exception as error:
        _give_up(error)


def _import_script(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.UsageError(f"there is no script {shown(str(path))}")
    sys.path.insert(0, str(path.absolute().parent))
    name = path.stem if path.stem not in sys.modules else f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{shown(str(path))} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # A spawned bee could not find it by its name.
    cloudpickle.register_pickle_by_value(module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        _give_up(error)
    return module


def _give_up(error: Exception) -> NoReturn:
    show_traceback(error)
    sys.exit(1)


def show_traceback(error: BaseException) -> None:
    """Print `error` with its stack to stderr, without the frames that are ours or the import system's."""
    traceback.print_exception(type(error), error, users_part(error.__traceback__))


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """`trace` from the first frame of the user's code on."""
    found = trace
    while found and _is_foreign(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found


def _is_foreign(file: str) -> bool:
    return file.startswith((OURS, "<frozen importlib")) or file == importlib.__file__
