"""Setting a jobset up: ids and data are checked as they stream into one transaction."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import psycopg2
import psycopg2.errors

from workerbee.errors import DatabaseError, InvalidType, InvalidValue, JobsetNotFound
from workerbee.queries import identifiers
from workerbee.store import Store
from workerbee.text import printable

JobIds = Iterable[str] | Iterable[tuple[str, Mapping[str, Any]]]
JobData = Mapping[str, Mapping[str, Any]]

MAX_JOB_ID = 2600  # bytes: what fits into one entry of a PostgreSQL index
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


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
    given = f"the {len(job_ids)} job_ids" if isinstance(job_ids, Sized) else "the job_ids (not counted)"
    ignored = f"; {given} given are ignored" if job_ids is not None else ""
    tell(f"jobset '{jobset_id}' exists already, with {store.total()} jobs{ignored}.")


def _shared_tables_exist(store: Store) -> bool:
    ((exist,),) = store.run("find_shared_tables")
    return bool(exist)


def _create(store: Store, job_ids: JobIds, job_data: JobData | None, tell: Callable[[str], None]) -> bool:
    jobset_id = store.jobset_id
    rows = _Rows(job_ids, job_data)
    with store.transaction():
        if not _shared_tables_exist(store):
            store.run("lock_shared_tables")
            store.run("create_shared_tables")
        if not store.run("add_jobset", created_by=f"{socket.gethostname()}:{os.getpid()}"):
            return False
        tell(f"Creating table for jobset '{jobset_id}'...")
        try:
            store.run("create_jobs")
        except psycopg2.errors.DuplicateTable:
            raise DatabaseError(
                f"a table {identifiers(jobset_id)['jobs']} exists, and is none of this workerbee's; "
                "drop or rename it, or choose another jobset_id"
            ) from None
        count = f"{len(job_ids)} " if isinstance(job_ids, Sized) else ""
        tell(f"Adding {count}jobs to jobset '{jobset_id}'...")
        store.run("create_staging")
        _stream(store, rows)
        store.run("deal_jobs")
        store.run("index_positions")
        try:
            store.run("index_job_ids")
        except psycopg2.errors.UniqueViolation as error:
            raise InvalidValue(_duplicate(error)) from None
        for step in ("create_ranges", "create_claims", "create_view"):
            store.run(step)
        store.run("deal_ranges", total=rows.count)
        store.run("count_jobset", total=rows.count)
        store.run("analyze_tables")
    if rows.with_data:
        tell(f"job_data provided for {rows.with_data} jobs")
    size = "" if isinstance(job_ids, Sized) else f" with {rows.count} jobs"
    tell(f"jobset '{jobset_id}' set up{size}.")
    return True


def _stream(store: Store, rows: _Rows) -> None:
    try:
        store.copy("copy_staging", rows)
    except psycopg2.Error as error:
        # The driver tells the server that reading failed, and us only that the COPY was cancelled.
        if rows.error is not None:
            raise rows.error from None
        if isinstance(error, (psycopg2.DataError, psycopg2.errors.StatementTooComplex)):
            raise InvalidValue(f"PostgreSQL cannot hold a job: {printable(str(error))}") from None
        raise
    rows.check_end()


def _duplicate(error: psycopg2.Error) -> str:
    found = re.search(r"\(job_id\)=\((.*)\)", error.diag.message_detail or "", re.DOTALL)
    return f"job_ids: {found.group(1)!r} is given twice" if found else "job_ids: an id is given twice"


class _Rows:
    """Ids and data as a file in COPY's text format, read piece by piece and never held whole."""

    def __init__(self, job_ids: JobIds, job_data: JobData | None) -> None:
        self.count = 0
        self.with_data = 0
        self.error: BaseException | None = None
        self._data = job_data or {}
        self._unseen = set(self._data)
        self._lines = self._each(job_ids)
        self._rest = b""

    def read(self, size: int) -> bytes:
        try:
            pieces, length = [self._rest], len(self._rest)
            while length < size:
                line = next(self._lines, b"")
                if not line:
                    break
                pieces.append(line)
                length += len(line)
        except BaseException as error:
            self.error = error
            raise
        joined = b"".join(pieces)
        self._rest = joined[size:]
        return joined[:size]

    def check_end(self) -> None:
        """What can only be known when all ids have been seen."""
        if self._unseen:
            examples = ", ".join(repr(job_id) for job_id in sorted(self._unseen, key=repr)[:3])
            more = "" if len(self._unseen) <= 3 else f" and {len(self._unseen) - 3} more"
            raise InvalidValue(f"job_data is given for ids that are not in job_ids: {examples}{more}")
        if not self.count:
            raise InvalidValue("job_ids is empty; a jobset needs at least one job")

    def _each(self, job_ids: JobIds) -> Iterator[bytes]:
        for item in job_ids:
            job_id: Any = item
            data: Any = None
            if isinstance(item, tuple):
                job_id, data = self._pair(item)
            elif isinstance(item, str) and item in self._unseen:
                data = self._data[item]
                self._unseen.discard(item)
            text = _check_job_id(job_id)
            self.count += 1
            if data is None:
                yield text + b"\t\\N\n"
            else:
                self.with_data += 1
                yield text + b"\t" + _json(job_id, data).replace("\\", "\\\\").encode() + b"\n"

    def _pair(self, item: tuple[Any, ...]) -> tuple[Any, Any]:
        if len(item) != 2:
            raise InvalidType(f"job_ids must hold str, or pairs (job_id, data), not {item!r:.200}")
        if self._data:
            raise InvalidValue("job_data cannot be given beside job_ids that bring their own data as pairs")
        return item


def _check_job_id(job_id: object) -> bytes:
    """`job_id` as COPY wants it; raises for one that PostgreSQL cannot hold, or that is none."""
    if not isinstance(job_id, str):
        raise InvalidType(f"job_ids must hold str, not {job_id!r:.200} ({type(job_id).__name__})")
    if not job_id:
        raise InvalidValue("job_ids: '' is not allowed, an id needs at least one character")
    if "\0" in job_id:
        raise InvalidValue(f"job_ids: {job_id[:200]!r} holds a NUL character, which PostgreSQL cannot store")
    try:
        text = job_id.translate(_ESCAPES).encode()
    except UnicodeEncodeError:
        raise InvalidValue(
            f"job_ids: {job_id[:200]!r} holds a lone surrogate, which is no text in UTF-8; "
            "a path can be given as os.fsencode(path).decode('utf-8', 'backslashreplace')"
        ) from None
    if len(text) > MAX_JOB_ID and len(job_id.encode()) > MAX_JOB_ID:
        raise InvalidValue(
            f"job_ids: {job_id[:60]!r}… has {len(job_id.encode())} bytes in UTF-8, at most {MAX_JOB_ID} are allowed; "
            "put what is long into the job's data"
        )
    return text


def _json(job_id: str, data: object) -> str:
    """`data` as JSON text that gives back an equal dict; raises, naming `job_id`, where there is none."""
    if not isinstance(data, dict):
        raise InvalidType(f"the data of job {job_id!r} must be a dict, not {type(data).__name__}")
    try:
        text = json.dumps(data, allow_nan=False)
        same = json.loads(text) == data
    except (TypeError, ValueError, RecursionError) as error:
        wrong = InvalidType if isinstance(error, TypeError) else InvalidValue
        raise wrong(f"the data of job {job_id!r} cannot be stored as JSON: {error}") from None
    if not same:
        raise InvalidValue(
            f"the data of job {job_id!r} would not come back equal from JSON: "
            "use str keys only, and lists in place of tuples"
        )
    return text
