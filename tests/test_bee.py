"""A bee by itself, on a board and a database, with nobody around it."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.helpers import PLENTY, Indifferent
from workerbee.bee import Bee
from workerbee.board import Board
from workerbee.description import Interrupted
from workerbee.errors import DatabaseError
from workerbee.job import Limits
from workerbee.lives import pausing
from workerbee.session import Session
from workerbee.slot import Phase, Verdict


class StoppedBee(Bee):
    """Is told to stop after it has asked itself `asks` times whether there is a reason to end."""

    asks = 0

    def _reason_to_end(self):
        reason = super()._reason_to_end()
        self.asks -= 1
        if not self.asks:
            self._header.stop = 1
        return reason


@pytest.mark.parametrize("offered", [0, PLENTY])
@pytest.mark.parametrize("asks", range(1, 13))
def test_a_stop_at_any_moment_runs_no_job_twice(hive, sql, asks, offered):
    board, session = hive(20)
    board.header.offered = offered
    runs = Counter()

    def job(job_id, _data):
        runs[job_id] += 1
        if job_id == "7":
            raise ValueError

    bee = StoppedBee(session, board, 0, job, Limits(max_attempts=1), Indifferent(), lease=30)
    bee.asks = asks
    assert bee.run() is Phase.STOPPED
    assert set(runs.values()) <= {1}
    assert sql("SELECT count(*) FROM wb__lone WHERE state <> 'PENDING'") == [(len(runs),)]
    assert sql("SELECT count(*) FROM wb_claims__lone") == [(0,)]


@pytest.mark.parametrize("claim", [1, 8, None])
def test_a_bee_condemned_for_a_job_that_has_ended_since_starts_no_other(hive, sql, claim):
    board, session = hive(20)
    board.header.offered = PLENTY
    slot = board.slots[0]
    runs = []

    def job(job_id, _data):
        runs.append(job_id)
        if len(runs) == 3:
            slot.condemn(Verdict.MEMORY, slot.started, "too fat")

    bee = Bee(session, board, 0, job, Limits(), Indifferent(), lease=30, claim=claim)
    assert bee.run() is Phase.SPENT
    assert sql("SELECT job_id FROM wb__lone WHERE state = 'COMPLETE' ORDER BY 1") == [(i,) for i in sorted(runs)]
    assert len(runs) == 3
    assert sql("SELECT sum(hi - lo + 1) FROM wb_ranges__lone") == [(17,)]


@pytest.mark.parametrize(("alternate", "reason"), [(True, Phase.NO_WORK), (False, Phase.SPENT)])
def test_errors_with_completed_jobs_between_them_are_not_in_a_row(hive, sql, alternate, reason):
    board, session = hive(20)
    sql("DELETE FROM wb_ranges__lone")
    sql("INSERT INTO wb_ranges__lone VALUES (0, 20, 1)")
    runs = []

    def job(job_id, _data):
        runs.append(job_id)
        if len(runs) % 2 == 0 or not alternate:
            raise ValueError

    limits, more = Limits(max_attempts=1), {"claim": 8, "most_errors": 3}
    bee = Bee(session, board, 0, job, limits, Indifferent(), lease=30, **more)
    assert bee.run() is reason
    assert len(runs) == (20 if alternate else 3)


def test_the_limit_of_failures_is_what_the_database_counts(hive):
    board, session = hive(20)
    header = board.header
    # The keeper has counted, before the bee could tell the board of them, four failures that nobody ever had.
    header.most_failed, header.failed = 6, 4

    def job(_job_id, _data):
        raise ValueError

    bee = Bee(session, board, 0, job, Limits(max_attempts=1), Indifferent(), lease=30)
    assert bee.run() is Phase.STOPPED
    assert (board.slots[0].failed, header.enough) == (6, 6)


@pytest.mark.parametrize("offered", [0, PLENTY])
def test_who_has_raised_does_not_run_while_that_is_settled(hive, offered):
    settling = []

    class Watched(Session):
        def call(self, *steps, **more):
            settling.append((slot.hand.pos > 0, slot.raised))
            return super().call(*steps, **more)

    board, session = hive(5, Watched)
    board.header.offered = offered
    slot = board.slots[0]

    def job(job_id, _data):
        assert not slot.raised
        if job_id == "3":
            raise ValueError

    bee = Bee(session, board, 0, job, Limits(max_attempts=1), Indifferent(), lease=30)
    assert bee.run() is Phase.NO_WORK
    # Also while it reads what it claimed ahead.
    assert 1 <= settling.count((True, 1)) <= (2 if offered else 1)
    assert set(settling) == {(True, 1), (False, 0)}


@pytest.mark.parametrize("lease", [0.4, 30])
def test_jobs_of_a_claim_start_only_while_nobody_can_have_taken_it(hive, sql, lease):
    board, session = hive(4)
    sql("DELETE FROM wb_ranges__lone")
    sql("INSERT INTO wb_ranges__lone VALUES (0, 4, 1)")
    claims = []

    def job(_job_id, _data):
        claims.append(board.slots[0].hand.number)
        time.sleep(0.3)

    bee = Bee(session, board, 0, job, Limits(), Indifferent(), lease=lease, claim=4)
    assert bee.run() is Phase.NO_WORK
    if lease < 1:
        assert len(set(claims)) == 4


def test_a_bee_does_not_wait_for_a_database_that_it_needs_no_more():
    board, slept = Board(1), []
    header, pause = board.header, pausing(board, slept.append)
    pause(1)  # nothing is known yet
    header.counted, header.claimed = 1.0, 1
    pause(2)
    header.claimed = 0
    with pytest.raises(Interrupted):
        pause(3)
    header.pending, header.stop = 1, 1
    with pytest.raises(Interrupted):
        pause(4)
    board.close()
    assert slept == [1, 2]


def test_a_bee_of_a_jobset_that_was_dropped_runs_nothing_of_the_next_one_of_that_name(hive, sql):
    board, session = hive(5)
    sql("DELETE FROM wb_nodes")
    runs = []
    bee = Bee(session, board, 0, lambda job_id, _: runs.append(job_id), Limits(), Indifferent(), lease=30)
    with pytest.raises(DatabaseError, match="jobset 'lone', which this node worked on, has been dropped"):
        bee.run()
    assert runs == []
