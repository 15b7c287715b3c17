"""Who takes the place of a bee that a job has killed: it begins with a job that was claimed before its birth."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import psycopg2
import pytest
from setproctitle import getproctitle

from tests.helpers import wait_until
from workerbee import Jobset, postgres_jobset
from workerbee.address import resolve
from workerbee.board import Board
from workerbee.hand import Hand
from workerbee.job import Kind, Limits
from workerbee.loading import set_up
from workerbee.node import Node
from workerbee.session import Session
from workerbee.slot import DATA, Phase, Slot
from workerbee.store import Store
from workerbee.undertaker import Undertaker

ONE_CRASH = Limits(max_crashes=1)
BIG = {"text": "x" * DATA}
SMALL = {"größe": [64, "日本"], "nothing": None}
BEES = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


def note(tmp_path, *words):
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, json.dumps(words).encode() + b"\n")
    os.close(fd)


def noted(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def die():
    os.kill(os.getpid(), signal.SIGSEGV)


def test_an_heir_connects_only_when_it_has_something_to_say(address, parameters, sql, tmp_path):
    job_ids = [(str(i), (None, SMALL, BIG)[i % 3]) for i in range(60)]

    def job(job_id, data):
        with psycopg2.connect(**parameters) as connection, connection.cursor() as cursor:
            cursor.execute(BEES, ("workerbee heirs bee 0",))
            ((connections,),) = cursor.fetchall()
        dies = job_id.endswith(("0", "3", "5", "8"))
        note(tmp_path, job_id, data, connections, dies)
        if dies:
            die()

    options = {"processes": 1, "max_crashes": 1, "verbose": False}
    summary = postgres_jobset("heirs", job, job_ids, **address, **options)
    assert (summary.complete, summary.failed, summary.crashed_here) == (36, 24, 24)
    # Nothing else went wrong, such as data of which only a part had room on the board.
    assert sql("SELECT kind, count(*) FROM wb_failures GROUP BY 1") == [("crash", 24)]
    runs = noted(tmp_path)
    assert [(job_id, data) for job_id, data, *_ in sorted(runs, key=lambda run: int(run[0]))] == [
        (job_id, data or {}) for job_id, data in job_ids
    ]
    follows_a_death = [False, *(dies for *_, dies in runs[:-1])]
    # A connection that broke with its bee may be listed for a moment more: a count of 0 is what says something.
    unconnected = {
        (is_heir, data == BIG, connections == 0)
        for (_, data, connections, _), is_heir in zip(runs, follows_a_death, strict=True)
    }
    assert (True, False, True) in unconnected
    # What has no room on the board is asked for first; and who is no heir has asked for its job.
    assert unconnected & {(True, True, True), (False, False, True), (False, True, True)} == set()


def test_an_heir_is_known_by_its_own_pid(address, parameters, sql, tmp_path):
    job_ids = [*map(str, range(20)), "last"]

    def job(job_id, _data):
        note(tmp_path, job_id, os.getpid())
        if job_id == "last":
            with psycopg2.connect(**parameters) as connection, connection.cursor() as cursor:

                def known():
                    cursor.execute("SELECT pid FROM wb_claims__heirs WHERE lo IS NOT NULL")
                    connection.commit()
                    return cursor.fetchall() == [(os.getpid(),)]

                wait_until(known)
        elif int(job_id) % 2:
            raise ValueError
        else:
            die()

    options = {"processes": 1, "max_crashes": 1, "max_attempts": 1, "verbose": False, "claim": "one"}
    summary = postgres_jobset("heirs", job, job_ids, **address, **options)
    assert (summary.complete, summary.failed) == (1, 20)
    runs = dict(noted(tmp_path))
    assert len(set(runs.values())) >= 10
    assert dict(sql("SELECT job_id, pid FROM wb_failures")) == {key: pid for key, pid in runs.items() if key != "last"}


def test_a_bee_says_itself_which_process_it_is(script, sql, tmp_path):
    """Its supervisor may be dead before it has."""
    process = script("""
        import os, signal, time
        from pathlib import Path
        from workerbee import postgres_jobset
        from workerbee.node import Node

        def job(job_id, data):
            Path("pid.new").write_text(str(os.getpid()))
            os.rename("pid.new", "pid")
            time.sleep(600)

        def start_and_die(self, *args):
            start(self, *args)
            while not Path("pid").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

        start, Node._start_bee = Node._start_bee, start_and_die
        postgres_jobset("heirs", job, ["a"], processes=1)
    """)
    process.communicate()
    # Its keeper ends the node, before its database goes.
    wait_until(lambda: sql("SELECT 1 FROM wb_nodes WHERE ended_at IS NOT NULL"))
    ((kind, pid),) = sql("SELECT kind, pid FROM wb_failures")
    assert (kind, pid) == ("lost", int((tmp_path / "pid").read_text()))


def test_what_was_claimed_for_an_heir_goes_back_when_none_is_to_come(address, sql, tmp_path):
    def job(job_id, _data):
        note(tmp_path, job_id)
        die()

    options = {"processes": 1, "max_crashes": 1, "max_failures": 1, "verbose": False}
    summary = postgres_jobset("heirs", job, map(str, range(5)), **address, **options)
    assert (summary.failed, len(noted(tmp_path))) == (1, 1)
    assert sql("SELECT count(*) FROM wb_claims__heirs") == [(0,)]
    assert sql("SELECT state, count(*) FROM wb_jobs__heirs GROUP BY 1 ORDER BY 1") == [("FAILED", 1), ("PENDING", 4)]


def test_an_heir_that_cannot_be_started_leaves_its_job_to_others(address, sql, tmp_path, monkeypatch):
    start, calls = Node._start_bee, []

    def once(self, index, display):
        calls.append(index)
        if index == 0 and calls.count(0) > 1:
            (tmp_path / "refused").touch()
            raise OSError(11, "no process is to be had")
        return start(self, index, display)

    def job(job_id, _data):
        note(tmp_path, job_id)
        if getproctitle().startswith("workerbee heirs bee 0"):
            die()
        wait_until((tmp_path / "refused").exists)

    monkeypatch.setattr(Node, "_start_bee", once)
    options = {"processes": 2, "max_crashes": 1, "verbose": False, "stop_after": 100}
    summary = postgres_jobset("heirs", job, map(str, range(5)), **address, **options)
    assert (summary.complete, summary.failed) == (4, 1)
    assert Counter(job_id for (job_id,) in noted(tmp_path)) == dict.fromkeys("01234", 1)
    assert calls.count(0) > 1
    assert sql("SELECT count(*) FROM wb_claims__heirs") == [(0,)]


@pytest.fixture
def grave(address, parameters):
    """A board whose one bee has died in a job of three; the undertaker, and its store."""
    store = Store(psycopg2.connect(**parameters), "heirs")
    set_up(store, ["a", "b", "c"], None, lambda _: None)
    board = Board(1)
    slot = board.slots[0]
    board.header.node = node = store.add_node("host", "machine", 1, 30)
    claim, _ = store.settle_and_claim(store.add_bee(node, 7), [], 1, node)
    slot.move(Phase.ALIVE)
    slot.pid = 7
    slot.hand.hold(claim, 0.0)
    slot.hand.pos = claim.jobs[0].pos
    slot.exit_code = -signal.SIGSEGV
    slot.move(Phase.DEAD)
    session = Session(resolve(**address), "heirs", "workerbee test keeper", patience=0)
    undertaker = Undertaker(session, board, ONE_CRASH, lambda *_: None, lambda *_: "", replaces=True)
    yield board, undertaker, store
    for one in (store, session, board):
        one.close()


def states(sql):
    return dict(sql("SELECT state, count(*) FROM wb_jobs__heirs GROUP BY 1"))


def test_a_job_is_claimed_for_the_heir_as_the_dead_ones_is_charged(grave, sql):
    board, undertaker, store = grave
    slot, bee = board.slots[0], board.slots[0].hand.bee
    undertaker.look()
    assert slot.phase is Phase.PREPARED
    assert states(sql) == {"FAILED": 1, "CLAIMED": 1, "PENDING": 1}
    assert slot.prepared() == store.find_claim(bee)
    assert (slot.pid, slot.exit_code, slot.hand.pos, slot.failed, slot.crashed) == (0, 0, 0, 1, 1)
    assert not undertaker.is_done


@pytest.mark.parametrize("reason", ["stop", "hold", "never"])
def test_nothing_is_claimed_for_an_heir_that_should_not_work(grave, sql, reason):
    board, undertaker, _ = grave
    board.header.stop = reason == "stop"
    board.header.hold = 1e12 if reason == "hold" else 0.0
    undertaker._replaces = reason != "never"
    undertaker.look()
    assert board.slots[0].phase is Phase.EMPTY
    assert states(sql) == {"FAILED": 1, "PENDING": 2}
    assert sql("SELECT count(*) FROM wb_claims__heirs") == [(0,)]


def test_where_nothing_is_left_to_claim_the_row_goes(grave, sql):
    board, undertaker, _ = grave
    sql("DELETE FROM wb_ranges__heirs")
    undertaker.look()
    assert board.slots[0].phase is Phase.EMPTY
    assert sql("SELECT count(*) FROM wb_claims__heirs") == [(0,)]
    assert states(sql)["FAILED"] == 1


def test_a_closing_node_gives_back_what_it_had_claimed(grave, sql):
    board, undertaker, _ = grave
    undertaker.look()
    board.header.closing = board.header.stop = 1
    undertaker.look()
    assert board.slots[0].phase is Phase.EMPTY
    assert undertaker.is_done
    assert states(sql) == {"FAILED": 1, "PENDING": 2}


def test_a_dead_supervisors_heir_is_never_born(grave, sql):
    _, undertaker, _ = grave
    undertaker.look()
    undertaker.bury_all()
    assert states(sql) == {"FAILED": 1, "PENDING": 2}
    assert sql("SELECT count(*) FROM wb_claims__heirs") == [(0,)]


def test_an_heir_that_is_lost_before_it_was_introduced_has_no_pid(grave, sql, address):
    board, undertaker, store = grave
    undertaker.look()
    store.lose_bee(board.slots[0].hand.bee, "its node was lost", ONE_CRASH)
    assert sql("SELECT kind, pid FROM wb_failures ORDER BY failure") == [("crash", 7), ("lost", 0)]
    assert [(failure.kind, failure.pid) for failure in Jobset("heirs", **address).failures()] == [
        (Kind.LOST, None),
        (Kind.CRASH, 7),
    ]


@pytest.mark.parametrize(("of", "step"), [(Slot, "prepare"), (Hand, "hold"), (Slot, "_forget_process")])
def test_a_keeper_that_dies_between_the_claim_and_its_word_loses_nothing(grave, sql, monkeypatch, of, step):
    board, undertaker, store = grave

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(of, step, killed)
        with pytest.raises(Killed):
            undertaker.look()
    assert states(sql) == {"FAILED": 1, "CLAIMED": 1, "PENDING": 1}
    undertaker.look()
    # Only what ran is left to an heir: what nobody had begun goes back.
    slot = board.slots[0]
    assert slot.phase is (Phase.EMPTY if step == "_forget_process" else Phase.PREPARED)
    if slot.phase is Phase.PREPARED:
        assert slot.prepared() == store.find_claim(slot.hand.bee)
    held = sql("SELECT lo FROM wb_claims__heirs")
    assert held == ([(slot.hand.lo,)] if slot.phase is Phase.PREPARED else [])
    assert states(sql) == {"FAILED": 1, "PENDING": 2 - len(held)} | ({"CLAIMED": 1} if held else {})
    assert sql("SELECT count(*) FROM wb_failures") == [(1,)]


def test_an_answer_that_is_lost_claims_nothing_for_ever(grave, sql, monkeypatch):
    board, undertaker, store = grave
    settle, lost = Store.settle_for_heir, []

    def answered(self, *args, **options):
        result = settle(self, *args, **options)
        if not lost:
            lost.append(result)
            raise psycopg2.OperationalError("the answer was lost")
        return result

    monkeypatch.setattr(Store, "settle_for_heir", answered)
    undertaker._session._patience = 60
    undertaker.look()
    assert lost
    assert board.slots[0].phase is Phase.PREPARED
    assert board.slots[0].prepared() == store.find_claim(board.slots[0].hand.bee)
    assert states(sql) == {"FAILED": 1, "CLAIMED": 1, "PENDING": 1}
    assert sql("SELECT count(*) FROM wb_failures") == [(1,)]
