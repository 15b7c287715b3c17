"""`Jobset`: see how a jobset stands, and steer it, from anywhere and while its nodes work."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

import psycopg2
import psycopg2.errors

from workerbee import steering, survey
from workerbee.address import Address, connect, refusal, resolve
from workerbee.choice import check_kind, check_text, check_whole
from workerbee.errors import DatabaseError, InvalidType, InvalidValue, JobsetNotFound
from workerbee.job import FailureGroup, Kind, State
from workerbee.options import check_jobs, check_jobset_id
from workerbee.records import Added, FailureRecord, JobRecord, Reset
from workerbee.session import Session
from workerbee.staging import JobData, JobIds
from workerbee.status import Overview, Status
from workerbee.store import Store

if TYPE_CHECKING:
    from workerbee.history import History

T = TypeVar("T")

PATIENCE = 20.0  # seconds that the database may be busy or away


class Jobset:
    """The jobset `jobset_id` of the database that the other arguments name, as for `postgres_jobset`.

    Every method raises `JobsetNotFound` when there is no such jobset, `DatabaseError` when the database does not do its
    part, `InvalidType` and `InvalidValue` for arguments that cannot be. What changes jobs is one transaction.
    """

    def __init__(
        self,
        jobset_id: str,
        host: str | None = None,
        port: int | str | None = None,
        user: str | None = None,
        database: str | None = None,
        *,
        password: str | None = None,
    ) -> None:
        self.jobset_id = check_jobset_id(jobset_id)
        self._address = resolve(host, port, user, database, password)

    def overview(self) -> Overview:
        """The jobset in a few numbers; costs next to nothing."""
        return self._ask(survey.overview)

    def status(self, groups: int = 20) -> Status:
        """The jobset in full, with the `groups` most frequent failures; cheap on ten million jobs, too."""
        most = check_whole("groups", groups, 0)
        return self._ask(lambda store: survey.status(store, most))

    def failures(
        self, job_id: str | None = None, kind: Kind | str | None = None, match: str | None = None
    ) -> Iterator[FailureRecord]:
        """Every failed attempt, the newest first, streamed: of one job, of one kind ('error', 'timeout', 'crash',
        'memory', 'lost'), or with `match` in its type or message. Raises `JobNotFound` for an unknown `job_id`."""
        conditions = {"kind": check_kind(kind), "match": check_text("match", match)}
        wanted = check_text("job_id", job_id)
        pos = None if wanted is None else self._ask(lambda store: survey.position(store, wanted))
        return map(_failure, self._stream("list_failures", pos=pos, **conditions))

    def failure_groups(self, most: int = 20) -> list[FailureGroup]:
        """The failures by kind and message, the `most` frequent."""
        limit = check_whole("most", most, 0)
        return self._ask(lambda store: store.failure_groups(limit))

    def retry(
        self, job_ids: Iterable[str] | None = None, kind: Kind | str | None = None, match: str | None = None
    ) -> int:
        """FAILED jobs are PENDING again, with all their attempts before them; returns how many.

        All of them, or those of `job_ids`; those whose last attempt failed by `kind`, or has `match` in its type or
        message. Nodes that run take them up. Raises `JobNotFound` for ids that the jobset does not have.
        """
        ids, wanted_kind, text = _ids(job_ids), check_kind(kind), check_text("match", match)
        return self._ask(lambda store: steering.retry(store, ids, wanted_kind, text))

    def reset(self, job_ids: Iterable[str] | None = None, *, all: bool = False) -> Reset:
        """The same with COMPLETE jobs, which are run again: those of `job_ids`, or `all`. Those that are claimed
        are left alone, and counted."""
        if (job_ids is None) != all:
            raise InvalidValue("reset takes either job_ids or all=True")
        ids = _ids(job_ids)
        return self._ask(lambda store: steering.reset(store, ids), _reset_again)

    def add(self, job_ids: JobIds, job_data: JobData | None = None) -> Added:
        """More jobs, given as to `postgres_jobset`; ids that the jobset has are skipped, and counted. Streamed, in one
        transaction: all of them are there or none. Nodes that run take them up."""
        check_jobs(job_ids, job_data)
        if job_ids is None:
            raise InvalidType("job_ids must be an iterable of str, or of pairs (str, dict), not None")
        return self._ask(lambda store: steering.add(store, job_ids, job_data), _add_again)

    def stop(self, node: int | None = None, *, now: bool = False) -> int:
        """Tell the nodes that are alive, or only `node`, to end: they claim no more, and end when the running jobs
        have; with `now` those are interrupted, and given back uncharged. They hear it within two seconds. Returns how
        many were told. The same call of `postgres_jobset` goes on with the jobset later."""
        only = None if node is None else check_whole("node", node, 1)
        return self._ask(lambda store: steering.stop(store, only, now))

    def drop(self, *, force: bool = False) -> None:
        """Delete everything of the jobset. Raises `JobsetInUse` while nodes are alive, unless with `force`: those end
        with a `DatabaseError`."""

        def drop_again(store: Store) -> None:
            with contextlib.suppress(JobsetNotFound):
                steering.drop(store, force)

        self._ask(lambda store: steering.drop(store, force), drop_again)

    def jobs(self) -> Iterator[JobRecord]:
        """Every job as it stands, at one instant, in no order; streamed."""
        return map(_job, self._stream("list_jobs"))

    def export(
        self,
        target: str | os.PathLike[str] | IO[bytes],
        format: Literal["csv", "jsonl", "parquet"] | None = None,
    ) -> int:
        """Write all jobs, streamed, to a path or an open binary file; returns how many.

        The format is the one given, or that of the path's ending (.csv, .jsonl, .parquet), or CSV for an open file.
        What the path names is there when it is whole. Parquet needs `workerbee[parquet]`; raises `MissingPackage`
        without.
        """
        from workerbee.export import export

        return export(lambda: self._stream("list_jobs"), target, format)

    def history(self) -> History:
        """What happened over time, in at most 200 steps."""
        from workerbee.history import history

        return self._ask(history)

    def plot(self, path: str | os.PathLike[str], width: float = 10, height: float = 12) -> None:
        """Draw the history into a file (.png, .svg or .pdf) of so many inches: jobs done, their rate, the bees alive,
        what failed, and how long jobs took. Needs `workerbee[plot]`; raises `MissingPackage` without."""
        from workerbee.plot import draw

        draw(self.history(), path, width, height)

    def _ask(self, step: Callable[[Store], T], again: Callable[[Store], T] | None = None) -> T:
        """What `step` returns, or `again` when the answer to it was lost."""
        session = _session(self._address, self.jobset_id)
        try:
            session.call(survey.find)
            return session.call(step, again)
        finally:
            session.close()

    def _stream(self, query: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of `query`, over a connection of their own; the jobset is looked for at once."""
        self._ask(lambda _: None)
        return self._rows(query, values)

    def _rows(self, query: str, values: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
        store = Store(connect(self._address, f"workerbee {self.jobset_id} reader"), self.jobset_id)
        try:
            yield from store.stream(query, **values)
        except psycopg2.Error as error:
            raise refusal(error, self._address) from None
        finally:
            store.close()


def list_jobsets(
    host: str | None = None,
    port: int | str | None = None,
    user: str | None = None,
    database: str | None = None,
    *,
    password: str | None = None,
) -> list[Overview]:
    """Every jobset of a database, the latest active first; its address is given as for `postgres_jobset`."""
    session = _session(resolve(host, port, user, database, password), "")

    def look(store: Store) -> list[Overview]:
        try:
            ids = [jobset_id for (jobset_id,) in store.run("list_jobsets")]
        except psycopg2.errors.UndefinedTable:
            return []  # nobody has created one
        found = []
        for jobset_id in ids:
            # Dropped a moment ago, or by hand: not listed.
            with contextlib.suppress(psycopg2.errors.UndefinedTable, JobsetNotFound):
                found.append(survey.overview(Store(store.connection, jobset_id)))
        return sorted(found, key=lambda one: one.active_at, reverse=True)

    try:
        return session.call(look)
    finally:
        session.close()


def _session(address: Address, jobset_id: str) -> Session:
    name = f"workerbee {jobset_id or 'list'} look"
    return Session(address, jobset_id, name, patience=PATIENCE, connect=connect, starting=True)


def _ids(job_ids: Iterable[str] | None) -> Collection[str] | None:
    """As what can be gone through twice: another may be in our way the first time."""
    check_jobs(job_ids, None)
    return job_ids if job_ids is None or isinstance(job_ids, Collection) else list(job_ids)


def _add_again(_store: Store) -> Added:
    raise DatabaseError(
        "the connection broke before the database said whether the jobs were added; add them again: those that it has "
        "are skipped"
    )


def _reset_again(_store: Store) -> Reset:
    # What has become COMPLETE since would be run again, too.
    raise DatabaseError("the connection broke before the database said whether the jobs were reset: see how they stand")


def _failure(row: tuple[Any, ...]) -> FailureRecord:
    job_id, attempt, kind, *rest = row
    return FailureRecord(job_id, attempt, Kind(kind), *rest)


def _job(row: tuple[Any, ...]) -> JobRecord:
    job_id, state, *rest, data = row
    return JobRecord._make((job_id, State(state), *rest, json.loads(data) if data else None))
