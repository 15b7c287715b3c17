"""The tables of a jobset: what must hold in them at any instant, and what they say at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

# All in one statement each; the caller has them share a snapshot.
MISPLACED = """
    WITH places AS (
        SELECT generate_series(lo, hi) AS pos, attempts FROM wb_ranges__{0}
        UNION ALL SELECT generate_series(lo, hi), attempts FROM wb_claims__{0} WHERE lo IS NOT NULL
    ), counted AS (SELECT pos, count(*) AS places, max(attempts) AS attempts FROM places GROUP BY pos)
    SELECT pos, j.state, coalesce(c.places, 0), c.attempts, j.errors + j.crashes + j.losses
    FROM wb__{0} j FULL JOIN counted c USING (pos)
    WHERE j.pos IS NULL OR coalesce(c.places, 0) <> (j.state = 'PENDING')::int
       OR c.attempts <> j.errors + j.crashes + j.losses
    ORDER BY pos LIMIT 5
"""
COUNTERS = """
    SELECT (SELECT total FROM wb_jobsets WHERE jobset_id = '{0}'),
           (SELECT coalesce(sum(hi - lo + 1), 0)::bigint FROM wb_ranges__{0}),
           (SELECT coalesce(sum(hi - lo + 1), 0)::bigint FROM wb_claims__{0}),
           (SELECT count(*) FROM wb_failures WHERE jobset_id = '{0}' AND final)
"""
# For each node that has not ended: the pending jobs that did not fail there last.
OFFERED = """
    SELECT n.pid, coalesce(sum(hi - lo + 1) FILTER (WHERE r.failed_on <> n.node), 0)::bigint
    FROM wb_nodes n LEFT JOIN wb_ranges__{0} r ON true
    WHERE n.jobset_id = '{0}' AND n.ended_at IS NULL GROUP BY n.node, n.pid
"""
STATES = "SELECT state, count(*) FROM {1}__{0} GROUP BY 1"
TERMINAL = "SELECT pos, state FROM wb__{0} WHERE state <> 'PENDING'"
ROWS = "SELECT job_id, state, errors, crashes, losses FROM wb__{0}"
FAILURES = """
    SELECT f.job_id, f.attempt, f.kind, f.type, f.message, f.final, f.pid, coalesce(n.pid, 0),
           extract(epoch FROM f.failed_at)::float8
    FROM wb_failures f LEFT JOIN wb_nodes n USING (node) WHERE f.jobset_id = '{0}' ORDER BY f.failure
"""
SIZES = """
    SELECT relname::text, pg_total_relation_size(relid), n_dead_tup FROM pg_stat_user_tables
    WHERE relname IN ('wb__{0}', 'wb_ranges__{0}', 'wb_claims__{0}', 'wb_nodes', 'wb_failures') ORDER BY 1
"""
HELD = """
    SELECT n.node, n.ended_at IS NOT NULL, c.bee, c.lo, c.hi FROM wb_nodes n LEFT JOIN wb_claims__{0} c USING (node)
    WHERE n.pid = %s AND n.jobset_id = '{0}' AND (n.ended_at IS NULL OR c.bee IS NOT NULL)
"""
ACTIVITY = """
    SELECT pid, extract(epoch FROM xact_start)::float8, application_name, query FROM pg_stat_activity
    WHERE application_name LIKE 'workerbee%' AND state LIKE 'idle in transaction%'
"""


@dataclass(frozen=True)
class Row:
    """A job as the database has it at the end."""

    job_id: str
    state: str
    errors: int
    crashes: int
    losses: int


@dataclass(frozen=True)
class Failed:
    """A row of wb_failures; `node` is its supervisor's process id, `at` is in seconds since the epoch."""

    job_id: str
    attempt: int
    kind: str
    type: str
    message: str
    final: bool
    pid: int
    node: int
    at: float


class Tables:
    """The tables of `jobset_id`, over a connection of the run's own."""

    def __init__(self, connection: Any, jobset_id: str) -> None:
        self._connection = connection
        self._jobset_id = jobset_id

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query.format(self._jobset_id), values or None)
            return list(cursor.fetchall())

    def exist(self) -> bool:
        return self.ask("SELECT to_regclass('wb_jobs__{0}') IS NOT NULL") == [(True,)]

    def snapshot(self) -> tuple[dict[str, int], list[str]]:
        """The counters at one instant, and what is wrong at it."""
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                ((total, pending, claimed, failed),) = self.ask(COUNTERS)
                misplaced = self.ask(MISPLACED)
                states = Counter(dict(self._states("wb")))
                view = Counter(dict(self._states("wb_jobs")))
            finally:
                cursor.execute("ROLLBACK")
        counters = {"total": total, "pending": pending, "claimed": claimed, "failed": failed}
        wrong = [
            f"position {pos} is {state}, in {places} places, of {attempts} attempts where the job has {counted}"
            for pos, state, places, attempts, counted in misplaced
        ]
        complete = total - pending - claimed - failed
        if states != Counter(PENDING=pending + claimed, COMPLETE=complete, FAILED=failed):
            wrong.append(f"the counters are {counters}, the rows {dict(states)}")
        if view != Counter(PENDING=pending, CLAIMED=claimed, COMPLETE=complete, FAILED=failed):
            wrong.append(f"the counters are {counters}, the view has {dict(view)}")
        return counters, wrong

    def _states(self, prefix: str) -> list[tuple[str, int]]:
        return [(state, count) for state, count in self.ask(STATES.replace("{1}", prefix))]

    def offered(self) -> dict[int, int]:
        """How many pending jobs each node, by its supervisor's process id, may claim in any case."""
        return dict(self.ask(OFFERED))

    def terminal(self) -> dict[int, str]:
        """The positions of jobs that are COMPLETE or FAILED."""
        return dict(self.ask(TERMINAL))

    def rows(self) -> list[Row]:
        return [Row(*row) for row in self.ask(ROWS)]

    def failures(self) -> list[Failed]:
        return [Failed(*row) for row in self.ask(FAILURES)]

    def held_by(self, node: int) -> list[tuple[Any, ...]]:
        """What is there in the name of the node whose supervisor was `node`, if it has not ended, or has bees."""
        return self.ask(HELD, node)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, the bytes and the dead rows."""
        return {name.replace(self._jobset_id, "ID"): (size, dead) for name, size, dead in self.ask(SIZES)}

    def idle(self) -> dict[tuple[int, float], str]:
        """workerbee's sessions that are idle in a transaction, by process and begin; which they are."""
        return {(pid, begun): f"{name}: {query}" for pid, begun, name, query in self.ask(ACTIVITY) if begun}

    def drop(self) -> None:
        """An end to the jobset."""
        with self._connection.cursor() as cursor:
            for prefix in ("wb", "wb_ranges", "wb_claims"):
                cursor.execute(f"DROP TABLE {prefix}__{self._jobset_id} CASCADE")
            for table in ("wb_jobsets", "wb_failures"):
                cursor.execute(f"DELETE FROM {table} WHERE jobset_id = %s", (self._jobset_id,))
                cursor.execute(f"VACUUM {table}")  # this deletion is none of workerbee's
