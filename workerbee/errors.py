"""What workerbee raises, under one root."""

# ruff: noqa: N818 - each name says what is wrong; a suffix would say it is an error, which it is anyway

from __future__ import annotations


class WorkerbeeError(Exception):
    """The root of every error that workerbee raises."""


class InvalidValue(WorkerbeeError, ValueError):
    """An argument of the right type whose value cannot be used; the message says what is allowed."""


class InvalidType(WorkerbeeError, TypeError):
    """An argument of the wrong type; the message says what is allowed."""


class JobsetNotFound(WorkerbeeError, LookupError):
    """The jobset does not exist, and no `job_ids` were given to create it."""


class DatabaseError(WorkerbeeError):
    """The database cannot be reached, or does not let us in, or do what a jobset needs."""


class NodeFailed(WorkerbeeError):
    """This node gave up: its bees die before they claim a job. The message carries the reason."""
