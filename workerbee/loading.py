"""Setting a jobset up: ids and data are checked as they stream into one transaction."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import psycopg2
import psycopg2.errors

from workerbee.address import said
from workerbee.errors import DatabaseError, InvalidType, InvalidValue, JobsetNotFound
from workerbee.slot import BATCH
from workerbee.store import Store
from workerbee.text import printable, shown

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
    rows = _Rows(job_ids, job_data)
    try:
        with store.transaction():
            if not _shared_tables_exist(store):
                store.run("lock_shared_tables")
                store.run("create_shared_tables")
            if not store.run("add_jobset", created_by=f"{socket.gethostname()}:{os.getpid()}"):
                return False
            tell(f"Creating table for jobset '{store.jobset_id}'...")
            for part in ("jobs", "ranges", "claims", "next", "view", "staging"):
                store.run(f"create_{part}")
            tell(f"Adding {'' if length is None else f'{length} '}jobs to jobset '{store.jobset_id}'...")
            _stream(store, rows)
            store.run("deal_jobs")
            store.run("index_positions")
            _index_job_ids(store)
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


def _stream(store: Store, rows: _Rows) -> None:
    pieces = rows.pieces()
    next(pieces)
    try:
        store.copy("copy_staging", SimpleNamespace(read=pieces.send))
    except (psycopg2.DataError, psycopg2.errors.StatementTooComplex) as error:
        # Such as a character that the database's encoding lacks, or more levels than PostgreSQL's stack has.
        raise InvalidValue(f"PostgreSQL cannot hold these job_ids or job_data: {printable(str(error))}") from None
    if rows.error is not None:
        raise rows.error
    rows.check_end()


def _index_job_ids(store: Store) -> None:
    try:
        store.run("index_job_ids")
    except psycopg2.errors.UniqueViolation as error:
        found = re.search(r"\(job_id\)=\((.*)\)", error.diag.message_detail or "", re.DOTALL)
        given = shown(found.group(1)) if found else "an id"
        raise InvalidValue(f"job_ids: {given} is given twice; every job needs an id of its own") from None


class _Rows:
    """Ids and data in COPY's text format, made piece by piece and never held whole.

    What goes wrong meanwhile, in the caller's code most of all, is kept as `error`, and looks like the end of the
    ids: psycopg2 forgets an exception out of `read()`.
    """

    def __init__(self, job_ids: JobIds, job_data: JobData | None) -> None:
        self.count = 0
        self.with_data = 0
        self.error: BaseException | None = None
        self._data = job_data or {}
        self._unseen = set(self._data)
        try:
            self._ids = iter(job_ids)
        except TypeError as error:  # NumPy's arrays without a dimension say so only now
            raise InvalidType(f"job_ids must be an iterable of str, not {shown(job_ids)}: {error}") from None

    def pieces(self) -> Generator[bytes, int, None]:
        """Answers to calls of `read(size)`, each sent in. The first piece is nobody's."""
        # Not a method `read`: Python runs signal handlers as a function begins, before any `try` in it, and that is
        # where a Ctrl-C ends up that came while the driver was sending. A generator goes on inside its `try`.
        try:
            lines = self._lines()
            piece = b""
            while True:
                size = yield piece
                collected, length = [], 0
                while length < size and (line := next(lines, b"")):
                    collected.append(line)
                    length += len(line)
                piece = b"".join(collected)  # whole lines: the driver does not mind more than `size`
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
        yield b""

    def check_end(self) -> None:
        """What can only be known when all ids have been seen."""
        if self._unseen:
            examples = ", ".join(shown(job_id) for job_id in sorted(self._unseen, key=repr)[:3])
            more = "" if len(self._unseen) <= 3 else f" and {len(self._unseen) - 3} more"
            raise InvalidValue(f"job_data is given for ids that are not in job_ids: {examples}{more}")
        if not self.count:
            raise InvalidValue("job_ids is empty; a jobset needs at least one job")

    def _lines(self) -> Iterator[bytes]:
        for item in self._ids:
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
            raise InvalidType(f"job_ids must hold str, or pairs (job_id, data), not {shown(item)}")
        if self._data:
            raise InvalidValue("job_data cannot be given beside job_ids that bring their own data as pairs")
        return item


def _check_job_id(job_id: object) -> bytes:
    """`job_id` as COPY wants it; raises for one that PostgreSQL cannot hold, or that is none."""
    if not isinstance(job_id, str):
        hints: dict[type, str] = {bytes: "decode it", list: "a pair must be a tuple"}
        hint = hints.get(type(job_id), "give str(...) of it")
        raise InvalidType(f"job_ids must hold str, not {shown(job_id)} ({type(job_id).__name__}): {hint}")
    if not job_id:
        raise InvalidValue("job_ids: '' is not allowed, an id needs at least one character")
    if "\0" in job_id:
        raise InvalidValue(f"job_ids: {shown(job_id)} holds a NUL character, which PostgreSQL cannot store")
    try:
        text = job_id.translate(_ESCAPES).encode()
    except UnicodeEncodeError:
        raise InvalidValue(
            f"job_ids: {shown(job_id)} holds a lone surrogate, which is no text in UTF-8; "
            "a path can be given as os.fsencode(path).decode('utf-8', 'backslashreplace')"
        ) from None
    if len(text) > MAX_JOB_ID and len(job_id.encode()) > MAX_JOB_ID:
        raise InvalidValue(
            f"job_ids: {shown(job_id, 60)} has {len(job_id.encode())} bytes in UTF-8, at most {MAX_JOB_ID} are "
            "allowed; put what is long into the job's data"
        )
    return text


def _json(job_id: str, data: object) -> str:
    """`data` as JSON text that gives back an equal dict; raises, naming `job_id`, where there is none."""

    def refusal(kind: type[InvalidType] | type[InvalidValue], why: object) -> InvalidType | InvalidValue:
        return kind(f"job_data of {shown(job_id)} must be a dict that JSON can hold, not {shown(data)}: {why}")

    if not isinstance(data, dict):
        raise refusal(InvalidType, f"a {type(data).__name__} is none")
    try:
        text = json.dumps(data, allow_nan=False)
        same = json.loads(text) == data
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal(InvalidType if isinstance(error, TypeError) else InvalidValue, error) from None
    if not same:
        raise refusal(InvalidValue, "it would not come back equal; use str keys only, and lists in place of tuples")
    return text
