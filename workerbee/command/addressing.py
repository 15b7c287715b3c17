"""Which database: the options that all commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

OPTIONS = {
    "host": "PostgreSQL's host, or the folder of its socket.",
    "port": "Its port.",
    "user": "Whom to connect as.",
    "database": "The database's name, or a connection URI or string.",
    "dsn": "The same, where scripts call it so.",
}


def takes_address(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the address; it gets them as `address`, keywords of `postgres_jobset`."""

    @functools.wraps(function)
    def with_address(
        *args: Any,
        host: str | None,
        port: str | None,
        user: str | None,
        database: str | None,
        dsn: str | None,
        **more: Any,
    ) -> Any:
        if database and dsn:
            raise click.UsageError("--database and --dsn are the same; give one of them")
        return function(*args, address={"host": host, "port": port, "user": user, "database": database or dsn}, **more)

    wrapped: Callable[..., Any] = with_address
    for name, text in reversed(OPTIONS.items()):
        wrapped = click.option(f"--{name}", metavar="TEXT", help=text)(wrapped)
    return wrapped
