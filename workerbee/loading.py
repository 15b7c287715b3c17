"""Setting a jobset up, in one transaction."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import psycopg2
import psycopg2.errors

from workerbee.address import said
from workerbee.errors import DatabaseError, InvalidValue, JobsetNotFound
from workerbee.hand import BATCH
from workerbee.staging import JobData, JobIds, Rows, refusing_duplicates, stage
from workerbee.store import Store


def set_up(store: Store, job_ids: JobIds | None, job_data: JobData | None, tell: Callable[[str], None]) -> None:
    """Create the jobset, unless it exists, with `job_ids`; `tell` is told each step, a line each.

    One transaction: others see all of the jobset or nothing. Of many that try at once one wins; the rest wait until
    it has committed. Raises `InvalidType` or `InvalidValue` for an id or data that cannot be, naming it, and
    `JobsetNotFound` when there is neither a jobset nor ids to make one of.
    """
    jobset_id = store.jobset_id
    if not _shared_tables_exist(store) or store.total() is None:
        if job_ids is None:
            raise JobsetNotFound(f"there is no jobset '{jobset_id}' in this database; give job_ids to create it")
        if _create(store, job_ids, job_data, tell):
            return
    length = None if job_ids is None else _length(job_ids)
    given = "the job_ids (not counted)" if length is None else f"the {length} job_ids"
    ignored = f"; {given} given are ignored" if job_ids is not None else ""
    tell(f"jobset '{jobset_id}' exists already, with {store.total()} jobs{ignored}.")


def _shared_tables_exist(store: Store) -> bool:
    ((exist,),) = store.run("find_shared_tables")
    return bool(exist)


def _length(job_ids: JobIds) -> int | None:
    """How many ids there are, where that is known before they are read."""
    try:
        return len(job_ids)  # type: ignore[arg-type]
    except TypeError:  # a generator has none
        return None


def _create(store: Store, job_ids: JobIds, job_data: JobData | None, tell: Callable[[str], None]) -> bool:
    length = _length(job_ids)
    rows = Rows(job_ids, job_data)
    try:
        with store.transaction():
            if not _shared_tables_exist(store):
                store.run("lock_shared_tables")
                store.run("create_shared_tables")
            if not store.run("add_jobset", created_by=f"{socket.gethostname()}:{os.getpid()}"):
                return False
            tell(f"Creating table for jobset '{store.jobset_id}'...")
            for part in ("jobs", "ranges", "claims", "next", "view"):
                store.run(f"create_{part}")
            tell(f"Adding {'' if length is None else f'{length} '}jobs to jobset '{store.jobset_id}'...")
            stage(store, rows)
            if not rows.count:
                raise InvalidValue("job_ids is empty; a jobset needs at least one job")
            store.run("deal_jobs")
            store.run("index_positions")
            with refusing_duplicates():
                store.run("index_job_ids")
            store.run("deal_ranges", total=rows.count, most=BATCH)
            store.run("count_jobset", total=rows.count)
            store.run("analyze_tables")
    except (psycopg2.errors.DuplicateTable, psycopg2.errors.DuplicateObject) as error:
        raise DatabaseError(
            f"{error.diag.message_primary}, and is none of this workerbee's; "
            "drop or rename it, or choose another jobset_id"
        ) from None
    except psycopg2.Error as error:
        if not rows.count or not isinstance(job_ids, Iterator):
            raise
        # Nobody could begin anew with what is left of them.
        raise DatabaseError(f"while jobset '{store.jobset_id}' was set up: {said(error)}; start again") from None
    if rows.with_data:
        tell(f"job_data provided for {rows.with_data} jobs")
    tell(f"jobset '{store.jobset_id}' set up{f' with {rows.count} jobs' if length is None else ''}.")
    return True
