"""What the user may ask for: the call's flat keywords, checked once, as the few values the rest works with."""

from __future__ import annotations

import functools
import inspect
import math
import multiprocessing
import numbers
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workerbee import batch
from workerbee.cpus import usable_cpus
from workerbee.errors import InvalidType, InvalidValue, NodeFailed
from workerbee.hand import BATCH
from workerbee.job import Limits
from workerbee.queries import MAX_JOBSET_ID
from workerbee.text import shown


@dataclass(frozen=True)
class NodeOptions:
    """How this node runs its bees.

    `bees` is None for one bee in the calling process, `claim` for as many jobs at once as seems good. `memory_limit`
    and `node_memory` are bytes, the latter None for what the machine allows; `max_failures` is a number of jobs or, if
    a float, a share of all. `until` is the monotonic second by which the node must have ended. The rest are seconds.
    """

    bees: int | None
    why_bees: str
    claim: int | None
    max_jobs_per_bee: int | None
    job_timeout: float | None
    memory_limit: int | None
    node_memory: int | None
    max_failures: int | float | None
    until: float | None
    grace: float
    lease: float
    db_patience: float
    start_method: str
    threads_per_bee: int
    log_dir: Path | None


def check_jobset_id(jobset_id: object) -> str:
    """A name that can be part of a table's."""
    allowed = f"jobset_id must be 1 to {MAX_JOBSET_ID} characters of a-z, 0-9 and _"
    if not isinstance(jobset_id, str):
        raise InvalidType(f"{allowed}, not {shown(jobset_id)}")
    if not re.fullmatch(rf"[a-z0-9_]{{1,{MAX_JOBSET_ID}}}", jobset_id):
        raise InvalidValue(f"{allowed}, not {shown(jobset_id)} ({len(jobset_id)} characters)")
    return jobset_id


def check_job_function(function: object) -> None:
    """Something that does its work when called as `function(job_id, job_data)`."""
    wanted = "job_function must be callable as job_function(job_id, job_data)"
    if not callable(function):
        raise InvalidType(f"{wanted}, not {shown(function)}")
    try:
        inspect.signature(function).bind("", {})
    except ValueError:
        pass  # some builtins do not tell their signature
    except TypeError as error:
        raise InvalidType(f"{wanted}; {shown(function)} is not: {error}") from None
    body: object = function
    while isinstance(body, functools.partial):
        body = body.func
    if not inspect.isroutine(body):
        body = type(body).__call__
    for kind in ("coroutine", "generator", "asyncgen"):
        if getattr(inspect, f"is{kind}function")(body):
            raise InvalidType(
                f"{wanted} and do its work in that call; {shown(function)} is a {kind} function, "
                "which only returns an object that nobody would run"
            )


def check_jobs(job_ids: object, job_data: object) -> None:
    """What can be known of them before the stream is read."""
    if isinstance(job_ids, (str, bytes)) or (job_ids is not None and not isinstance(job_ids, Iterable)):
        raise InvalidType(
            f"job_ids must be an iterable of str, or of pairs (str, dict), not {shown(job_ids)} "
            f"({type(job_ids).__name__})"
        )
    if job_data is not None and not isinstance(job_data, Mapping):
        raise InvalidType(f"job_data must be a dict of job_id -> dict, not {shown(job_data)}")
    if job_data and job_ids is None:
        raise InvalidValue(
            f"job_data is given for {len(job_data)} ids, and job_ids is not: job_ids must hold the ids of all jobs"
        )
    # Its keys would do as ids, but then every job would get {} and nobody would know why.
    if isinstance(job_ids, Mapping) and job_data is None and any(isinstance(v, Mapping) for v in job_ids.values()):
        raise InvalidValue(
            f"job_ids is a dict with data in it, {shown(job_ids)}: give job_ids=d.items(), or job_ids=d, job_data=d"
        )


def check_on_event(on_event: object) -> None:
    """Nobody, or something to call with each event."""
    if on_event is not None and not callable(on_event):
        raise InvalidType(f"on_event must be callable as on_event(event), not {shown(on_event)}")


def check_limits(max_attempts: object, max_crashes: object) -> Limits:
    """How often a job may fail."""
    return Limits(_whole("max_attempts", max_attempts, 32000), _whole("max_crashes", max_crashes, 32000))


def check_node(
    *,
    processes: object,
    claim: object,
    max_jobs_per_bee: object,
    job_timeout: object,
    memory_limit: object,
    node_memory: object,
    max_failures: object,
    stop_after: object,
    grace: object,
    lease: object,
    db_patience: object,
    start_method: object,
    threads_per_bee: object,
    log_dir: object,
) -> NodeOptions:
    """How this node is to run its bees; reads what the machine allows for `processes='auto'`."""
    if multiprocessing.current_process().daemon:
        raise NodeFailed(
            "multiprocessing lets its daemonic processes, such as a Pool's workers, start no processes, "
            "and a node needs some: call postgres_jobset from another process"
        )
    spare = None if max_jobs_per_bee is None else _whole("max_jobs_per_bee", max_jobs_per_bee)
    bees, why = _bees(processes)
    timeout = None if job_timeout is None else _seconds("job_timeout", job_timeout, 0.1)
    most_memory = None if memory_limit is None else _bytes("memory_limit", memory_limit)
    if bees is None and (timeout or most_memory):
        name = "job_timeout" if timeout else "memory_limit"
        raise InvalidValue(
            f"{name} needs bees in processes of their own, which can be killed: give processes=1 or more, or 'auto'"
        )
    return NodeOptions(
        bees,
        why,
        _claim(claim),
        spare,
        timeout,
        most_memory,
        None if node_memory == "auto" else _bytes("node_memory", node_memory),
        None if max_failures is None else _failures(max_failures),
        _until(None if stop_after is None else _seconds("stop_after", stop_after, 0)),
        _seconds("grace", grace, 0),
        _seconds("lease", lease, 1),
        _seconds("db_patience", db_patience, 0),
        _start_method(start_method),
        _whole("threads_per_bee", threads_per_bee),
        _log_dir(log_dir),
    )


def _bees(processes: object) -> tuple[int | None, str]:
    if processes is None:
        return None, ""
    if isinstance(processes, str) and processes == "auto":
        cpus = usable_cpus()
        return cpus.count, cpus.reason
    allowed = "processes must be None (one bee in this process), 'auto' (one per usable CPU) or a number from 1"
    if isinstance(processes, str):
        raise InvalidValue(f"{allowed}, not {shown(processes)}")
    return _whole("processes", processes, 10_000, allowed), ""


def _whole(name: str, value: object, most: int = 2**62, allowed: str | None = None) -> int:
    allowed = allowed or f"{name} must be a whole number from 1"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):  # NumPy's integers are fine
        raise InvalidType(f"{allowed}, not {shown(value)}")
    number = int(value)
    if not 1 <= number <= most:
        raise InvalidValue(f"{allowed} to {most}, not {shown(value)}")
    return number


def _seconds(name: str, value: object, least: float) -> float:
    allowed = f"{name} must be a number of seconds from {least}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidType(f"{allowed}, not {shown(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not least <= seconds <= 10**8:  # not for NaN, either
        raise InvalidValue(f"{allowed} to {10**8}, not {shown(value)}")
    return seconds


def _claim(value: object) -> int | None:
    allowed = f"claim must be 'auto', 'one', or a number of jobs from 1 to {BATCH}"
    if isinstance(value, str):
        if value not in ("auto", "one"):
            raise InvalidValue(f"{allowed}, not {shown(value)}")
        return None if value == "auto" else 1
    return _whole("claim", value, BATCH, allowed)


def _bytes(name: str, value: object) -> int:
    allowed = f"{name} must be a number of bytes, or text like '4GB' or '512MiB'"
    if not isinstance(value, str):
        return _whole(name, value, allowed=allowed)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b\s*", value, re.IGNORECASE | re.ASCII)
    if not found:
        raise InvalidValue(f"{allowed}, not {shown(value)}")
    number, unit = float(found[1]), (found[2] or "").lower()
    power = " kmgt".index(unit[0]) if unit else 0
    size = int(number * (1024 if unit.endswith("i") else 1000) ** power)
    if not 1 <= size <= 2**62:
        raise InvalidValue(f"{allowed}, not {shown(value)}")
    return size


def _failures(value: object) -> int | float:
    if not isinstance(value, str):
        return _whole("max_failures", value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value, re.ASCII)
    if not found or not 0 < float(found[1]) <= 100:
        raise InvalidValue(f"max_failures must be a number of jobs, or a share like '5%', not {shown(value)}")
    return float(found[1]) / 100


def _until(stop_after: float | None) -> float | None:
    left = [seconds for seconds in (stop_after, batch.seconds_left()) if seconds is not None]
    return time.monotonic() + min(left) if left else None


def _start_method(value: object) -> str:
    if value is None:
        return "fork" if sys.platform == "linux" else "spawn"
    available = multiprocessing.get_all_start_methods()
    if not isinstance(value, str) or value not in available:
        wrong = InvalidValue if isinstance(value, str) else InvalidType
        raise wrong(f"start_method must be one of {', '.join(map(repr, available))}, not {shown(value)}")
    return value


def _log_dir(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not value:
        wrong = InvalidType if value else InvalidValue
        raise wrong(f"log_dir must be the path of a folder, not {shown(value)}")
    try:
        path = Path(os.fsdecode(value)).absolute()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: NUL, or what the file system cannot encode
        raise InvalidValue(f"log_dir {shown(value)} cannot be made: {getattr(error, 'strerror', error)}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InvalidValue(f"log_dir {shown(value)} cannot be written to")
    return path
