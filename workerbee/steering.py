"""Changing a jobset while its nodes work: each step is one transaction, and only one of them is at a jobset."""

from __future__ import annotations

from collections.abc import Collection

from workerbee.errors import InvalidValue, JobNotFound, JobsetInUse, JobsetNotFound
from workerbee.hand import BATCH
from workerbee.records import Added, Reset
from workerbee.staging import JobData, JobIds, Rows, refusing_duplicates, stage
from workerbee.store import Store
from workerbee.text import printable, shown


def retry(store: Store, job_ids: Collection[str] | None, kind: str | None, match: str | None) -> int:
    """Let FAILED jobs be PENDING again; how many."""
    with store.transaction():
        _stage_ids(store, job_ids)
        _lock(store)
        store.run("choose_failed", every=job_ids is None, kind=kind, match=match)
        return _send_back(store)


def reset(store: Store, job_ids: Collection[str] | None) -> Reset:
    """Let COMPLETE and FAILED jobs be PENDING again."""
    with store.transaction():
        _stage_ids(store, job_ids)
        _lock(store)
        ((running,),) = store.run("choose_ended", every=job_ids is None)
        return Reset(_send_back(store), running)


def add(store: Store, job_ids: JobIds, job_data: JobData | None) -> Added:
    """Store the jobs that are new."""
    rows = Rows(job_ids, job_data)
    with store.transaction():
        stage(store, rows)
        # Not before: the caller may take hours to come up with the ids.
        total = _lock(store)
        with refusing_duplicates():
            store.run("add_jobs", total=total)
        ((last,),) = store.run("find_last_position")
        if last > total:
            store.run("deal_more_ranges", first=total + 1, last=last, most=BATCH)
            store.run("count_jobset", total=last)
        return Added(last - total, rows.count - (last - total))


def stop(store: Store, node: int | None, now: bool) -> int:
    """Tell nodes to end; how many are alive to hear it."""
    told = store.run("stop_nodes", stop="now" if now else "drain", only=node)
    alive = [number for number, is_alive in told if is_alive]
    if node is not None and not alive:
        raise InvalidValue(f"jobset '{store.jobset_id}' has no node {node} that is alive")
    return len(alive)


def drop(store: Store, force: bool) -> None:
    """Delete everything of the jobset, if nobody works on it or by `force`."""
    with store.transaction():
        _lock(store)
        alive = [printable(f"{host}:{pid}", 100) for host, pid in store.run("find_alive_nodes")]
        if alive and not force:
            raise JobsetInUse(
                f"{len(alive)} node{'s' * (len(alive) != 1)} of jobset '{store.jobset_id}' "
                f"{'are' if len(alive) != 1 else 'is'} alive ({_some(alive)}): stop them first, or drop it by force"
            )
        store.run("drop_jobset")


def _lock(store: Store) -> int:
    rows = store.run("lock_jobset")
    if not rows:
        raise JobsetNotFound(f"there is no jobset '{store.jobset_id}' in this database any more")
    return int(rows[0][0])


def _stage_ids(store: Store, job_ids: Collection[str] | None) -> None:
    stage(store, Rows(job_ids or (), None))
    ((unknown, examples),) = store.run("find_unknown_ids")
    if unknown:
        named = _some([shown(job_id) for job_id in examples], unknown)
        raise JobNotFound(f"jobset '{store.jobset_id}' has no job {named}")
    store.run("create_chosen")


def _send_back(store: Store) -> int:
    ((number,),) = store.run("send_back", most=BATCH)
    return int(number)


def _some(names: list[str], number: int = 0) -> str:
    more = max(number, len(names)) - len(names[:3])
    return ", ".join(names[:3]) + (f" and {more} more" if more else "")
