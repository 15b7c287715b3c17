"""Where a jobset's ids come from on the command line: files, stdin, the paths that a pattern matches."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from workerbee.errors import InvalidValue
from workerbee.text import shown

# What it yields is checked where it is loaded: JSON may hold anything.
JobSource = Iterator[Any]


def job_source(sources: Sequence[str], more: Sequence[str]) -> JobSource | None:
    """The jobs that `--jobs` names, streamed; None for none.

    Each of `sources` is a file of ids, `-` for stdin, or a pattern whose paths are the ids. With `more`, a shell has
    expanded a pattern already, and all of them are ids. Raises `click.UsageError` for what cannot be read.
    """
    if more and not sources:
        raise click.UsageError(f"unexpected argument {shown(more[0])}")
    if more:
        return iter([*sources, *more])
    for source in sources:
        if not is_pattern(source) and source != "-" and not os.access(source, os.R_OK):
            why = "cannot be read" if Path(source).exists() else "does not exist"
            raise click.UsageError(f"--jobs {shown(source)} {why}")
    return _all_jobs(sources) if sources else None


def is_pattern(source: str) -> bool:
    """Whether `source` is to be expanded; a file of that very name goes first."""
    return glob.has_magic(source) and not Path(source).exists()


def _all_jobs(sources: Sequence[str]) -> JobSource:
    for source in sources:
        if is_pattern(source):
            yield from _matches(source)
        elif source == "-":
            yield from read_jobs("stdin", sys.stdin.buffer)
        else:
            try:
                with Path(source).open("rb") as file:
                    yield from read_jobs(source, file)
            except OSError as error:
                raise InvalidValue(f"--jobs {shown(source)}: {error.strerror}") from None


def _matches(pattern: str) -> Iterator[str]:
    found = False
    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207 - streamed, and from any folder
        found = True
        yield path
    if not found:
        raise InvalidValue(f"--jobs {shown(pattern)} matches no path")


def read_jobs(name: str, lines: Iterable[bytes]) -> JobSource:
    """Ids, one a line, or JSON objects with `job_id` and perhaps `data`, if the first line is one; empty lines are
    skipped. Raises `InvalidValue`, naming the line, for what is neither."""
    is_json = False
    first = True
    for number, raw in enumerate(lines, 1):
        where = f"{name}, line {number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InvalidValue(
                f"{where}: no text in UTF-8; --jobs takes a file of job ids, one a line (for paths as ids, quote the "
                "pattern: --jobs 'images/*.png')"
            ) from None
        if not line:
            continue
        if first:
            first, is_json = False, line.startswith("{")
        yield _job(where, line) if is_json else line


def _job(where: str, line: str) -> Any:
    wanted = 'a JSON object with "job_id", and "data" if it has any, as the first line is one'
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{where}: {wanted}; {error}") from None
    if not isinstance(found, dict) or "job_id" not in found or found.keys() - {"job_id", "data"}:
        raise InvalidValue(f"{where}: {wanted}, not {shown(line)}")
    data = found.get("data")
    return found["job_id"] if data is None else (found["job_id"], data)
