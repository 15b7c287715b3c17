"""`postgres_jobset`: check, set up, run, summarise."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Literal

import psycopg2

from workerbee import embedded
from workerbee import options as checks
from workerbee.address import Address, connect, refusal, resolve
from workerbee.child import occupy_standard_fds
from workerbee.display import Lines, Mute, Narrator, Quiet, ended
from workerbee.errors import DatabaseError, WorkerbeeError, spare_our_frames
from workerbee.inline import Inline
from workerbee.job import Counts, JobFunction, JobsetSummary
from workerbee.lives import machine_id
from workerbee.loading import set_up
from workerbee.node import Node
from workerbee.session import Session
from workerbee.staging import JobData, JobIds
from workerbee.telling import NodeEvent, Teller, TellingWitness
from workerbee.terminal import Stream

CAUSES_SHOWN = 10


def postgres_jobset(
    jobset_id: str,
    job_function: JobFunction,
    job_ids: JobIds | None = None,
    job_data: JobData | None = None,
    host: str | None = None,
    port: int | str | None = None,
    user: str | None = None,
    database: str | None = None,
    verbose: bool = True,
    *,
    password: str | None = None,
    processes: int | Literal["auto"] | None = None,
    claim: int | Literal["auto", "one"] = "auto",
    max_attempts: int = 3,
    max_crashes: int = 3,
    max_jobs_per_bee: int | None = None,
    job_timeout: float | None = None,
    memory_limit: int | str | None = None,
    node_memory: int | str = "auto",
    max_failures: int | str | None = None,
    stop_after: float | None = None,
    grace: float = 30.0,
    lease: float = 30.0,
    db_patience: float = 600.0,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
    threads_per_bee: int = 1,
    log_dir: str | os.PathLike[str] | None = None,
    on_event: Callable[[NodeEvent], object] | None = None,
) -> JobsetSummary:
    """Run `job_function(job_id, job_data)` for every job of a jobset, here and wherever else the same call is made.

    The first caller creates the jobset `jobset_id` (1 to 52 characters of a-z, 0-9 and _) with `job_ids`: any
    iterable of str, streamed, or of pairs (str, dict). `job_data` gives some of the ids a JSON-serialisable dict;
    the function gets `{}` where there is none. Later callers join in. A job whose function returns is COMPLETE; one
    that raises is tried again after all others, and is FAILED after `max_attempts` errors or `max_crashes` crashes.
    Results are not stored. Returns when every job is COMPLETE or FAILED.

    `host`, `port`, `user`, `database` and `password` are as libpq has them, and so are the PG* variables where they
    are not given (PGPASS is a password, too); `database` may be a connection URI. With no address at all, an
    embedded PostgreSQL is used.

    `processes` is None for one bee in this process, 'auto' for one bee per CPU that this process may use, or a
    number of bees. A bee claims `claim` jobs at once: 'one', a number, or 'auto' for as many as should be through
    within 50 ms; what has ended of a claim is settled with the next. It is replaced after `max_jobs_per_bee` jobs at
    the latest, may use `threads_per_bee` BLAS threads, and is started by `start_method` (default: fork on Linux). With
    `log_dir`, what it prints goes to a file there, put aside when it has grown beyond 10 MB; three old ones are kept.

    `on_event` is called with a `NodeEvent` for what happens on this node: in the process that calls us, between other
    duties, so it should take milliseconds. What it raises is shown once, and changes nothing.

    A bee whose job runs for longer than `job_timeout` seconds, or which uses more than `memory_limit` (bytes, or text
    like '4GB', '512MiB'), is killed with all it started; the job is charged, a timeout counting as an error and
    memory as a crash. The fattest bee is killed when `node_memory` runs short ('auto': 90 % of what cgroup and
    machine allow, by whomever it is used); its job is charged if the bee used more than an even share. The node stops
    early when `max_failures` jobs of the jobset are FAILED (a number, or text like '5%'), and within `stop_after`
    seconds: then it claims no job that would not be through by then. After Ctrl-C or SIGTERM running jobs have
    `grace` seconds to finish. Claims of this node are safe as long as it is heard of every `lease` seconds. The
    database may be away for `db_patience` seconds.

    Raises `InvalidValue` or `InvalidType` for an argument that cannot be, `JobsetNotFound` when there is no jobset
    and no ids, `DatabaseError` when the database does not do its part, `NodeFailed` when bees cannot be started, or
    the database stays away (in this process: `DatabaseError`): all are `WorkerbeeError`. Ctrl-C raises
    `KeyboardInterrupt`, SIGTERM `SystemExit(143)`, both after cleaning up.
    """
    begun = time.monotonic()
    try:
        checks.check_jobset_id(jobset_id)
        checks.check_job_function(job_function)
        checks.check_jobs(job_ids, job_data)
        checks.check_on_event(on_event)
        limits = checks.check_limits(max_attempts, max_crashes)
        node_options = checks.check_node(
            processes=processes,
            claim=claim,
            max_jobs_per_bee=max_jobs_per_bee,
            job_timeout=job_timeout,
            memory_limit=memory_limit,
            node_memory=node_memory,
            max_failures=max_failures,
            stop_after=stop_after,
            grace=grace,
            lease=lease,
            db_patience=db_patience,
            start_method=start_method,
            threads_per_bee=threads_per_bee,
            log_dir=log_dir,
        )
        occupy_standard_fds()
        display = _display(verbose, supervised=node_options.bees is not None)
        address = resolve(host, port, user, database, password)
        try:
            joined = _join(address, jobset_id, job_ids, job_data, node_options, display)
            ready = time.monotonic()
            node = None if joined is None else Node(address, jobset_id, job_function, limits, node_options, *joined)
            stopped = None if node is None else _work(node, display, Teller(on_event, display) if on_event else None)
            try:
                patience = node_options.db_patience if stopped is None else 0.0
                summary = _summarise(
                    address, jobset_id, node, ready - begun, time.monotonic() - ready, display, patience
                )
            except DatabaseError as error:
                if stopped is None:
                    raise
                display.say(str(error))
        except psycopg2.Error as error:
            raise refusal(error, address) from None
    except WorkerbeeError as error:
        spare_our_frames()
        raise error.with_traceback(None) from None
    if stopped is signal.SIGINT:
        raise KeyboardInterrupt
    if stopped is not None:
        raise SystemExit(128 + stopped)
    return summary


def _display(verbose: bool, supervised: bool) -> Quiet:
    if not supervised:
        return Narrator() if verbose else Mute()
    if not verbose:
        return Quiet()
    if not Stream("stdout").is_terminal:
        return Lines()
    from workerbee.bar import Bar  # not above: rich takes longer to import than all of ours

    return Bar()


def _work(node: Node, display: Quiet, teller: Teller | None) -> signal.Signals | None:
    """Do this node's share; the signal that ended it before there was nothing left."""
    try:
        if not isinstance(display, (Narrator, Mute)):
            return node.supervise(display, teller)
        return Inline(node, TellingWitness(display, teller) if teller else display).run()
    finally:
        node.close()


def _join(
    address: Address,
    jobset_id: str,
    job_ids: JobIds | None,
    job_data: JobData | None,
    options: checks.NodeOptions,
    display: Quiet,
) -> tuple[int, Counts] | None:
    """Set the jobset up, or find it; this node's row in it and how the jobset stands, or None when there is nothing
    left to do."""
    if address.embedded:
        display.say(f"Connecting to {address}...")
    else:
        display.say(f"Connecting to database {address.database} on {address.user}@{address.host}...")
        if not address.has_password:
            display.say(" - No password is set. (If needed, set the environment variable PGPASS.)")
    session = Session(
        address,
        jobset_id,
        f"workerbee {jobset_id} set-up",
        patience=options.db_patience,
        outage=_telling(address, display),
        connect=connect,
        starting=True,
    )
    try:
        session.call(lambda store: set_up(store, job_ids, job_data, display.say))
        counts = session.call(lambda store: store.counts())
        if counts.finished:
            return None
        if options.why_bees:
            display.say(f"{options.bees} bee{'s' * (options.bees != 1)}: {options.why_bees}.")
        if options.bees and options.log_dir:
            display.say(f"What jobs print goes to files in {options.log_dir}.")
        display.say("-" * 80)
        row = session.call(lambda store: store.add_node(socket.gethostname(), machine_id(), os.getpid(), options.lease))
        return row, counts
    finally:
        session.close()


def _telling(address: Address, display: Quiet) -> Callable[[str], None]:
    """Who is told that the database is away while no node of ours is up."""
    told = ""

    def outage(why: str) -> None:
        nonlocal told
        if why and why != told:
            display.say(f"Waiting for the database: {why}")
        told = why
        if why and address.embedded:
            # Nobody else would start it again.
            with contextlib.suppress(DatabaseError):
                embedded.start()

    return outage


def _summarise(
    address: Address,
    jobset_id: str,
    node: Node | None,
    setup: float,
    seconds: float,
    display: Quiet,
    patience: float,
) -> JobsetSummary:
    name = f"workerbee {jobset_id} summary"
    session = Session(address, jobset_id, name, patience=patience, outage=_telling(address, display))
    try:
        counts = session.call(lambda store: store.counts())
        groups = session.call(lambda store: store.failure_groups(CAUSES_SHOWN + 1))
    finally:
        session.close()
    board = node.board if node else None
    summary = JobsetSummary(
        jobset_id,
        counts.total,
        counts.complete,
        counts.failed,
        completed_here=board.completed if board else 0,
        failed_here=board.failed if board else 0,
        crashed_here=board.crashed if board else 0,
        bees_started=len(board.slots) if board else 0,
        setup_seconds=setup,
        seconds=seconds,
        stopped=node.stopping.why if node and node.stopping else "",
    )
    if counts.finished:
        display.say("All jobs are exhausted, terminating.")
    # The seed's one bee, with nothing but success, has said it all by now.
    if groups or not counts.finished or not isinstance(display, Narrator):
        for line in ended(summary, groups, CAUSES_SHOWN):
            display.say(line)
    return summary
