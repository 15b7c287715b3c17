"""A bee by itself, on a board and a database, with nobody around it."""

from __future__ import annotations

from collections import Counter

import psycopg2
import pytest

from workerbee.address import resolve
from workerbee.bee import Bee
from workerbee.board import Board
from workerbee.job import Limits
from workerbee.loading import set_up
from workerbee.session import Session
from workerbee.slot import Phase, Verdict
from workerbee.store import Store


class Indifferent:
    """A witness."""

    hears_each = True

    def holds(self, claim):
        pass

    def claimed(self, job):
        pass

    def completed(self, job):
        pass

    def charged(self, charge):
        pass


class StoppedBee(Bee):
    """Is told to stop after it has asked itself `asks` times whether there is a reason to end."""

    asks = 0

    def _reason_to_end(self):
        reason = super()._reason_to_end()
        self.asks -= 1
        if not self.asks:
            self._header.stop = 1
        return reason


@pytest.mark.parametrize("asks", range(1, 13))
def test_a_stop_at_any_moment_runs_no_job_twice(address, parameters, sql, asks):
    store = Store(psycopg2.connect(**parameters), "stopped")
    set_up(store, map(str, range(20)), None, lambda _: None)
    board = Board(1)
    board.header.node = store.add_node("host", "machine", 1, 30)
    board.slots[0].move(Phase.ALIVE)
    store.close()
    runs = Counter()

    def job(job_id, _data):
        runs[job_id] += 1
        if job_id == "7":
            raise ValueError

    session = Session(resolve(**address), "stopped", "workerbee test bee", patience=0)
    bee = StoppedBee(session, board, 0, job, Limits(max_attempts=1), Indifferent(), lease=30)
    bee.asks = asks
    assert bee.run() is Phase.STOPPED
    session.close()
    board.close()
    assert set(runs.values()) <= {1}
    assert sql("SELECT count(*) FROM wb__stopped WHERE state <> 'PENDING'") == [(len(runs),)]
    assert sql("SELECT count(*) FROM wb_claims__stopped") == [(0,)]


@pytest.mark.parametrize("claim", [1, 8])
def test_a_bee_condemned_for_a_job_that_has_ended_since_starts_no_other(address, parameters, sql, claim):
    store = Store(psycopg2.connect(**parameters), "condemned")
    set_up(store, map(str, range(20)), None, lambda _: None)
    board = Board(1)
    board.header.node = store.add_node("host", "machine", 1, 30)
    slot = board.slots[0]
    slot.move(Phase.ALIVE)
    store.close()
    runs = []

    def job(job_id, _data):
        runs.append(job_id)
        if len(runs) == 3:
            slot.condemn(Verdict.MEMORY, slot.started, "too fat")

    session = Session(resolve(**address), "condemned", "workerbee test bee", patience=0)
    bee = Bee(session, board, 0, job, Limits(), Indifferent(), lease=30, claim=claim)
    assert bee.run() is Phase.SPENT
    session.close()
    board.close()
    assert sql("SELECT job_id FROM wb__condemned WHERE state = 'COMPLETE' ORDER BY 1") == [(i,) for i in sorted(runs)]
    assert len(runs) == 3
    assert sql("SELECT sum(hi - lo + 1) FROM wb_ranges__condemned") == [(17,)]


@pytest.mark.parametrize(("alternate", "reason"), [(True, Phase.NO_WORK), (False, Phase.SPENT)])
def test_errors_with_completed_jobs_between_them_are_not_in_a_row(address, parameters, sql, alternate, reason):
    store = Store(psycopg2.connect(**parameters), "errors")
    set_up(store, map(str, range(20)), None, lambda _: None)
    sql("DELETE FROM wb_ranges__errors")
    sql("INSERT INTO wb_ranges__errors VALUES (0, 20, 1)")
    board = Board(1)
    board.header.node = store.add_node("host", "machine", 1, 30)
    board.slots[0].move(Phase.ALIVE)
    store.close()
    runs = []

    def job(job_id, _data):
        runs.append(job_id)
        if len(runs) % 2 == 0 or not alternate:
            raise ValueError

    session = Session(resolve(**address), "errors", "workerbee test bee", patience=0)
    limits, more = Limits(max_attempts=1), {"claim": 8, "most_errors": 3}
    bee = Bee(session, board, 0, job, limits, Indifferent(), lease=30, **more)
    assert bee.run() is reason
    session.close()
    board.close()
    assert len(runs) == (20 if alternate else 3)
