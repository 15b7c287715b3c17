"""A minute of chaos; and each of its checks notices what it is for."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import psycopg2
import pytest

from tests.chaos.checker import Checker, Evidence
from tests.chaos.faults import Faults
from tests.chaos.journal import RAISED, RETURNED, Attempt, Identity, Journal, attempts_of
from tests.chaos.outputs import wrong_output
from tests.chaos.plan import FAULTS, Job, draw
from tests.chaos.records import EVERYBODY, Disturbance, Hit
from tests.chaos.sampler import left_by
from tests.chaos.tables import Failed, Row, Tables
from tests.chaos.watches import BeeWatch, ExitWatch, IdleWatch, TerminalWatch
from workerbee.loading import set_up
from workerbee.store import Store

ROOT = Path(__file__).parents[1]
NODE, BEE = 100, 101


@pytest.mark.timeout(900)
def test_a_minute_of_chaos():
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "50", "--jobs", "700"]
    if seed := os.environ.get("WORKERBEE_CHAOS_SEED"):
        command += ["--seed", seed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_plans_the_same_again():
    first, second = draw(7, 3, 500), draw(7, 3, 500)
    assert first == second
    assert list(islice(first.faults(), 200)) == list(islice(second.faults(), 200))
    assert {fault.name for fault in islice(first.faults(), 2000)} == FAULTS.keys()
    assert draw(8, 3, 500).jobs != first.jobs


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_there(name):
    assert callable(getattr(Faults, name))


def failed(job_id, attempt, kind, type_, *, final=False, message="", pid=BEE):
    return Failed(job_id, attempt, kind, type_, message, final, pid, NODE, 50.0)


def attempt(job_id, began, how=None, *, pid=BEE, held_by=0, node=NODE):
    ended = None if how is None else began + 0.5
    return Attempt(job_id, pid, node, began, held_by, ended, how)


def sound() -> Evidence:
    """A round in which a good job was done, one was lost and run again, a bad one raised, and another one crashed."""
    return Evidence(
        [Job("1/0", "returns", 0), Job("1/1", "raises", 0), Job("1/2", "reads_nowhere", 0), Job("1/3", "sleeps", 0)],
        max_attempts=2,
        max_crashes=2,
        rows=[
            Row("1/0", "COMPLETE", 0, 0, 0),
            Row("1/1", "FAILED", 2, 0, 0),
            Row("1/2", "FAILED", 0, 2, 0),
            Row("1/3", "COMPLETE", 0, 0, 1),
        ],
        failures=[
            failed("1/1", 1, "error", "ValueError"),
            failed("1/1", 2, "error", "ValueError", final=True),
            failed("1/2", 1, "crash", "SIGSEGV"),
            failed("1/2", 2, "crash", "SIGSEGV", final=True, pid=102),
            failed("1/3", 1, "lost", "lost", message="its node was silent for longer than its lease"),
        ],
        attempts=[
            attempt("1/0", 1, RETURNED),
            attempt("1/1", 2, RAISED),
            attempt("1/1", 3, RAISED),
            attempt("1/2", 4),
            attempt("1/2", 5, pid=102),
            attempt("1/3", 6, RETURNED),
            attempt("1/3", 6.2, RETURNED, pid=102, held_by=BEE),
        ],
        leases={NODE: 2.0},
        disturbances=[Disturbance("stop_keeper", NODE, 45, 49)],
        summaries=[(4, 2, 2)],
    )


def test_a_sound_round_is_found_sound():
    assert Checker(sound()).wrong() == []


def change(field, index, **values):
    """Replace fields of one of the evidence's entries."""

    def plant(evidence):
        entries = getattr(evidence, field)
        entries[index] = dataclasses.replace(entries[index], **values)

    return plant


def remove(field, index):
    return lambda evidence: getattr(evidence, field).pop(index)


def add(field, *entries):
    return lambda evidence: getattr(evidence, field).extend(entries)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (remove("rows", 0), "1/0 is not in the table"),
        (add("rows", Row("9/9", "COMPLETE", 0, 0, 0)), "9/9 was never added"),
        (add("attempts", attempt("9/9", 1, RETURNED)), "9/9 was run, and never added"),
        (add("failures", failed("9/9", 1, "error", "ValueError")), "9/9 failed, and was never added"),
        (add("rows", Row("1/0", "COMPLETE", 0, 0, 0)), "1/0 is there 2 times"),
        (change("rows", 0, state="PENDING"), "it is PENDING at the end"),
        (change("rows", 1, errors=1), "its counters say"),
        (change("rows", 3, losses=0), "its counters say"),
        (remove("failures", 2), "its counters say"),
        (change("rows", 1, state="COMPLETE"), "it is COMPLETE with 2 errors"),
        (change("rows", 0, state="FAILED"), "it is FAILED with 0 errors"),
        (lambda evidence: setattr(evidence, "max_crashes", 1), "it is FAILED with 0 errors, 2 crashes"),
        (change("attempts", 0, how=None, ended=None), "it is COMPLETE, and never returned"),
        (change("jobs", 0, does="raises"), "it is COMPLETE, and always ends in error"),
        (change("failures", 1, final=False), "of its failures these are final: [False, False]"),
        (change("failures", 0, final=True), "of its failures these are final: [True, True]"),
        (add("summaries", (4, 1, 2)), "a call returned with 1 complete and 2 failed of 4"),
        (change("failures", 1, attempt=1), "its failures are numbered [1, 1]"),
        (change("failures", 0, type="KeyError"), "it never raises KeyError"),
        (change("failures", 2, type="exit"), "it is charged with a crash, exit"),
        (add("failures", failed("1/0", 1, "crash", "SIGKILL")), "its bee 101 was not hit in it"),
        (remove("disturbances", 0), "nothing was done to its node"),
        (change("disturbances", 0, node=999), "nothing was done to its node"),
        (change("disturbances", 0, end=20), "nothing was done to its node"),
        (change("disturbances", 0, name="hold_snapshot"), "nothing was done to its node"),
        (change("disturbances", 0, name="cut_sessions"), "nothing was done to its node"),
        (change("disturbances", 0, name="kill_keeper", end=43), "nothing was done to its node"),
        (change("failures", 4, message="its supervisor died"), "nothing was done to its node"),
        (add("attempts", attempt("1/0", 9, RETURNED, pid=102)), "it returned in 101, and ran again in 102"),
        (change("attempts", 2, how=RETURNED), "it returned in 101, and is FAILED"),
        (change("failures", 4, pid=999), "it returned in 101, and ran again in 102"),
        (change("failures", 4, pid=999), "it began in 102 while it ran in 101"),
        (change("attempts", 2, began=2.2), "it began in 101 while it ran in 101"),
        (change("attempts", 0, held_by=77), "it began in 101 while 77 had its lock"),
        (change("attempts", 1, how=None, ended=None), "it raised 1 times in 101, and is charged with 2 errors"),
        (remove("attempts", 3), "it ran 0 times in 101, and is charged with {'crash': 1}"),
        (add("attempts", attempt("1/0", 0.1, pid=102)), "of which 1 came to nothing"),
        (
            lambda evidence: evidence.signals.append((0.5, NODE, signal.SIGTERM)),
            "began in node 100 5.7 s after that was told to stop",
        ),
    ],
)
def test_a_broken_promise_is_noticed(plant, words):
    evidence = sound()
    plant(evidence)
    assert [line for line in Checker(evidence).wrong() if words in line]


def good_job_crashed(*hits: Hit) -> Evidence:
    evidence = sound()
    evidence.rows[0] = Row("1/0", "COMPLETE", 0, 1, 0)
    evidence.failures.append(failed("1/0", 1, "crash", "SIGKILL"))
    evidence.attempts[0] = attempt("1/0", 1)
    evidence.attempts.append(attempt("1/0", 9, RETURNED, pid=102))
    evidence.hits.extend(hits)
    return evidence


def test_a_good_job_may_crash_in_a_bee_that_was_killed_in_it():
    assert Checker(good_job_crashed(Hit(1.2, BEE, NODE, "bee", "1/0"))).wrong() == []
    assert Checker(good_job_crashed(Hit(1.2, BEE, NODE, "bee", ""))).wrong() != []
    assert Checker(good_job_crashed(Hit(1.2, BEE, NODE, "bee", "1/1"))).wrong() != []
    assert Checker(good_job_crashed()).wrong() != []


def hung(limit: float | None, job: str, began: float) -> Evidence:
    """A job with a timeout that was charged at 50."""
    evidence = sound()
    evidence.job_timeout = limit
    evidence.jobs[1] = Job("1/1", job, 0)
    evidence.failures[:2] = [failed("1/1", n + 1, "timeout", "timeout", final=n == 1) for n in range(2)]
    evidence.attempts[1:3] = [attempt("1/1", 30), attempt("1/1", began)]
    return evidence


def test_a_timeout_is_what_the_journal_says_it_is():
    assert Checker(hung(5.0, "spins", 44)).wrong() == []
    assert Checker(hung(5.0, "sleeps", 44)).wrong() == []  # the machine may have been so slow
    assert "charged with a timeout after 3.0 s" in Checker(hung(5.0, "spins", 47)).wrong()[0]
    assert "charged with a timeout after 6.0 s" in Checker(hung(None, "spins", 44)).wrong()[0]
    late = hung(5.0, "spins", 34)
    late.disturbances[0] = dataclasses.replace(late.disturbances[0], begin=20.0, end=21.0)
    assert "it was ended after 16.0 s, and its limit is 5.0 s" in "".join(Checker(late).wrong())


def test_memory_is_eaten_by_those_who_do():
    evidence = sound()
    evidence.failures[2:4] = [
        failed("1/2", n, "memory", "memory", final=n == 2, pid=pid) for n, pid in ((1, BEE), (2, 102))
    ]
    assert "it is charged with" in Checker(evidence).wrong()[0]
    evidence.jobs[2] = Job("1/2", "eats_memory", 0)
    assert Checker(evidence).wrong() == []


def test_memory_may_be_eaten_while_nobody_can_see_it():
    evidence = sound()
    evidence.jobs[0] = Job("1/0", "eats_memory", 0)
    assert "it is COMPLETE, and always ends in memory" in "".join(Checker(evidence).wrong())
    for begin, end, fine in ((1.2, 4, True), (1.6, 4, False), (0, 0.9, False)):
        evidence.disturbances[1:] = [Disturbance("stop_supervisor", NODE, begin, end)]
        assert (Checker(evidence).wrong() == []) is fine
    evidence.disturbances[1:] = [Disturbance("stop_bee", NODE, 1.2, 4)]
    assert Checker(evidence).wrong() != []
    evidence.disturbances[1:] = [Disturbance("stop_supervisor", NODE, 1.2, 4)]
    evidence.jobs[0] = Job("1/0", "raises", 0)
    assert Checker(evidence).wrong() != []


def test_what_was_given_back_by_order_is_not_missed():
    evidence = sound()
    evidence.attempts.insert(0, attempt("1/0", 0.2, pid=201, node=200))
    assert Checker(evidence).wrong() != []
    evidence.signals.append((0.3, 200, signal.SIGTERM))
    assert Checker(evidence).wrong() == []


def test_a_loss_that_nobody_could_name_the_process_of_is_an_attempt_on_that_node():
    evidence = sound()
    change("failures", 4, pid=0)(evidence)
    assert Checker(evidence).wrong() == []
    change("failures", 4, node=NODE + 1)(evidence)
    assert Checker(evidence).wrong() != []


@pytest.fixture
def tables(parameters):
    """A jobset of 20 jobs, two of which a bee holds, one after the other; the second is still running."""
    store = Store(psycopg2.connect(**parameters), "planted")
    set_up(store, map(str, range(20)), None, lambda _: None)
    node = store.add_node("host", "machine", 1, 30)
    claim, _ = store.settle_and_claim(store.add_bee(node, 1), [], 1, node)
    store.settle_and_claim(claim, [0.1], 1, node)
    yield Tables(store.connection, "planted")
    store.close()


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ("DELETE FROM wb_ranges__planted WHERE hi = (SELECT max(hi) FROM wb_ranges__planted)", "in 0 places"),
        ("INSERT INTO wb_ranges__planted (attempts, hi, lo) SELECT 5, lo, lo FROM wb_claims__planted", "in 2 places"),
        ("INSERT INTO wb_ranges__planted (attempts, hi, lo) VALUES (0, 99, 99)", "position 99 is None, in 1 places"),
        ("UPDATE wb__planted SET errors = 1 WHERE state = 'PENDING'", "of 0 attempts where the job has 1"),
        ("UPDATE wb__planted SET state = 'PENDING', finished_at = NULL", "is PENDING, in 0 places"),
        ("UPDATE wb__planted SET state = 'COMPLETE', finished_at = now()", "is COMPLETE, in 1 places"),
        ("UPDATE wb_jobsets SET total = total + 1", "the counters are"),
        ("DELETE FROM wb_claims__planted", "the counters are"),
    ],
)
def test_tables_that_disagree_are_noticed(tables, sql, plant, words):
    counters, wrong = tables.snapshot()
    assert (counters, wrong) == ({"total": 20, "pending": 18, "claimed": 1, "failed": 0}, [])
    sql(plant)
    assert words in "\n".join(tables.snapshot()[1])


def test_a_way_out_of_a_terminal_state_is_noticed(tables, sql):
    watch = TerminalWatch()
    ((pos, state),) = tables.terminal().items()
    assert state == "COMPLETE"
    assert watch.saw(tables.terminal()) == []
    sql("UPDATE wb__planted SET state = 'FAILED' WHERE state = 'COMPLETE'")
    assert watch.saw(tables.terminal()) == [f"position {pos} was COMPLETE, and is FAILED"]


def test_a_session_that_rests_in_a_transaction_is_noticed(tables, parameters):
    connection = psycopg2.connect(**parameters, application_name="workerbee planted bee 0")
    connection.cursor().execute("SELECT 1")
    watch = IdleWatch()
    assert watch.saw(0.0, tables.idle()) == []
    assert [line for n in range(1, 30) for line in watch.saw(n / 2, tables.idle()) if "bee 0: SELECT 1" in line]
    connection.close()


def watched(looks):
    """What a watch says of a node, looked at four times a second: whether it is excused, and which processes live."""
    watch = BeeWatch()
    return [line for n, look in enumerate(looks) for line in watch.saw(n / 4, {} if look is None else {NODE: look})]


def test_a_process_that_is_not_replaced_is_noticed():
    seen = watched((False, {"bee 0": True, "bee 1": n < 8}) for n in range(40))
    assert seen == ["node 100 has had no bee 1 for 6 s"]
    assert watched((False, {"keeper": n % 20 < 10}) for n in range(80)) == []
    assert watched((False, {"bee 0": False}) if n % 10 else None for n in range(80)) == []
    assert watched((n > 10, {"bee 0": False}) for n in range(80)) == []
    assert watched((n % 20 < 10, {"keeper": False}) for n in range(80)) == ["node 100 has had no keeper for 6 s"]


def test_a_node_that_does_not_stop_is_noticed():
    watch = ExitWatch()
    assert watch.saw(10.0, {NODE: 11.0}) == []
    assert watch.saw(12.0, {NODE: 11.0}) == ["node 100 was told to stop, and runs 1.0 s too long"]
    assert watch.saw(13.0, {NODE: 11.0}) == []


def test_a_process_that_is_left_is_noticed(tmp_path):
    journal = Journal(tmp_path / "journal")
    seen, noted = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    identity = Identity.of(noted.pid)
    journal.write("child", child=noted.pid, born=identity.born, node=NODE)
    node = SimpleNamespace(pid=NODE, below={Identity.of(seen.pid): None})
    assert left_by(node, journal) == sorted([seen.pid, noted.pid])
    for process in (seen, noted):
        process.kill()
        process.wait()
    assert left_by(node, journal) == []


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "Traceback\nKeyError: 'x'", "ended with 1"),
        (1, "workerbee.errors.DatabaseError: gone", "ended with 1"),
        (1, "NodeFailed: the keeper died 5 times; the last: SIGKILL", "ended with 1"),
        (0, "Traceback (most recent call last):\n  File\n    line\nKeyError: 1\n", "printed a traceback of KeyError"),
        (143, "", "ended with 143"),
        (-signal.SIGSEGV, "", "ended with -11"),
        (0, "the keeper died (exit code 1), started again", "lost keepers by {'exit code 1': 1}"),
        (0, "the keeper died (SIGKILL), started again", "lost keepers by {'SIGKILL': 1}, of which 0 were killed"),
        (0, "bee 1 died before it claimed a job (KeyError: 'x'), next try in 0.1 s", "lost bee 1 before"),
    ],
)
def test_an_end_that_nothing_explains_is_noticed(code, said, words):
    node = SimpleNamespace(
        pid=NODE,
        began=1.0,
        ended=2.0,
        inline=False,
        signals=[],
        process=SimpleNamespace(returncode=code),
        log=Path("log"),
        said=lambda: said,
    )
    assert words in "\n".join(wrong_output(node, [], []))


def test_an_end_that_was_brought_about_is_fine():
    node = SimpleNamespace(
        pid=NODE,
        began=1.0,
        ended=2.0,
        inline=False,
        signals=[(1.5, signal.SIGTERM)],
        process=SimpleNamespace(returncode=143),
        log=Path("log"),
        said=lambda: "the keeper died (SIGKILL), started again",
    )
    assert list(wrong_output(node, [Hit(1.2, 7, NODE, "keeper")], [])) == []
    node.process.returncode, node.said = 1, lambda: "workerbee.errors.DatabaseError: gone"
    assert list(wrong_output(node, [], [Disturbance("restart", EVERYBODY, 0.5, 1.5)])) == []
    assert list(wrong_output(node, [], [Disturbance("restart", EVERYBODY, 3.0, 4.0)])) != []


def test_a_journal_tells_what_attempts_became(tmp_path):
    journal = Journal(tmp_path / "journal")
    for name, how in {"x": RETURNED, "y": None}.items():
        journal.write("start", job=f"1/{name}", pid=BEE, node=NODE, attempt=name, held_by=0)
        if how:
            journal.write("end", attempt=name, how=how)
    attempts = attempts_of(list(journal.lines()))
    assert [(a.job_id, a.how, a.ended is None) for a in attempts] == [("1/x", RETURNED, False), ("1/y", None, True)]
