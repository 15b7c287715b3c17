"""`Jobset`: see how a jobset stands, and steer it, from anywhere and while its nodes work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from workerbee.address import resolve
from workerbee.job import FailureGroup, Kind
from workerbee.loading import JobData, JobIds
from workerbee.options import check_jobset_id
from workerbee.records import Added, FailureRecord, JobRecord, Reset
from workerbee.status import Overview, Status

if TYPE_CHECKING:
    from workerbee.history import History


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
        raise NotImplementedError

    def status(self, groups: int = 20) -> Status:
        """The jobset in full, with the `groups` most frequent failures; cheap on ten million jobs, too."""
        raise NotImplementedError

    def failures(
        self, job_id: str | None = None, kind: Kind | str | None = None, match: str | None = None
    ) -> Iterator[FailureRecord]:
        """Every failed attempt, the newest first, streamed: of one job, of one kind ('error', 'timeout', 'crash',
        'memory', 'lost'), or with `match` in its type or message. Raises `JobNotFound` for an unknown `job_id`."""
        raise NotImplementedError

    def failure_groups(self, most: int = 20) -> list[FailureGroup]:
        """The failures by kind and message, the `most` frequent."""
        raise NotImplementedError

    def retry(
        self, job_ids: Iterable[str] | None = None, kind: Kind | str | None = None, match: str | None = None
    ) -> int:
        """FAILED jobs are PENDING again, with all their attempts before them; returns how many.

        All of them, or those of `job_ids`; those whose last attempt failed by `kind`, or has `match` in its type or
        message. Nodes that run take them up. Raises `JobNotFound` for ids that the jobset does not have.
        """
        raise NotImplementedError

    def reset(self, job_ids: Iterable[str] | None = None, *, all: bool = False) -> Reset:
        """The same with COMPLETE jobs, which are run again: those of `job_ids`, or `all`. Those being run are left
        alone, and counted."""
        raise NotImplementedError

    def add(self, job_ids: JobIds, job_data: JobData | None = None) -> Added:
        """More jobs, given as to `postgres_jobset`; ids that the jobset has are skipped, and counted. Streamed, in one
        transaction: all of them are there or none. Nodes that run take them up."""
        raise NotImplementedError

    def stop(self, node: int | None = None, *, now: bool = False) -> int:
        """Tell the nodes that are alive, or only `node`, to end: they claim no more, and end when the running jobs
        have; with `now` those are interrupted, and given back uncharged. They hear it within two seconds. Returns how
        many were told. The same call of `postgres_jobset` goes on with the jobset later."""
        raise NotImplementedError

    def drop(self, *, force: bool = False) -> None:
        """Delete everything of the jobset. Raises `JobsetInUse` while nodes are alive, unless with `force`: those end
        with a `DatabaseError`."""
        raise NotImplementedError

    def jobs(self) -> Iterator[JobRecord]:
        """Every job as it stands, at one instant, in no order; streamed."""
        raise NotImplementedError

    def export(self, path: str | os.PathLike[str], format: Literal["csv", "jsonl", "parquet"] | None = None) -> int:
        """Write all jobs to a file, in the format given or that of the path's ending; returns how many."""
        raise NotImplementedError

    def history(self) -> History:
        """What happened over time, in at most a few hundred steps."""
        raise NotImplementedError

    def plot(self, path: str | os.PathLike[str], width: float = 10, height: float = 12) -> None:
        """Draw the history into a file (.png, .svg or .pdf) of so many inches; needs `workerbee[plot]`."""
        raise NotImplementedError


def list_jobsets(
    host: str | None = None,
    port: int | str | None = None,
    user: str | None = None,
    database: str | None = None,
    *,
    password: str | None = None,
) -> list[Overview]:
    """Every jobset of a database, the latest active first; its address is given as for `postgres_jobset`."""
    resolve(host, port, user, database, password)
    raise NotImplementedError
