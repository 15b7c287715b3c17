"""Ids and data of jobs, checked as they stream into the database."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import psycopg2
import psycopg2.errors

from workerbee.errors import InvalidType, InvalidValue
from workerbee.store import Store
from workerbee.text import printable, shown

JobIds = Iterable[str] | Iterable[tuple[str, Mapping[str, Any]]]
JobData = Mapping[str, Mapping[str, Any]]

MAX_JOB_ID = 2600  # bytes: what fits into one entry of a PostgreSQL index
CHUNK = 500  # ids that are looked at together
END = b"\t\\N\n"  # of a line without data
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def stage(store: Store, rows: Rows) -> None:
    """Stream `rows` into the staging table of this transaction."""
    store.run("create_staging")
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


@contextlib.contextmanager
def refusing_duplicates() -> Iterator[None]:
    """What is done inside stores the staged ids, and must not find one twice among them."""
    try:
        yield
    except psycopg2.errors.UniqueViolation as error:
        found = re.search(r"\(job_id\)=\((.*)\)", error.diag.message_detail or "", re.DOTALL)
        given = shown(found.group(1)) if found else "an id"
        raise InvalidValue(f"job_ids: {given} is given twice; every job needs an id of its own") from None


class Rows:
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

    def _lines(self) -> Iterator[bytes]:
        """Whole lines, many at a time where all of them are plain ids."""
        while items := list(itertools.islice(self._ids, CHUNK)):
            if not self._data and (lines := _plain(items)):
                self.count += len(items)
                yield lines
            else:
                yield from map(self._line, items)

    def _line(self, item: object) -> bytes:
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
            return text + END
        self.with_data += 1
        return text + b"\t" + _json(job_id, data).replace("\\", "\\\\").encode() + b"\n"

    def _pair(self, item: tuple[Any, ...]) -> tuple[Any, Any]:
        if len(item) != 2:
            raise InvalidType(f"job_ids must hold str, or pairs (job_id, data), not {shown(item)}")
        if self._data:
            raise InvalidValue("job_data cannot be given beside job_ids that bring their own data as pairs")
        return item


def _plain(items: list[Any]) -> bytes | None:
    """The lines of `items` if they are ids in which COPY has nothing to escape, nor we anything to complain about."""
    try:
        joined = "".join(items)
    except TypeError:
        return None
    lengths = [*map(len, items)]
    if not joined.isprintable() or "\\" in joined or 0 in lengths or max(lengths) > MAX_JOB_ID // 4:
        return None
    return (END.decode().join(items)).encode() + END


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
