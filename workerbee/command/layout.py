"""Numbers, times and tables as people read them, in the width there is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from workerbee.progress import duration
from workerbee.text import printable, shortened

NARROWEST = 8  # characters that a shortened column keeps


def width() -> int:
    """The characters in a line of the terminal; of a pipe, more than any line has."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def number(value: int) -> str:
    """A count, exact below a million."""
    return str(value) if value < 1_000_000 else f"{value / 1e6:.3g}M"


def seconds(value: float | None) -> str:
    """12 ms, 1.2 s, 3:05 min."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    return f"{value:.1f} s" if value < 60 else duration(value)


def ago(span: timedelta) -> str:
    """How long something is past, roughly."""
    past = max(0.0, span.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if past >= 2 * size:
            return f"{past / size:.0f} {unit}"
    return f"{past:.0f} s"


def moment(at: datetime) -> str:
    """A time as this machine's clock on the wall has it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], flexible: int, most: int) -> Iterator[str]:
    """Lines of at most `most` characters, if that can be: numbers to the right, the column `flexible` shortened."""
    cells = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    gap = 2 if sum(widths) + 2 * (len(head) - 1) <= most else 1
    widths[flexible] = max(
        NARROWEST, min(widths[flexible], most - gap * (len(head) - 1) - sum(widths) + widths[flexible])
    )
    rights = [all(_is_number(row[i]) for row in cells[1:]) for i in range(len(head))]
    for row in cells:
        row[flexible] = shortened(row[flexible], widths[flexible])
        aligned = [
            cell.rjust(size) if right else cell.ljust(size)
            for cell, size, right in zip(row, widths, rights, strict=True)
        ]
        yield (" " * gap).join(aligned).rstrip()


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in ("", "-")


def say(lines: Iterator[str] | Sequence[str]) -> None:
    """Write lines to stdout."""
    for line in lines:
        click.echo(line)


def say_json(value: object) -> None:
    """Write `value` as one line of JSON, in ASCII, so that nothing in it drives a terminal."""
    click.echo(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{value!r} has no place in JSON")
