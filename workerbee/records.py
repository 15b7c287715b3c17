"""Rows of a jobset as values: its jobs, its failed attempts, and what steering did to them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from workerbee.job import Kind, State


@dataclass(frozen=True)
class FailureRecord:
    """One failed attempt of a job. `attempt` counts the job's failed attempts of all kinds; after the `final` one it
    was FAILED. `type` is the exception's class, the signal's name, or "exit"; `seconds` is None where nobody knows."""

    job_id: str
    attempt: int
    kind: Kind
    type: str
    exit_code: int | None
    message: str
    stack: str
    log: str
    final: bool
    failed_at: datetime
    seconds: float | None
    host: str
    node: int | None
    bee: int
    pid: int | None


class JobRecord(NamedTuple):
    """One job as it stands: `since` is when it was claimed, or became COMPLETE or FAILED; `seconds` is how long it
    took when it is COMPLETE; `host` and `bee` are who holds it, and `host` also who ended it."""

    job_id: str
    state: State
    errors: int
    crashes: int
    losses: int
    since: datetime | None
    seconds: float | None
    host: str | None
    bee: int | None
    data: dict[str, Any] | None


@dataclass(frozen=True)
class Added:
    """`added` jobs are new; `present` ids the jobset had already, and their jobs are as they were."""

    added: int
    present: int


@dataclass(frozen=True)
class Reset:
    """`reset` jobs are PENDING again; `running` were claimed at that moment, and were left alone."""

    reset: int
    running: int
